"""Under what the networks are tried by ``corruption``: corruptions made here, CIFAR-10-C and CIFAR-10.1."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vit_cnn.arrays import Array
from vit_cnn.data import evenly
from vit_cnn.errors import Refused, first_line
from vit_cnn.probes.corruptions import FAMILIES
from vit_cnn.probes.subjects import Images

SEVERITIES = 5
LEFT_OUT = {"fog": "weather", "snow": "weather", "frost": "weather"}  # of those that are made here


@dataclasses.dataclass(frozen=True)
class Condition:
    """One corruption at one severity.

    Attributes:
        severity: from 1 to 5; 0 for CIFAR-10.1.
        labels: [n].
        make: gives the images, uint8 [n, c, h, w].
    """

    family: str
    name: str
    severity: int
    source: str
    labels: Array
    make: Callable[[], Tensor]

    def describe(self) -> dict[str, Any]:
        return {"family": self.family, "corruption": self.name, "severity": self.severity, "source": self.source}


def made_here(images: Images) -> list[Condition]:
    return [
        Condition(family, name, severity, "made here", images.labels, make)
        for family, corruptions in FAMILIES.items()
        for name in corruptions
        for severity in range(1, SEVERITIES + 1)
        for make in [functools.partial(corrupted, images.pixels, family, name, severity)]
    ]


def corrupted(pixels: Tensor, family: str, name: str, severity: int) -> Tensor:
    """uint8 images [n, c, h, w], grey or in colour, corrupted; severity from 1 to 5. The same noise each time."""
    colour = rearrange(pixels.expand(-1, 3, -1, -1).double().numpy() / 255, "n c h w -> n h w c")
    result = np.clip(FAMILIES[family][name](colour, severity - 1, np.random.default_rng(severity)), 0, 1)
    cut = (255 * result + 1e-6).astype(np.uint8)  # not rounded, as in CIFAR-10-C
    return channels_first(cut)[:, : pixels.shape[1]]


def cifar10_c(n: int) -> list[Condition]:
    """``n`` images of each of the benchmark's files that lie in $VIT_CNN_DATA/CIFAR-10-C."""
    folder = data_folder() / "CIFAR-10-C"
    family_of = {name: family for family, corruptions in FAMILIES.items() for name in corruptions} | LEFT_OUT
    conditions = []
    for name, family in family_of.items():
        if (path := folder / f"{name}.npy").exists():
            labels = stored(folder / "labels.npy")
            for severity, part in enumerate(np.split(np.arange(len(labels)), SEVERITIES), start=1):
                chosen = part[evenly(len(part), n).numpy()]
                make = functools.partial(read, path, chosen)
                conditions.append(Condition(family, name, severity, "CIFAR-10-C", labels[chosen], make))
    return conditions


def cifar10_1(n: int) -> list[Condition]:
    """``n`` of the 2,000 images of CIFAR-10.1; none where there are fewer, or where its files are not here."""
    path = data_folder() / "cifar10.1_v6_data.npy"
    if not path.exists() or len(labels := stored(data_folder() / "cifar10.1_v6_labels.npy")) < n:
        return []
    chosen = evenly(len(labels), n).numpy()
    make = functools.partial(read, path, chosen)
    return [Condition("new images", "none", 0, "CIFAR-10.1", labels[chosen], make)]


def data_folder() -> Path:
    return Path(os.environ.get("VIT_CNN_DATA", "data"))


def read(path: Path, chosen: Array) -> Tensor:
    return channels_first(stored(path)[chosen])


def stored(path: Path) -> Array:
    """The array in a file of a benchmark.

    Raises:
        Refused: the file is missing, or damaged.
    """
    try:
        found: Array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise Refused(f"{path} cannot be read: {first_line(error)}") from error
    return found


def channels_first(images: Array) -> Tensor:
    return rearrange(torch.from_numpy(images), "n h w c -> n c h w")
