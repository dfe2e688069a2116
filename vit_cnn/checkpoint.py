"""Files that survive a kill at any moment: written beside, synced, renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from vit_cnn.errors import Failed, Refused


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file, then rename it to ``path``: there is always a whole old or new file.

    Raises:
        Failed: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        raise Failed(f"{path} cannot be written: {error}; what stood there before is whole") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that ``write_json`` wrote.

    Raises:
        Refused: it cannot be read or is damaged.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error


def save(path: Path, state: dict[str, Any]) -> None:
    write_atomically(path, lambda file: torch.save(state, file))


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; only tensors and plain values are unpickled.

    Raises:
        Refused: there is none, or it is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Refused(f"{path} does not exist") from None
    except Exception as error:  # torch raises whatever its zip and pickle readers stumble over
        raise Refused(f"{path} is damaged: {str(error).splitlines()[0]}") from error


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


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of PyTorch's global random number generators, which dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_rng_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Go on drawing where ``rng_state`` was taken; a generator of another kind of device keeps its seed."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
