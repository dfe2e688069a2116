"""The images that most of some runs get wrong."""

import logging

import numpy as np
import torch
from matplotlib.figure import SubFigure

from vit_cnn.arrays import Array
from vit_cnn.data import evenly
from vit_cnn.errors import Refused
from vit_cnn.run.pictures import from_unit
from vit_cnn.run.reading import Run
from vit_cnn.run.trained import load_images

log = logging.getLogger(__name__)
ROWS, COLUMNS = 2, 4


def draw_hardest(part: SubFigure, runs: list[Run], rights: list[Array], logits: list[Array], split: str) -> None:
    """Show them, and what most of those that are wrong take them for; only a warning where they are not at hand.

    Args:
        part: of a figure.
        rights: for each run, whether it is right about each image of the split [n].
        logits: for each run [n, classes].
    """
    try:
        data = load_images(runs[0])
    except Refused as error:
        log.warning("Without the hardest images: %s", error)
        return
    labels = getattr(data, split).labels
    guesses = np.stack(logits).argmax(axis=2)
    part.suptitle(f"Hardest images, by how many of {len(runs)} runs are wrong", fontsize=10)
    chosen = hardest(len(runs) - np.sum(rights, axis=0), ROWS * COLUMNS)
    images = from_unit(getattr(data, split).images[torch.from_numpy(chosen)] / 255)
    panels = part.subplots(ROWS, COLUMNS).ravel()
    is_wrong = ~np.stack(rights).astype(bool)
    for panel in panels:
        panel.axis("off")
    for panel, place, image in zip(panels, chosen, images, strict=False):
        truth, said = labels[place], mistake(guesses[:, place], is_wrong[:, place])
        panel.imshow(image)
        panel.set_title(f"{data.classes[truth]},\ntaken for {data.classes[said]}", fontsize=8)


def mistake(guesses: Array, is_wrong: Array) -> int:
    """The label that most of the runs that are wrong about an image give it; both arrays are over the runs."""
    return int(np.bincount(guesses[is_wrong]).argmax())


def hardest(wrong: Array, most: int) -> Array:
    """Places of images that most runs get wrong, none that all get right; equally hard ones are from all over the list.

    Args:
        wrong: for each image, how many runs are wrong about it.
    """
    limit = max(1, np.sort(wrong)[-most:][0])
    harder, equal = np.flatnonzero(wrong > limit), np.flatnonzero(wrong == limit)
    found: Array = np.concatenate([harder, equal[evenly(len(equal), most - len(harder)).numpy()]])
    return found
