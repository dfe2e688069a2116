"""Small pictures as arrays: what the network sees, where it looks, what its first layer looks for.

Pictures are uint8 [h, w, 3], ready for ``PIL.Image.fromarray``, matplotlib or W&B.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from vit_cnn.models import ViT

Picture = np.ndarray[Any, Any]

HEADING = 24  # pixels of a line of text


def from_normalised(images: Tensor, mean: Tensor, std: Tensor) -> list[Picture]:
    """Normalised images [b, c, h, w], as the network sees them, in the colours that people see."""
    return from_unit(images * std[:, None, None] + mean[:, None, None])


def from_unit(images: Tensor) -> list[Picture]:
    """Images [b, c, h, w] in [0, 1], grey or RGB."""
    pixels = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    if pixels.shape[1] == 1:
        pixels = repeat(pixels, "b 1 h w -> b c h w", c=3)
    return list(rearrange(pixels, "b c h w -> b h w c").numpy())


def tile(pictures: list[Picture], *, columns: int, gap: int = 2) -> Picture:
    """Pictures of one size in rows of ``columns``, on white, ``gap`` pixels apart."""
    h, w, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, dtype=np.uint8)
    for position, picture in enumerate(pictures):
        y, x = position // columns * (h + gap), position % columns * (w + gap)
        canvas[y : y + h, x : x + w] = picture
    return canvas


def with_headings(picture: Picture, headings: list[str]) -> Picture:
    """A picture of equal columns, with a line of text above: a heading over each column."""
    strip = Image.new("RGB", (picture.shape[1], HEADING), "white")
    draw = ImageDraw.Draw(strip)
    width = picture.shape[1] / len(headings)
    for column, heading in enumerate(headings):
        place = (column + 0.5) * width, HEADING / 2
        draw.text(place, heading, fill="#1d2733", anchor="mm", font=ImageFont.load_default(size=14))
    return np.concatenate([np.asarray(strip), picture])


def enlarge(picture: Picture, factor: int) -> Picture:
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def spotlight(picture: Picture, attention: Tensor) -> Picture:
    """The picture in grey, under ``attention`` [patches high, patches wide] from black (none) to yellow (its largest).

    The colours lie over the picture: darkening it alone would hide attention to what is dark already.
    """
    from matplotlib import colormaps  # here, since training without pictures does without

    h, w, _ = picture.shape
    light = F.interpolate(attention[None, None].float().cpu(), size=(h, w), mode="bicubic", align_corners=False)
    light = rearrange(light / light.max().clamp(min=1e-12), "1 1 h w -> h w").clamp(0, 1)
    colours = 255 * colormaps["inferno"](light.numpy())[:, :, :3]
    return (0.4 * picture.mean(axis=2, keepdims=True) + 0.6 * colours).astype(np.uint8)


def first_layer_filters(model: nn.Module) -> list[Picture] | None:
    """Weights of the layer that sees the pixels, a picture each: the ViT's patch embedding or the first convolution.

    All share one scale, on which grey is 0. ``None`` for a network that begins otherwise, or with other than 1 or 3
    channels.
    """
    if isinstance(model, ViT):
        p = model.patch_size
        weights = rearrange(model.embed_patches.weight, "d (c p1 p2) -> d c p1 p2", p1=p, p2=p)
    else:
        first = next((module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))), None)
        if not isinstance(first, nn.Conv2d):
            return None
        weights = first.weight
    weights = weights.detach()
    if weights.shape[1] not in (1, 3):
        return None
    return from_unit(0.5 + weights / (2 * weights.abs().quantile(0.99)))
