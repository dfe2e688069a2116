"""The colours of a policy: what becomes of each pixel's value, for a whole batch, whatever each image gets.

Most operations are a map from the 256 values of a channel to others: maps are made and looked up. Two blend the
image with another one made of it. All are those of torchvision's ``functional``, within rounding.

Axes: ``b`` batch, ``c`` channels, ``h w`` pixels, ``v`` the 256 values.
"""

import torch
from torch import Tensor

from vit_cnn.training.policy import named


def recolour(images: Tensor, amounts: Tensor) -> Tensor:
    """Do one operation to the colours of each image.

    Args:
        images: float [b, c, h, w], whole numbers in [0, 255], as is what is returned.
        amounts: [b, operations], at most one of which is not 0.
    """
    amount = {name: each[:, None, None] for name, each in named(amounts).items()}
    grey = images
    if images.shape[1] == 3:
        red, green, blue = images.split(1, dim=1)
        grey = (0.2989 * red + 0.587 * green + 0.114 * blue).floor()
    pixels = images.flatten(2).long()
    maps = value_maps(pixels, amount, average=grey.mean(dim=(2, 3))[..., None])
    images = maps.gather(2, pixels).view_as(images)
    sharpness = amount["sharpness"][..., None]
    other = torch.where(sharpness == 0, grey, blurred(images))
    return blend(images, other, 1 + amount["color"][..., None] + sharpness)


def blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """From ``others`` (factor 0) over ``images`` (1) to beyond them, in whole numbers."""
    return (others + factor * (images - others)).clamp(0, 255).floor()


def blurred(images: Tensor) -> Tensor:
    """Means over 3×3 pixels, the middle one five times, as PIL smooths; the border stays."""
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    boxes = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = ((boxes + 4 * images[..., 1:-1, 1:-1]) / 13).round()
    return smooth


def value_maps(pixels: Tensor, amount: dict[str, Tensor], *, average: Tensor) -> Tensor:
    """What becomes of each value in each channel [b, c, v], in whole numbers.

    Args:
        pixels: int64 [b, c, h·w].
        amount: of each operation, [b, 1, 1].
        average: mean of the grey image, [b, 1, 1].
    """
    values = torch.arange(256.0, device=pixels.device)
    low, high = pixels.amin(dim=2, keepdim=True), pixels.amax(dim=2, keepdim=True)
    stretched = (amount["autocontrast"] > 0) & (low < high)
    start = torch.where(stretched, low, 0)
    stretch = torch.where(stretched, 255 / (high - low).clamp(min=1), 1)
    factor = stretch * (1 + amount["brightness"]) * (1 + amount["contrast"]) * (1 - 2 * amount["invert"])
    maps = (values - start) * factor - amount["contrast"] * average + 255 * amount["invert"]
    maps = maps.clamp(0, 255).floor()
    step = 1 + amount["posterize"]
    maps = (maps / step).floor() * step
    maps = torch.where(maps >= 256 - amount["solarize"], 255 - maps, maps)
    return torch.where(amount["equalize"] > 0, equalizing_maps(pixels, high), maps)


def equalizing_maps(pixels: Tensor, high: Tensor) -> Tensor:
    """Maps [b, c, v] after which all values are about equally frequent, as PIL makes them.

    Args:
        pixels: int64 [b, c, h·w].
        high: the largest value of each channel, [b, c, 1].
    """
    b, c, number = pixels.shape
    one = torch.ones((), device=pixels.device)
    counts = torch.zeros(b, c, 256, device=pixels.device).scatter_add_(2, pixels, one.expand_as(pixels))
    below = counts.cumsum(dim=2) - counts
    step = ((number - counts.gather(2, high)) / 255).floor()  # PIL leaves the largest value out
    maps = ((below + (step / 2).floor()) / step.clamp(min=1)).floor().clamp(max=255)
    return torch.where(step > 0, maps, torch.arange(256.0, device=pixels.device))
