"""What a network says of an image, and where it looks."""

import dataclasses

import torch
from torch import Tensor

from vit_cnn.play.looks import look
from vit_cnn.run.pictures import Picture, enlarge, from_unit, spotlight
from vit_cnn.run.trained import TrainedRun

SIDE = 256  # pixels of the picture of where a network looks, about


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one network says.

    Attributes:
        probabilities: [classes].
        picture: the image under the map of where the network looks; the image alone where there is none.
        caption: what the picture shows.
    """

    probabilities: list[float]
    picture: Picture
    caption: str

    @property
    def label(self) -> int:
        return likeliest(self.probabilities)


def likeliest(probabilities: list[float]) -> int:
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def answer(network: TrainedRun, pixels: Tensor, *, way: str) -> Answer:
    """The answer to one image uint8 [1, c, h, w]; ``way`` to look at attention, as in ``looks.ways``."""
    images = network.normalised(pixels)
    with torch.no_grad():
        probabilities = network.model(images)[0].softmax(dim=0).tolist()
    places, caption = look(network.model, images, way=way, label=likeliest(probabilities))
    picture = enlarge(from_unit(pixels / 255)[0], max(1, SIDE // network.image_size))
    return Answer(probabilities, picture if places is None else spotlight(picture, places), caption)
