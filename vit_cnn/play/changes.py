"""What may be done to an image, and in which order; as a link, too."""

import dataclasses
import re
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from vit_cnn.errors import Refused
from vit_cnn.probes.conditions import SEVERITIES, corrupted
from vit_cnn.probes.corruptions import FAMILIES
from vit_cnn.probes.patches import SIZES
from vit_cnn.probes.shift import FURTHEST, shifted
from vit_cnn.probes.squares import covered, shuffled

FAMILY_OF = {name: family for family, corruptions in FAMILIES.items() for name in corruptions}
MOST_DRAWS = 999


@dataclasses.dataclass(frozen=True)
class Changes:
    """Done one after the other; as they are by default, the image stays as it is.

    Attributes:
        right, down: pixels by which it moves; less than 0 for left and up.
        shuffle: side in pixels of the squares that change places; 0 for none.
        hide: side in pixels of a square in the mean colour; 0 for none.
        hide_right, hide_down: where that square is, per cent of the way from the left and from the top.
        corruption: one of ``FAMILY_OF``, or empty.
        severity: of the corruption, from 1 to 5.
        grey: whether it loses its colours.
        noise: standard deviation of normal noise, per cent of full brightness.
        draw: seed of the order of the squares and of the noise.
    """

    right: int = 0
    down: int = 0
    shuffle: int = 0
    hide: int = 0
    hide_right: int = 50
    hide_down: int = 50
    corruption: str = ""
    severity: int = 3
    grey: bool = False
    noise: int = 0
    draw: int = 0


def ranges(side: int) -> dict[str, tuple[int, int]]:
    """Least and most of each number, for images of ``side`` × ``side`` pixels."""
    furthest = min(FURTHEST, side - 1)
    whole = {"right": (-furthest, furthest), "down": (-furthest, furthest), "hide": (0, side * 3 // 4)}
    return whole | {"hide_right": (0, 100), "hide_down": (0, 100), "severity": (1, SEVERITIES), "noise": (0, 50)}


def squares(side: int) -> list[int]:
    """Sides of the squares that can be shuffled; 0 for none."""
    return [0, *(size for size in SIZES if side % size == 0 and size < side)]


def changed(pixels: Tensor, changes: Changes, *, mean: Tensor) -> Tensor:
    """Images uint8 [b, c, h, w] with the changes, uint8; ``mean`` [c, 1, 1] from 0 to 255 is what hides."""
    images = shifted(pixels, down=changes.down, right=changes.right).float()
    generator = torch.Generator().manual_seed(changes.draw)
    if changes.shuffle:
        images = shuffled(images, changes.shuffle, mean, generator)
    if changes.hide:
        top, left = (
            torch.full((len(images), 1), round((side - changes.hide) * share / 100))
            for side, share in zip(images.shape[-2:], (changes.hide_down, changes.hide_right), strict=True)
        )
        images = covered(images, changes.hide, mean, top=top, left=left)
    if changes.corruption:
        images = corrupted(images, FAMILY_OF[changes.corruption], changes.corruption, changes.severity).float()
    if changes.grey and images.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # how bright the eye finds red, green and blue
        images = (images * weights).sum(dim=1, keepdim=True).expand_as(images)
    if changes.noise:
        images = images + changes.noise / 100 * 255 * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 255).round().to(torch.uint8)


def to_link(changes: Changes) -> dict[str, str]:
    """What differs from the image as it is, by name."""
    plain, values = Changes(), dataclasses.asdict(changes)
    differing = {name: value for name, value in values.items() if value != getattr(plain, name)}
    return {name: "1" if value is True else str(value) for name, value in differing.items()}


def from_link(link: Mapping[str, str], side: int) -> Changes:
    """The changes that a link asks for; its other parts are left alone.

    Raises:
        Refused: a value is none of those that the page offers; says which are.
    """
    found: dict[str, int | str | bool] = {}
    for name in (field.name for field in dataclasses.fields(Changes) if field.name in link):
        value = link[name]
        if name == "corruption":
            allowed: Container[Any] = FAMILY_OF
            said = f"one of {', '.join(FAMILY_OF)}"
        elif name == "shuffle":
            allowed, said = squares(side), f"one of {', '.join(map(str, squares(side)))}"
        else:
            least, most = ranges(side).get(name, (0, 1 if name == "grey" else MOST_DRAWS))
            allowed, said = range(least, most + 1), f"a whole number from {least} to {most}"
        number = int(value) if re.fullmatch(r"-?\d{1,4}", value) else None
        if (value if name == "corruption" else number) not in allowed:
            raise Refused(f"the link's {name}={value:.40} must be {said}")
        found[name] = value if number is None else bool(number) if name == "grey" else number
    return Changes(**found)  # type: ignore[arg-type]
