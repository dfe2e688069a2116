"""What the page does when something on it is touched: functions of the image and the controls, without Gradio."""

import base64
import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vit_cnn.errors import Refused
from vit_cnn.play.answers import answer
from vit_cnn.play.changes import Changes, changed, from_link, to_link
from vit_cnn.play.contenders import Contender, contenders
from vit_cnn.play.gallery import Gallery, Shown, gallery_of
from vit_cnn.play.looks import LAST, ways
from vit_cnn.play.show import answers_html
from vit_cnn.run.looks import note_look


@dataclasses.dataclass(frozen=True)
class Stage:
    """The networks and the images.

    Attributes:
        gallery: ``None`` where the images of the runs are not here.
        why_not: why not, in words.
    """

    contenders: list[Contender]
    gallery: Gallery | None
    why_not: str = ""
    lock: Any = dataclasses.field(default_factory=threading.Lock)  # captum hangs hooks on a network while it looks

    @property
    def side(self) -> int:
        return self.contenders[0].network.image_size

    @property
    def ways(self) -> dict[str, str]:
        return ways([each.network.model for each in self.contenders])

    def view(self, shown: Shown, way: str, changes: Changes, notice: str = "") -> str:
        """The answers to an image, as HTML."""
        network = self.contenders[0].network
        pixels = changed(shown.pixels, changes, mean=255 * network.mean.cpu()[:, None, None])
        with self.lock:
            answers = [answer(each.network, pixels, way=way) for each in self.contenders]
        link = {"image": str(shown.place), **to_link(changes)} if shown.place is not None else {}
        if link and way != LAST:
            link["way"] = way
        return answers_html(shown, pixels, answers, self.contenders, link=link, notice=notice)

    def first(self) -> Shown:
        """What the page begins with: the first image, or a grey one where there are none."""
        if self.gallery:
            return self.gallery.show(0)
        network = self.contenders[0].network
        grey = (255 * network.mean.cpu()).round().to(torch.uint8)[None, :, None, None]
        return Shown(grey.expand(1, -1, self.side, self.side).clone(), "no image yet")

    def opened(self, link: Mapping[str, str]) -> tuple[Shown, str, Changes]:
        """The image, the way to look and the changes that a link asks for.

        Raises:
            Refused: there is no such image or value.
        """
        way = link.get("way", LAST)
        if way != LAST and way not in self.ways:
            raise Refused(f"the link's way={way:.40} must be one of {', '.join(self.ways)}")
        changes, place = from_link(link, self.side), link.get("image")
        if place is None:
            return self.first(), way, changes
        if not self.gallery:
            raise Refused(self.why_not)
        if not (place.isdecimal() and len(place) < 10 and int(place) < len(self.gallery.images)):
            raise Refused(f"the link's image={place:.40} must be a number from 0 to {len(self.gallery.images) - 1}")
        return self.gallery.show(int(place)), way, changes

    @property
    def verdicts(self) -> dict[str, tuple[bool, ...]]:
        """Who is right about an image, in words: for each network whether it is."""
        if len(self.contenders) == 1:
            return {"Right": (True,), "Wrong": (False,)}
        a, b = (each.name for each in self.contenders)
        return {f"Only {a} right": (True, False), f"Only {b} right": (False, True), "Both wrong": (False, False)}

    def uploaded(self, path: Path) -> Shown:
        """One's own image.

        Raises:
            Refused: it cannot be read.
        """
        try:
            return self.own(path.read_bytes(), path.name)
        except Refused as error:
            raise Refused(f"{path.name}: {error}") from error

    def drawn(self, drawing: str, *, light_on_dark: bool) -> Shown:
        """A drawing, dark on white, as ``data:image/png;base64,…``; ``light_on_dark`` turns its colours about.

        Raises:
            Refused: it is no picture.
        """
        shown = self.own(base64.b64decode(drawing.partition(",")[2]), "your drawing")
        return dataclasses.replace(shown, pixels=255 - shown.pixels) if light_on_dark else shown

    def own(self, content: bytes, name: str) -> Shown:
        return Shown(self.contenders[0].network.pixels([content]).cpu(), name)

    @property
    def is_dark(self) -> bool:
        """Whether the images are light on dark, as handwritten digits of many data sets are."""
        return float(self.contenders[0].network.mean.mean()) < 0.4


def stage_of(paths: list[Path], *, split: str, device: str, trust: str) -> Stage:
    """The first two networks, and the images of ``split`` that they saw; a run's look at test images is counted.

    Raises:
        Refused: no run can be shown.
    """
    chosen = contenders(paths, device=device, trust=trust)
    try:
        gallery = gallery_of(chosen, split)
    except Refused as error:
        return Stage(chosen, None, str(error))
    if split == "test":
        for each in chosen:
            if each.found.run:
                note_look(each.found.folder, by="play")
    return Stage(chosen, gallery)
