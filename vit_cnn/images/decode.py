"""One image file → one uint8 array: any common format, colour mode and size. Does not import torch."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vit_cnn.arrays import Array
from vit_cnn.errors import shown

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def decode(content: bytes, *, image_size: int, num_channels: int, fit: str) -> Array:
    """Decode the bytes of an image file, upright as its EXIF data say; of an animation the first frame.

    Args:
        image_size: side of the result in pixels; resized with antialiasing.
        num_channels: 1 for grey, 3 for RGB.
        fit: ``crop`` cuts the largest square from the centre, ``squash`` changes the aspect ratio.

    Returns:
        uint8 [num_channels, image_size, image_size].

    Raises:
        Exception: Pillow's decoders raise many kinds for a damaged or hostile file; the caller names it.
    """
    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (2 * image_size, 2 * image_size))  # lets a large JPEG be decoded at a fraction of its size
        ImageOps.exif_transpose(image, in_place=True)
        pixels = plain(image).convert("L" if num_channels == 1 else "RGB")
    if pixels.size != (image_size, image_size):
        box = (image_size, image_size)
        resample = Image.Resampling.BICUBIC
        pixels = ImageOps.fit(pixels, box, resample) if fit == "crop" else pixels.resize(box, resample)
    return np.asarray(pixels).reshape(image_size, image_size, num_channels).transpose(2, 0, 1)


def plain(image: Image.Image) -> Image.Image:
    """Eight bits a channel and nothing transparent: what Pillow's ``convert`` would clip or colour at random."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's convert clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def why_unreadable(path: str | Path, content: bytes, error: Exception) -> str:
    """The file and what is wrong with it, in a line."""
    if isinstance(error, UnidentifiedImageError):
        reason = "it is not an image that Pillow knows" if content else "it is empty"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return f"{shown(path)} cannot be read as an image: {reason}"
