"""What a touch of a control calls: the stage first, then what Gradio hands over, the controls' values among it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vit_cnn.errors import Refused
from vit_cnn.play.changes import MOST_DRAWS, Changes
from vit_cnn.play.gallery import Gallery, Shown
from vit_cnn.play.stage import Stage


def changes_of(values: Sequence[Any]) -> Changes:
    """Changes from the controls: a number may be typed in with a fraction, or its box be empty for a moment."""
    names = [field.name for field in dataclasses.fields(Changes)]
    given: dict[str, Any] = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    whole: dict[str, Any] = {name: round(value) if isinstance(value, float) else value for name, value in given.items()}
    return Changes(**whole)


def view(stage: Stage, shown: Shown, way: str, *values: Any) -> str:
    return stage.view(shown, way, changes_of(values))


def another(stage: Stage, find: Callable[..., Shown], shown: Shown, way: str, *values: Any) -> tuple[Shown, str]:
    """Another image, or the same and a line that says why not.

    Args:
        values: of the changes, then whatever ``find`` takes beside the image before.
    """
    number, notice = len(dataclasses.fields(Changes)), ""
    try:
        shown = find(shown, *values[number:])
    except Refused as error:
        notice = str(error)
    return shown, stage.view(shown, way, changes_of(values[:number]), notice)


def next_of(gallery: Gallery, wanted: tuple[bool, ...], shown: Shown) -> Shown:
    return gallery.next_of(wanted, after=shown.place)


def uploaded(stage: Stage, shown: Shown, path: str) -> Shown:
    return stage.uploaded(Path(path))


def drawn(stage: Stage, shown: Shown, drawing: str | None, light_on_dark: bool) -> Shown:
    return stage.drawn(drawing, light_on_dark=light_on_dark) if drawing else shown


def another_draw(draw: int) -> int:
    return (draw + 1) % (MOST_DRAWS + 1)
