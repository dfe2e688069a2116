"""What attention maps say. They come from ``ViT.attention_maps``: [b, layers, heads, n, n], CLS first.

Axes: ``b`` batch, ``h w`` patch grid, ``n`` tokens, ``heads`` attention heads.
"""

import math

import torch
from einops import rearrange
from torch import Tensor


def cls_attention(maps: Tensor) -> Tensor:
    """How much CLS looks at each patch in the last layer: maps [b, layers, heads, n, n] → [b, heads, h, w]."""
    side = math.isqrt(maps.shape[-1] - 1)
    return rearrange(maps[:, -1, :, 0, 1:], "b heads (h w) -> b heads h w", h=side)


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
    side = math.isqrt(n - 1)
    return rearrange(flow[:, 0, 1:], "b (h w) -> b h w", h=side)
