"""Checkpoints: ``last.pt`` and ``best.pt``, written whole or not at all, read without running code.

``previous.pt`` is the ``last.pt`` before: what to go on from where a disk has damaged the last one.
"""

import contextlib
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit_cnn.errors import Refused, first_line
from vit_cnn.run.files import remove, write_atomically

log = logging.getLogger(__name__)


def save_last(run_dir: Path, state: dict[str, Any]) -> None:
    """Write ``last.pt``; the one before it stays, as ``previous.pt``."""
    last, previous = run_dir / "last.pt", run_dir / "previous.pt"
    remove(previous)  # last.pt is whole meanwhile
    with contextlib.suppress(OSError):  # there is no last.pt yet, or the file system knows no second names
        os.link(last, previous)
    save(last, state)


def load_last(run_dir: Path) -> dict[str, Any] | None:
    """What ``save_last`` wrote last, or before that if the last is damaged; ``None`` where a run has not begun.

    Raises:
        Refused: there is no whole one, though the run has begun: nothing of it may be written over.
    """
    last, previous = run_dir / "last.pt", run_dir / "previous.pt"
    if not last.exists() and not previous.exists():
        lost = f"{run_dir} has lost its last.pt and cannot go on"
        if (run_dir / "best.pt").exists():
            raise Refused(f"{lost}; init={run_dir} begins a new run with its best weights")
        if (run_dir / "result.json").exists():
            raise Refused(lost)
        return None
    try:
        return whole(load(last), last)
    except Refused as damage:
        if not previous.exists():
            if (run_dir / "best.pt").exists():
                raise Refused(f"{damage}; init={run_dir} begins a new run with its best weights") from damage
            raise
        saved = whole(load(previous), previous)
        log.warning("%s. Going on from the checkpoint before it, step %d.", damage, saved["progress"]["step"])
        os.replace(previous, last)
        return saved


def whole(saved: dict[str, Any], path: Path) -> dict[str, Any]:
    """``saved``, if it can be what a run goes on from.

    Raises:
        Refused: it is another file.
    """
    progress = saved.get("progress")
    if not isinstance(progress, dict) or not holds_tensors(saved.get("model")):
        raise Refused(f"{path} is not a checkpoint of a run: it needs model and progress")
    return saved


def load_best(run_dir: Path) -> dict[str, Any]:
    """What ``best.pt`` holds: weights, and what it takes to use them.

    Raises:
        Refused: there is none, it is damaged, or it is another file.
    """
    path = run_dir / "best.pt"
    try:
        saved = load(path)
    except Refused as damage:
        if (run_dir / "result.json").exists() and (run_dir / "last.pt").exists():
            raise Refused(f"{damage}; resume={run_dir} writes it again from last.pt") from damage
        raise
    classes = saved.get("classes")
    if not (
        holds_tensors(saved.get("model"))
        and holds_tensors({name: saved.get(name) for name in ("mean", "std")})
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
    ):
        raise Refused(f"{path} is not the best.pt of a run: it needs model, mean, std and classes")
    return saved


def holds_tensors(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, torch.Tensor) for value in values.values())


def save(path: Path, state: dict[str, Any]) -> None:
    write_atomically(path, lambda file: torch.save(state, file))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, and the checksums in it; only tensors and plain values are unpickled.

    Raises:
        Refused: there is none, or it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} in it is wrong")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict):
            raise ValueError(f"it holds a {type(saved).__name__}, not a dictionary")
        return saved
    except FileNotFoundError:
        raise Refused(f"{path} does not exist") from None
    except Exception as error:  # torch raises whatever its zip and pickle readers stumble over
        raise Refused(f"{path} is damaged: {first_line(error)}") from error


def load_weights(model: nn.Module, weights: dict[str, Any], source: Path) -> None:
    """Load ``weights`` into ``model``.

    Raises:
        Refused: names or shapes differ; the message shows the first difference.
    """
    here = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    there = {name: list(tensor.shape) for name, tensor in weights.items()}
    different = [name for name in sorted(here | there) if here.get(name) != there.get(name)]
    if different:
        name = different[0]
        raise Refused(
            f"{source} does not fit the network: {name} is {there.get(name, 'missing')} in the checkpoint and "
            f"{here.get(name, 'missing')} in the network ({len(different)} such difference{'s'[: len(different) > 1]})"
        )
    model.load_state_dict(weights)
