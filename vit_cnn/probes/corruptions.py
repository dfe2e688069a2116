"""Corruptions in the manner of CIFAR-10-C, made here: its parameters, but NumPy, SciPy and Pillow instead of its
libraries.

So the images are not those of the benchmark, and figures must not be set beside published ones; fog, snow and frost,
which need other libraries and pictures, are left out: brightness is all that remains of the weather. Motion blur
follows whole pixels. The elastic transformation and the affine one before it are done in one interpolation.

Each takes images float [n, h, w, 3] in [0, 1], a severity from 0 to 4 and a random generator, and returns such
images.

Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
2019, https://arxiv.org/abs/1903.12261, and the parameters of ``make_cifar_c.py`` in
https://github.com/hendrycks/robustness.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from vit_cnn.arrays import Array

Random = np.random.Generator


def gaussian_noise(x: Array, severity: int, random: Random) -> Array:
    return x + random.normal(scale=[0.04, 0.06, 0.08, 0.09, 0.10][severity], size=x.shape)


def shot_noise(x: Array, severity: int, random: Random) -> Array:
    photons = [500, 250, 100, 75, 50][severity]
    return random.poisson(x * photons) / photons


def impulse_noise(x: Array, severity: int, random: Random) -> Array:
    amount, drawn = [0.01, 0.02, 0.03, 0.05, 0.07][severity], random.random(x.shape)
    return np.where(drawn < amount, drawn < amount / 2, x)


def defocus_blur(x: Array, severity: int, random: Random) -> Array:
    radius, sigma = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][severity]
    places = np.arange(-2, 3)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(float)
    bell = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(bell, bell) / bell.sum() ** 2, mode="constant")
    return ndimage.convolve(x, kernel[None, :, :, None], mode="mirror")


def glass_blur(x: Array, severity: int, random: Random) -> Array:
    sigma, times = [(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)][severity]
    x, every = blurred(x, sigma), np.arange(len(x))
    for _ in range(times):
        for row in range(x.shape[1] - 1, 1, -1):
            for column in range(x.shape[2] - 1, 1, -1):
                up, left = random.integers(0, 2, (2, len(x)))
                x[:, row, column] = x[every, row - up, column - left]  # the original's swap copies, too
    return blurred(x, sigma)


def blurred(x: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest")


def motion_blur(x: Array, severity: int, random: Random) -> Array:
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][severity]
    (n, h, w, _), angle = x.shape, np.deg2rad(random.uniform(-45, 45, len(x)))
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    total = np.zeros_like(x)
    for step, weight in enumerate(weights / weights.sum()):
        rows = np.clip(np.arange(h) + np.rint(step * np.sin(angle)).astype(int)[:, None], 0, h - 1)
        columns = np.clip(np.arange(w) + np.rint(step * np.cos(angle)).astype(int)[:, None], 0, w - 1)
        total += weight * x[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return total


def zoom_blur(x: Array, severity: int, random: Random) -> Array:
    factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][severity], 0.01)
    size = x.shape[1]
    total = x.copy()
    for factor in factors:
        inner = math.ceil(size / factor)
        first = (size - inner) // 2
        large = ndimage.zoom(x[:, first : first + inner, first : first + inner], (1, factor, factor, 1), order=1)
        cut = (large.shape[1] - size) // 2
        total += large[:, cut : cut + size, cut : cut + size]
    return total / (len(factors) + 1)


def brightness(x: Array, severity: int, random: Random) -> Array:
    hsv = rgb_to_hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + [0.05, 0.1, 0.15, 0.2, 0.3][severity], 0, 1)
    return hsv_to_rgb(hsv)


def contrast(x: Array, severity: int, random: Random) -> Array:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * [0.75, 0.5, 0.4, 0.3, 0.15][severity] + mean


def elastic_transform(x: Array, severity: int, random: Random) -> Array:
    strengths = [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)]
    size = x.shape[1]
    far, sigma, corner = size * np.array(strengths[severity])
    low, high = size // 2 - size // 3, size // 2 + size // 3
    corners = np.array([(high, high, 1), (high, low, 1), (low, low, 1)], dtype=float)
    grid = np.stack([*np.mgrid[:size, :size], np.ones((size, size))], axis=-1)
    result = np.empty_like(x)
    for number, image in enumerate(x):
        affine = np.linalg.solve(corners, corners[:, :2] + random.uniform(-corner, corner, (3, 2)))
        drawn = random.uniform(-1, 1, (2, size, size))
        field = far * ndimage.gaussian_filter(drawn, (0, sigma, sigma), mode="reflect", truncate=3)
        places = np.moveaxis(grid @ affine, -1, 0) + field
        for channel in range(3):
            values = ndimage.map_coordinates(image[..., channel], places, order=1, mode="mirror")
            result[number, ..., channel] = values
    return result


def pixelate(x: Array, severity: int, random: Random) -> Array:
    size = x.shape[1]
    small = int(size * [0.95, 0.9, 0.85, 0.75, 0.65][severity])

    def coarse(image: Image.Image) -> Image.Image:
        resized = image.resize((small, small), Image.Resampling.BOX)
        return resized.resize((size, size), Image.Resampling.BOX)

    return by_pillow(x, coarse)


def jpeg_compression(x: Array, severity: int, random: Random) -> Array:
    def stored(image: Image.Image) -> Image.Image:
        image.save(file := io.BytesIO(), "JPEG", quality=[80, 65, 58, 50, 40][severity])
        return Image.open(file)

    return by_pillow(x, stored)


def by_pillow(x: Array, change: Callable[[Image.Image], Image.Image]) -> Array:
    return np.stack([np.asarray(change(Image.fromarray(np.rint(255 * image).astype(np.uint8)))) for image in x]) / 255


FAMILIES: dict[str, dict[str, Callable[[Array, int, Random], Array]]] = {
    "noise": {"gaussian_noise": gaussian_noise, "shot_noise": shot_noise, "impulse_noise": impulse_noise},
    "blur": {
        "defocus_blur": defocus_blur,
        "glass_blur": glass_blur,
        "motion_blur": motion_blur,
        "zoom_blur": zoom_blur,
    },
    "brightness": {"brightness": brightness},  # elsewhere of the weather family, with fog, snow and frost
    "digital": {
        "contrast": contrast,
        "elastic_transform": elastic_transform,
        "pixelate": pixelate,
        "jpeg_compression": jpeg_compression,
    },
}
