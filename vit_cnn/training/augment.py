"""Augmentation of whole batches on their device: each image draws its own numbers, no loop over images.

Axes: ``b`` batch, ``c`` channels, ``h w`` pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_cnn.config.schema import Augment


def augment(images: Tensor, recipe: Augment, generator: torch.Generator) -> Tensor:
    """Apply what ``recipe`` asks for to float images [b, c, h, w].

    Args:
        generator: source of every random number, on the device of the images.
    """
    if recipe.crop_scale is not None:
        images = random_resized_crop(images, recipe.crop_scale, recipe.crop_ratio, generator)
    if recipe.crop_padding:
        images = random_padded_crop(images, recipe.crop_padding, generator)
    if recipe.flip:
        images = random_flip(images, generator)
    return images


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    flip = torch.rand(len(images), 1, 1, 1, device=images.device, generator=generator) < 0.5
    return torch.where(flip, images.flip(-1), images)


def random_padded_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to ``padding`` pixels either way; its own reflection fills the border."""
    b, c, h, w = images.shape
    padded = F.pad(images, (padding,) * 4, mode="reflect")
    shift = torch.randint(0, 2 * padding + 1, (2, b, 1), device=images.device, generator=generator)
    rows = shift[0] + torch.arange(h, device=images.device)
    columns = shift[1] + torch.arange(w, device=images.device)
    batch = torch.arange(b, device=images.device)
    return padded[
        batch[:, None, None, None],
        torch.arange(c, device=images.device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def random_resized_crop(images: Tensor, scale: list[float], ratio: list[float], generator: torch.Generator) -> Tensor:
    """Cut a rectangle from each image and stretch it to the old size, bilinearly (Szegedy et al., 2014, GoogLeNet).

    Args:
        scale: smallest and largest share of the area, drawn uniformly.
        ratio: smallest and largest width / height, drawn uniformly on a logarithmic scale. A rectangle that would
            stick out is narrowed to the image.
    """
    b = len(images)
    area, log_ratio, x, y = torch.rand(4, b, device=images.device, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * area
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * log_ratio)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    # In affine_grid's coordinates the image spans [-1, 1], so a window of half-width `width` may move 1 - width.
    theta = torch.zeros(b, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = (2 * x - 1) * (1 - width), (2 * y - 1) * (1 - height)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
