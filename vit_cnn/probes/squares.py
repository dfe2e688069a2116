"""Images cut into squares: shuffled, dropped, occluded.

Each takes float images [b, c, h, w], the side of a square in pixels, which divides theirs, the mean colour [c, 1, 1]
and a generator.
"""

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from torch import Tensor


def shuffled(images: Tensor, size: int, mean: Tensor, generator: torch.Generator) -> Tensor:
    """Squares of images [b, c, h, w] in another order, each image its own."""
    squares = rearrange(images, "b c (h p1) (w p2) -> b (h w) (c p1 p2)", p1=size, p2=size)
    order = torch.rand(squares.shape[:2], generator=generator).argsort(dim=1)
    moved = squares.gather(1, repeat(order, "b n -> b n d", d=squares.shape[2]))
    h = images.shape[-2] // size
    return rearrange(moved, "b (h w) (c p1 p2) -> b c (h p1) (w p2)", h=h, p1=size, p2=size)


def dropped(images: Tensor, size: int, mean: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the squares of each image in the mean colour."""
    b, _, h, w = images.shape
    n = (h // size) * (w // size)
    gone = torch.rand(b, n, generator=generator).argsort(dim=1) < n // 2
    holes = repeat(gone, "b (h w) -> b 1 (h p1) (w p2)", h=h // size, p1=size, p2=size)
    return torch.where(holes, mean, images)


def occluded(images: Tensor, size: int, mean: Tensor, generator: torch.Generator) -> Tensor:
    """One square of each image, at any place, in the mean colour."""
    b, _, h, w = images.shape
    top, left = (torch.randint(side - size + 1, (b, 1), generator=generator) for side in (h, w))
    return covered(images, size, mean, top=top, left=left)


def covered(images: Tensor, size: int, mean: Tensor, *, top: Tensor, left: Tensor) -> Tensor:
    """One square of each image, ``top`` and ``left`` [b, 1] pixels from its corner, in the mean colour."""
    h, w = images.shape[-2:]
    rows, columns = torch.arange(h) - top, torch.arange(w) - left
    rows, columns = (rows >= 0) & (rows < size), (columns >= 0) & (columns < size)
    return torch.where(rearrange(rows, "b h -> b 1 h 1") & rearrange(columns, "b w -> b 1 1 w"), mean, images)


CHANGES: dict[str, Callable[[Tensor, int, Tensor, torch.Generator], Tensor]]
CHANGES = {"shuffled": shuffled, "dropped": dropped, "occluded": occluded}
