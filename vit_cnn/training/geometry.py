"""Where the pixels of an augmented image come from: crops, flips, and the geometry of a policy.

Axes: ``b`` batch, ``c`` channels, ``h w`` pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_cnn.config.schema import Augment
from vit_cnn.training.policy import named


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Turn images [b, c, h, w] left to right where ``mirrored`` [b]."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def padded_crop(images: Tensor, shift: Tensor, padding: int) -> Tensor:
    """Shift each image by up to ``padding`` pixels either way; its own reflection fills the border.

    Args:
        shift: whole numbers [b, 2], rows and columns, from 0 to twice the padding.
    """
    b, c, h, w = images.shape
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    rows = shift[:, :1] + torch.arange(h, device=images.device)
    columns = shift[:, 1:] + torch.arange(w, device=images.device)
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
        drawn: numbers [b, 4] in [0, 1), for ``windows``.
    """
    width, height, x, y = windows(drawn, scale, ratio)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = x, y
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def windows(drawn: Tensor, scale: list[float], ratio: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rectangles within the image: their ``extents``, and their centres, in [-1, 1] from edge to edge; each [b].

    Args:
        drawn: numbers [b, 4] in [0, 1).
    """
    area, log_ratio, x, y = drawn.unbind(dim=1)
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


def move(images: Tensor, draws: dict[str, Tensor], augment: Augment) -> Tensor:
    """Crop, mirror and then shear, translate or rotate each image: one grid of points, sampled once.

    A policy moves pixels to whole places (the nearest), and leaves black what it uncovers, as torchvision does; what a
    crop uncovers is reflected, as everywhere here. Two moves of one policy are composed, so that the second does
    not round what the first has rounded. A resized crop has to interpolate, and everything with it.

    Args:
        images: float [b, c, h, w].
        draws: ``amounts`` of the policy [b, stages, operations]; ``flip`` [b], ``shift`` [b, 2] and ``window`` [b, 4]
            where there are.
    """
    h, w = images.shape[-2:]
    x = (torch.arange(w, device=images.device) - (w - 1) / 2)[None, None, :]  # from the centre, in pixels
    y = (torch.arange(h, device=images.device) - (h - 1) / 2)[None, :, None]
    covered = torch.ones((), dtype=torch.bool, device=images.device)
    for stage in reversed(draws["amounts"].unbind(dim=1)):  # from where a pixel is to where it was
        amount = {name: each[:, None, None] for name, each in named(stage).items()}
        cosine, sine = amount["rotate"].cos(), amount["rotate"].sin()
        shear_x, shear_y = amount["shear_x"], amount["shear_y"]
        # Shears keep the upper left corner where it is, as PIL's do; rotations keep the centre.
        x, y = (
            cosine * x + (shear_x - sine) * y + shear_x * (h / 2) - amount["translate_x"],
            cosine * y + (shear_y + sine) * x + shear_y * (w / 2) - amount["translate_y"],
        )
        covered = covered & (x.abs() < w / 2) & (y.abs() < h / 2)
    if "flip" in draws:
        x = torch.where(draws["flip"][:, None, None], -x, x)
    if "shift" in draws:
        down, right = (draws["shift"] - augment.crop_padding)[..., None, None].unbind(dim=1)
        x, y = x + right, y + down
    if augment.crop_scale is not None:
        width, height, centre_x, centre_y = (
            each[:, None, None] for each in windows(draws["window"], augment.crop_scale, augment.crop_ratio)
        )
        x, y = x * width + centre_x * (w / 2), y * height + centre_y * (h / 2)
    grid = torch.stack([x / ((w - 1) / 2), y / ((h - 1) / 2)], dim=-1)
    mode = "nearest" if augment.crop_scale is None else "bilinear"
    # With aligned corners a reflection does not repeat the border, as in padded_crop.
    sampled = F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=True)
    return torch.where(covered[:, None], sampled, 0)
