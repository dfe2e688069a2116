"""What attention maps say. They come from ``ViT.attention_maps``: [b, layers, heads, n, n], CLS first.

Axes: ``b`` batch, ``h w`` patch grid, ``n`` tokens, ``heads`` attention heads.
"""

import math

import torch
from einops import einsum, rearrange
from torch import Tensor

from vit_cnn.errors import Refused


def side_of(maps: Tensor) -> int:
    """Patches along a side of the image, from maps [b, layers, heads, n, n].

    Raises:
        Refused: the tokens are not CLS and a square of patches, as in a ViT with registers or without CLS.
    """
    n = maps.shape[-1]
    side = math.isqrt(n - 1)
    if side**2 != n - 1:
        raise Refused(f"{n} tokens are not CLS and a square of patches: their attention cannot be laid over an image")
    return side


def cls_attention(maps: Tensor) -> Tensor:
    """How much CLS looks at each patch in the last layer: maps [b, layers, heads, n, n] → [b, heads, h, w]."""
    return rearrange(maps[:, -1, :, 0, 1:], "b heads (h w) -> b heads h w", h=side_of(maps))


def rollout(maps: Tensor) -> Tensor:
    """How much of each patch reached CLS through all layers: maps [b, layers, heads, n, n] → [b, h, w].

    Averages the heads, adds the residual connection as half an identity, multiplies the layers.

    Source: Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, https://arxiv.org/abs/2005.00928.
    """
    layers = maps.mean(dim=2)
    n = layers.shape[-1]
    flow = torch.eye(n, device=maps.device).expand(len(maps), n, n)
    for layer in layers.unbind(dim=1):
        flow = (layer + torch.eye(n, device=maps.device)) / 2 @ flow
    return rearrange(flow[:, 0, 1:], "b (h w) -> b h w", h=side_of(maps))


def mean_distance(maps: Tensor, *, patch_size: int) -> Tensor:
    """How far patches look, in pixels: mean distance between a patch and what it attends to, weighted by attention.

    Source: Dosovitskiy et al., 2021, figure 7. Attention to and from CLS is left out.

    Args:
        maps: [b, layers, heads, n, n].
        patch_size: pixels.

    Returns:
        [layers, heads], mean over images and patches.
    """
    grid = torch.arange(side_of(maps), device=maps.device, dtype=maps.dtype) * patch_size
    centres = torch.cartesian_prod(grid, grid)
    weights = maps[..., 1:, 1:]
    weights = weights / weights.sum(dim=-1, keepdim=True)
    distances = einsum(weights, torch.cdist(centres, centres), "b layers heads q n, q n -> b layers heads q")
    return distances.mean(dim=(0, 3))
