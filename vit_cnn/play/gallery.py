"""Images of the data set, and which network is right about which of them."""

import dataclasses

import numpy as np
from torch import Tensor

from vit_cnn.data import Dataset, Split
from vit_cnn.errors import Refused
from vit_cnn.play.contenders import Contender, Found
from vit_cnn.report import results
from vit_cnn.run.trained import load_images


@dataclasses.dataclass(frozen=True)
class Shown:
    """The image on the page.

    Attributes:
        pixels: uint8 [1, c, h, w].
        name: what it is, in words.
        label: its class; ``None`` where nobody knows.
        place: in the gallery; ``None`` for one's own image.
    """

    pixels: Tensor
    name: str
    label: int | None = None
    place: int | None = None


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images of one split of the data set.

    Attributes:
        right: for each network, which images it gets right, bool [n]; empty where a run has not said yet.
        why_not: why ``right`` is empty, in words.
    """

    data: Dataset
    split: str
    right: list[np.ndarray]
    why_not: str = ""

    @property
    def images(self) -> Split:
        split: Split = getattr(self.data, self.split)
        return split

    def show(self, place: int) -> Shown:
        """The image at a place, counted from 0; beyond the last it begins again."""
        place %= len(self.images)
        kind = {"val": "validation", "test": "test"}[self.split]
        return Shown(
            self.images.images[place : place + 1], f"{kind} image {place}", int(self.images.labels[place]), place
        )

    def matching(self, wanted: tuple[bool, ...]) -> np.ndarray:
        """Places of the images about which each network is right, or wrong, as ``wanted`` says."""
        if not self.right:
            return np.array([], dtype=int)
        found: np.ndarray = np.flatnonzero(np.all([r == w for r, w in zip(self.right, wanted, strict=True)], axis=0))
        return found

    def next_of(self, wanted: tuple[bool, ...], after: int | None) -> Shown:
        """The next such image, after the last the first again.

        Raises:
            Refused: there is none.
        """
        places = self.matching(wanted)
        if not len(places):
            raise Refused(self.why_not or "There is no such image.")
        later = places[places > (-1 if after is None else after)]
        return self.show(int(later[0] if len(later) else places[0]))


def gallery_of(contenders: list[Contender], split: str) -> Gallery:
    """The images that the runs saw.

    Raises:
        Refused: they are not here, or no run is among the contenders.
    """
    runs = [each.found.run for each in contenders if each.found.run]
    if not runs:
        raise Refused("an export holds no images: bring your own")
    data = load_images(runs[0])
    places = getattr(data, split).indices.numpy()
    try:
        return Gallery(data, split, [right(each.found, split, places) for each in contenders])
    except Refused as error:
        return Gallery(data, split, [], str(error))


def right(found: Found, split: str, indices: np.ndarray) -> np.ndarray:
    """Which images the run got right at its end, bool [n].

    Raises:
        Refused: it is no run, has not ended, or its predictions are damaged or of other images.
    """
    run = found.run
    if run is None:
        raise Refused(f"{found.folder} holds no predictions: it is an export.")
    if not run.result:
        raise Refused(f"{run.folder} has no predictions yet: they come with the end of its training.")
    predictions = run.predictions()
    if not np.array_equal(predictions[f"{split}_indices"], indices):
        raise Refused(f"{run.folder}/predictions.npz is of other images.")
    return results.right(predictions, split)
