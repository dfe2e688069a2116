"""A start of attention that imitates trained networks: Trockman & Kolter, 2023, https://arxiv.org/abs/2305.09828.

In trained Vision Transformers the product of a head's query and key weights looks like a positive multiple of the
identity plus noise (a token looks at tokens like itself), and the product of the value and projection weights like a
negative one. Ordinary starts have neither. The positions begin as sines, alike where patches are near: with random ones
a token would be like no other, and look at itself.

Axes: ``d`` output width, ``e`` input width; both are the width of a token.
"""

import torch
from einops import rearrange, repeat
from torch import Tensor, nn


@torch.no_grad()
def mimetic_(to_qkv: nn.Linear, project: nn.Linear, *, num_heads: int) -> None:
    """Set the weights of an attention layer in place; biases stay as they are.

    Args:
        to_qkv: from tokens to queries, keys and values, in this order: weight [3 d, e].
        project: from the mixed values of all heads to tokens: weight [d, e].
    """
    width = project.weight.shape[0]
    q, k, v = rearrange(to_qkv.weight, "(qkv d) e -> qkv d e", qkv=3)
    for head_q, head_k in zip(q.chunk(num_heads), k.chunk(num_heads), strict=True):
        left, right = factors(0.7 * noise(to_qkv.weight) + 0.7 * torch.eye(width), rank=len(head_q))
        head_q.copy_(left.T)
        head_k.copy_(right)
    left, right = factors(0.4 * noise(to_qkv.weight) - 0.4 * torch.eye(width), rank=width)
    v.copy_(right)  # a token x becomes left right x
    project.weight.copy_(left)


def sines(side: int, width: int) -> Tensor:
    """Positions [side · side, width] of a square of patches, alike where patches are near.

    Sines and cosines of column and row at frequencies from 1 to 1/10,000, as in SimpleViT (Beyer et al., 2022,
    https://arxiv.org/abs/2205.01580); ``width`` is a multiple of 4.
    """
    frequencies = 10_000.0 ** -torch.linspace(0, 1, width // 4)
    angles = torch.outer(torch.arange(float(side)), frequencies)
    row, column = repeat(angles, "y f -> (y x) f", x=side), repeat(angles, "x f -> (y x) f", y=side)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1)


def noise(like: Tensor) -> Tensor:
    """Normal numbers of variance 1 / e, a square of the width of ``like`` [d, e]."""
    width = like.shape[1]
    return torch.randn(width, width) / width**0.5


def factors(matrix: Tensor, *, rank: int) -> tuple[Tensor, Tensor]:
    """Left [e, rank] and right [rank, e], whose product is the closest to ``matrix`` [e, e] of that rank."""
    u, s, v = torch.linalg.svd(matrix)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]
