"""Checkpoints: ``last.pt`` and ``best.pt``, written whole or not at all, read without running code."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit_cnn.errors import Refused
from vit_cnn.run.files import write_atomically


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
