"""Augmentation policies as tables: how much of which operation an image may get, and how likely that is.

A row of a table is what one image gets: one operation of TrivialAugment, two in sequence of AutoAugment.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

# Each is measured so that 0 leaves the image as it is. The first nine may also be negative.
OPERATIONS = (
    "shear_x", "shear_y",  # pixels a pixel
    "translate_x", "translate_y",  # pixels
    "rotate",  # radians
    "brightness", "color", "contrast", "sharpness",  # added to a factor of 1
    "posterize",  # distance between the values that are left, less 1
    "solarize",  # how many of the 256 values are inverted, from the brightest down
    "autocontrast", "equalize", "invert",  # 1: yes
)  # fmt: skip
SIGNED = OPERATIONS[:9]
ENHANCE = ("brightness", "color", "contrast", "sharpness")


class Policy(NamedTuple):
    """Rows, of which an image gets one, each as likely as any other.

    Attributes:
        amounts: float32 [rows, stages, operations].
        probability: float32 [rows, stages], that the operation is done at all.
    """

    amounts: Tensor
    probability: Tensor


Stage = tuple[str, float, float]  # operation, probability, level in [0, 1]


def build_policy(name: str, *, image_size: int) -> Policy:
    """The table of ``trivial`` or ``autoaugment``, with a row for each sign that its operations can take."""
    rows, widest = trivial_augment() if name == "trivial" else autoaugment_cifar10(image_size)
    amounts, probabilities = [], []
    for row in rows:
        for signs in itertools.product((-1, 1), repeat=len(row)):
            amounts.append([one(stage, widest, sign) for stage, sign in zip(row, signs, strict=True)])
            probabilities.append([probability for _, probability, _ in row])
    return Policy(torch.tensor(amounts), torch.tensor(probabilities))


def one(stage: Stage, widest: dict[str, float], sign: int) -> list[float]:
    """The amounts of a stage: of one operation, or of none."""
    operation, _, level = stage
    amounts = dict.fromkeys(OPERATIONS, 0.0)
    if operation != "identity":
        amounts[operation] = amount(operation, level, widest) * (sign if operation in SIGNED else 1)
    return list(amounts.values())


def amount(operation: str, level: float, widest: dict[str, float]) -> float:
    if operation in ("autocontrast", "equalize", "invert"):
        return 1.0
    if operation == "solarize":
        return 1 + 255 * level
    if operation == "posterize":
        return 2.0 ** round(level * widest["posterize"]) - 1
    most = level * widest[operation]
    return float(math.trunc(most)) if operation.startswith("translate") else most


def trivial_augment() -> tuple[list[list[Stage]], dict[str, float]]:
    """One operation at one of 31 levels (Müller & Hutter, 2021, https://arxiv.org/abs/2103.10158), in its wide space.

    Returns:
        The rows, and how much of each operation level 1 is; ``posterize`` in bits.
    """
    widest = {"shear_x": 0.99, "shear_y": 0.99, "translate_x": 32, "translate_y": 32, "rotate": math.radians(135)}
    widest |= dict.fromkeys(ENHANCE, 0.99) | {"posterize": 6}
    operations = ["identity", *(operation for operation in OPERATIONS if operation != "invert")]
    return [[(operation, 1.0, level / 30)] for operation in operations for level in range(31)], widest


def autoaugment_cifar10(image_size: int) -> tuple[list[list[Stage]], dict[str, float]]:
    """The 25 pairs of operations found on CIFAR-10 (Cubuk et al., 2019, https://arxiv.org/abs/1805.09501).

    As in torchvision, which also draws a sign for the last four of ``SIGNED``.

    Returns:
        The rows, and how much of each operation level 1 is; ``posterize`` in bits.
    """
    move = 150 / 331 * image_size
    widest = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": move, "translate_y": move, "rotate": math.radians(30)}
    widest |= dict.fromkeys(ENHANCE, 0.9) | {"posterize": 4}
    pairs = """
        invert 0.1 0, contrast 0.2 6
        rotate 0.7 2, translate_x 0.3 9
        sharpness 0.8 1, sharpness 0.9 3
        shear_y 0.5 8, translate_y 0.7 9
        autocontrast 0.5 0, equalize 0.9 0
        shear_y 0.2 7, posterize 0.3 7
        color 0.4 3, brightness 0.6 7
        sharpness 0.3 9, brightness 0.7 9
        equalize 0.6 0, equalize 0.5 0
        contrast 0.6 7, sharpness 0.6 5
        color 0.7 7, translate_x 0.5 8
        equalize 0.3 0, autocontrast 0.4 0
        translate_y 0.4 3, sharpness 0.2 6
        brightness 0.9 6, color 0.2 8
        solarize 0.5 2, invert 0.0 0
        equalize 0.2 0, autocontrast 0.6 0
        equalize 0.2 0, equalize 0.6 0
        color 0.9 9, equalize 0.6 0
        autocontrast 0.8 0, solarize 0.2 8
        brightness 0.1 3, color 0.7 0
        solarize 0.4 5, autocontrast 0.9 0
        translate_y 0.9 9, translate_y 0.7 9
        autocontrast 0.9 0, solarize 0.8 3
        equalize 0.8 0, invert 0.1 0
        translate_y 0.7 9, autocontrast 0.9 0
    """  # operation, its probability, its level out of 9
    rows = []
    for line in pairs.strip().splitlines():
        stages = (stage.split() for stage in line.split(","))
        rows.append([(name, float(probability), int(level) / 9) for name, probability, level in stages])
    return rows, widest


def named(amounts: Tensor) -> dict[str, Tensor]:
    """Amounts [b, operations] by operation, each [b]."""
    return dict(zip(OPERATIONS, amounts.unbind(dim=-1), strict=True))
