"""What a ViT learned of what is near: how far its heads look, and how alike the positions of neighbours are."""

import torch
from einops import rearrange
from torch import Tensor

from vit_cnn.arrays import Array
from vit_cnn.models import ViT
from vit_cnn.models.attention_maps import mean_distance

CHUNK = 50  # images whose attention is in memory at once


@torch.no_grad()
def distances(vit: ViT, images: Tensor) -> Array:
    """How far each head looks for each image, pixels: [layers · heads, n]."""
    found = []
    for chunk in images.split(CHUNK):
        maps = vit.attention_maps(chunk)
        found += [mean_distance(each[None], patch_size=vit.patch_size).flatten().cpu() for each in maps]
    result: Array = torch.stack(found, dim=1).double().numpy()
    return result


def nearness(vit: ViT) -> float:
    """Mean cosine of the positions of neighbouring patches, above that of any two different patches."""
    directions = torch.nn.functional.normalize(vit.positions[1:].detach().cpu(), dim=1)
    side = round(len(directions) ** 0.5)
    grid = rearrange(directions, "(h w) d -> h w d", h=side)
    neighbours = [(grid[1:] * grid[:-1]).sum(dim=-1), (grid[:, 1:] * grid[:, :-1]).sum(dim=-1)]
    alike = directions @ directions.T
    others = (alike.sum() - alike.trace()) / (alike.numel() - len(alike))
    return float(torch.cat([each.flatten() for each in neighbours]).mean() - others)
