"""Where the pixels of an augmented image come from: crops and flips.

Axes: ``b`` batch, ``c`` channels, ``h w`` pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Turn images [b, c, h, w] left to right where ``mirrored`` [b, 1, 1, 1]."""
    return torch.where(mirrored, images.flip(-1), images)


def padded_crop(images: Tensor, shift: Tensor, padding: int) -> Tensor:
    """Shift each image by up to ``padding`` pixels either way; its own reflection fills the border.

    Args:
        shift: whole numbers [2, b, 1], rows and columns, from 0 to twice the padding.
    """
    b, c, h, w = images.shape
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    rows = shift[0] + torch.arange(h, device=images.device)
    columns = shift[1] + torch.arange(w, device=images.device)
    batch = torch.arange(b, device=images.device)
    return padded[
        batch[:, None, None, None],
        torch.arange(c, device=images.device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def resized_crop(images: Tensor, drawn: Tensor, scale: list[float], ratio: list[float]) -> Tensor:
    """Cut a rectangle from each image and stretch it to the old size, bilinearly (Szegedy et al., 2014, GoogLeNet).

    Args:
        drawn: numbers [4, b] in [0, 1), for ``windows``.
    """
    width, height, left, top = windows(drawn, scale, ratio)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = left, top
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def windows(drawn: Tensor, scale: list[float], ratio: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rectangles within the image: their ``extents``, and their centres, in [-1, 1] from edge to edge; each [b].

    Args:
        drawn: numbers [4, b] in [0, 1).
    """
    area, log_ratio, x, y = drawn
    width, height = extents(area, log_ratio, scale, ratio)
    # The image spans [-1, 1], so a window of half-width `width` may move 1 - width.
    return width, height, (2 * x - 1) * (1 - width), (2 * y - 1) * (1 - height)


def extents(area: Tensor, log_ratio: Tensor, scale: list[float], ratio: list[float]) -> tuple[Tensor, Tensor]:
    """Widths and heights [b] of rectangles, as shares of those of the image, from numbers [b] in [0, 1).

    Args:
        scale: smallest and largest share of the area, drawn uniformly.
        ratio: smallest and largest width / height, drawn uniformly on a logarithmic scale. A rectangle that would
            stick out is narrowed to the image.
    """
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * log_ratio)
    return (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
