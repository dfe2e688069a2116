"""What a probe looks at: finished runs, their networks, and some of their images."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vit_cnn.arrays import Array
from vit_cnn.console import console
from vit_cnn.data import evenly
from vit_cnn.errors import Refused
from vit_cnn.report.groups import by_label, check_same_data, label_runs
from vit_cnn.run.reading import Run
from vit_cnn.run.trained import BATCH_SIZE, TrainedRun, load_images, load_run

Groups = dict[str, list[Run]]  # by label; the seeds of each

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Look:
    """How a probe looks.

    Attributes:
        split: ``val`` or ``test``.
        images: at most so many of it.
        device: cpu, cuda or mps.
        trust: packages of networks that are not ours, as in ``config.trust``.
    """

    split: str
    images: int
    device: str
    trust: str = ""


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of one split.

    Attributes:
        pixels: uint8 [n, c, h, w].
        labels: [n].
        mean: [c, 1, 1], the colour, from 0 to 255, that is 0 for the networks.
    """

    pixels: Tensor
    labels: Array
    mean: Tensor


def grouped(runs: list[Run]) -> Groups:
    """Runs by label, each seed once. On which machine they learned what they know does not matter here.

    Raises:
        Refused: one is not finished, or they cannot be compared; names it.
    """
    check_finished(runs)
    check_same_data(runs)
    runs = label_runs(runs, machines=False)
    return by_label(list(once(runs, lambda run: (run.label, run.seed)).values()))


def once(runs: list[Run], key: Callable[[Run], Key]) -> dict[Key, Run]:
    """The first run of each key, which tells settings and seed: repeats are no further observation, and are named."""
    counted: dict[Key, Run] = {}
    for run in runs:
        first = counted.setdefault(key(run), run)
        if first is not run:
            console.print(f"{run.folder} repeats seed {run.seed} of {first.folder} and is not counted.")
    return counted


def check_finished(runs: list[Run]) -> None:
    for run in runs:
        if run.result is None:
            raise Refused(f"{run.folder} cannot be probed: it has no result.json, its status is {run.status}")


def pair_of(groups: Groups) -> tuple[str, str]:
    """The first two labels of different networks, the ViT's first; says so where there are more.

    Raises:
        Refused: there is one network only.
    """
    first = next(iter(groups.values()))[0]
    for label, group in groups.items():
        if group[0].model != first.model:
            if len(groups) > 2:
                console.print(f"Two of these {len(groups)} are set against each other: {first.label} and {label}.")
            return first.label, label
    raise Refused(f"{first.folder}: this probe compares two networks, but all runs are of the {first.model}")


def images_of(run: Run, look: Look) -> Images:
    """Images that the run saw, evenly spread over the split, which may be sorted by class.

    Raises:
        Refused: they are not here.
    """
    data = load_images(run)
    split = getattr(data, look.split)
    chosen = evenly(len(split), look.images)
    pixels, labels = split.images[chosen], split.labels[chosen].numpy()
    return Images(pixels, labels, 255 * data.mean[:, None, None])


def guesses(groups: Groups, variants: Iterable[Tensor], look: Look) -> dict[str, list[Array]]:
    """What every network takes each variant of the images [n, c, h, w] for: for each seed an array [variants, n]."""
    networks = {
        label: [load_run(run.folder, device=look.device, trust=look.trust) for run in group]
        for label, group in groups.items()
    }
    found: dict[str, list[list[Array]]] = {label: [[] for _ in group] for label, group in groups.items()}
    for images in variants:
        for label, group in networks.items():
            for seed, network in enumerate(group):
                found[label][seed].append(classify(network, images))
    return {label: [np.stack(each) for each in seeds] for label, seeds in found.items()}


@torch.no_grad()
def classify(network: TrainedRun, images: Tensor) -> Array:
    """Labels [n] that the network gives images [n, c, h, w] of pixels from 0 to 255."""
    logits = [network.model(network.normalised(batch)) for batch in images.split(BATCH_SIZE)]
    found: Array = torch.cat(logits).argmax(dim=1).cpu().numpy()
    return found
