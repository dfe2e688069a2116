"""What a ViT learned of what is near: how far its heads look, and how alike the positions of neighbours are."""

import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from vit_cnn.arrays import Array
from vit_cnn.models import ViT
from vit_cnn.models.attention_maps import mean_distance
from vit_cnn.probes.intervals import interval
from vit_cnn.report.colours import colours_of

CHUNK = 50  # images whose attention is in memory at once


@torch.no_grad()
def distances(vit: ViT, images: Tensor) -> Array:
    """How far each head looks for each image, pixels: [blocks, heads, n]."""
    found = []
    for chunk in images.split(CHUNK):
        maps = vit.attention_maps(chunk)
        found += [mean_distance(each[None], patch_size=vit.patch_size).cpu() for each in maps]
    result: Array = torch.stack(found, dim=2).double().numpy()
    return result


def uniform_distance(vit: ViT) -> float:
    """How far a head looks that gives every patch the same attention, pixels."""
    return float(mean_distance(torch.ones(1, 1, 1, *[len(vit.positions)] * 2), patch_size=vit.patch_size))


def distances_in_words(label: str, far: Array, uniform: float) -> str:
    """How many heads are local, of ``distances``."""
    local = far.mean(axis=2) < uniform / 2
    nearest = interval(lambda means: means.min(axis=0), [rearrange(far, "blocks heads n -> (blocks heads) n")])
    return (
        f"{label}: {local[0].sum()} of {local.shape[1]} heads of the first block are local, {local.sum()} of all "
        f"{local.size}; the one that looks nearest looks {nearest.number(1)} px far, uniform attention {uniform:.1f}"
    )


def draw_distances(axes: Axes, far: dict[str, Array], uniform: float) -> None:
    """A dot for each head of each block [blocks, heads] of each label, side by side."""
    colours, step = colours_of(list(far)), min(0.16, 0.8 / len(far))
    for place, (label, blocks) in enumerate(far.items()):
        for number, heads in enumerate(blocks, start=1):
            x = number + step * (place - (len(far) - 1) / 2)
            axes.scatter([x] * len(heads), heads, color=colours[label], alpha=0.7, label=label if number == 1 else None)
    axes.axhline(uniform, color="#555", linestyle="--", linewidth=1)
    axes.annotate("uniform attention", (1, uniform), xytext=(0, 4), textcoords="offset points", color="#555")
    axes.set_ylim(0, 1.25 * max(uniform, *(blocks.max() for blocks in far.values())))
    axes.set_xlabel("block")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("mean attention distance, pixels")
    axes.set_title("How far each head looks", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)


def nearness(vit: ViT) -> float:
    """Mean cosine of the positions of neighbouring patches, above that of any two different patches."""
    directions = torch.nn.functional.normalize(vit.positions[1:].detach().cpu(), dim=1)
    side = round(len(directions) ** 0.5)
    grid = rearrange(directions, "(h w) d -> h w d", h=side)
    neighbours = [(grid[1:] * grid[:-1]).sum(dim=-1), (grid[:, 1:] * grid[:, :-1]).sum(dim=-1)]
    alike = directions @ directions.T
    others = (alike.sum() - alike.trace()) / (alike.numel() - len(alike))
    return float(torch.cat([each.flatten() for each in neighbours]).mean() - others)
