"""Random erasing: a rectangle of an image that the network does not get to see."""

import torch
from torch import Tensor

from vit_cnn.training.geometry import extents


def erase(images: Tensor, erased: Tensor, drawn: Tensor, area: list[float], ratio: list[float]) -> Tensor:
    """Set a rectangle of some normalised images [b, c, h, w] to 0, the mean colour.

    Zhong et al., 2020, https://arxiv.org/abs/1708.04896. With an area of [0.25, 0.25] and a ratio of [1, 1] this is the
    cutout of DeVries & Taylor, 2017, https://arxiv.org/abs/1708.04552, save that no square hangs over the border.

    Args:
        erased: which images, bool [b].
        drawn: numbers [b, 4] in [0, 1), for the rectangles: area, ratio, column, row.
        area: smallest and largest share of the image.
        ratio: smallest and largest width / height.
    """
    size, shape, x, y = drawn.unbind(dim=1)
    width, height = extents(size, shape, area, ratio)
    columns, rows = covered(images.shape[-1], width, x), covered(images.shape[-2], height, y)
    inside = rows[:, :, None] & columns[:, None, :] & erased[:, None, None]
    return torch.where(inside[:, None], 0, images)


def covered(size: int, extent: Tensor, where: Tensor) -> Tensor:
    """Which of ``size`` pixels in a line, bool [b, size], an interval of whole pixels covers.

    Args:
        extent: its length [b], as a share of the line.
        where: numbers [b] in [0, 1): its place, among all that it fits in.
    """
    length = (size * extent).round()
    start = (where * (size - length + 1)).floor()[:, None]
    pixels = torch.arange(size, device=extent.device)
    return (pixels >= start) & (pixels < start + length[:, None])
