"""An average of the weights over the last steps, which often does better on new images than the weights themselves."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average of a network's weights, and of its batch norms' statistics.

    Update number ``t`` keeps min(``decay``, (1 + t) / (10 + t)) of the average: a warm-up, since the first
    weights are not worth keeping. Since that share changes, and a CUDA graph would fix it, an update is not part of a
    captured step.

    Args:
        model: on its device already.
        decay: 0.998 averages over about 500 steps.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.weights = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        self.average = [tensor.clone() for tensor in self.weights]
        self.updates = 0

    def update(self) -> None:
        """Take in the weights of a step."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, self.weights, 1 - keep)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """The network has the average as its weights, and gets its own ones back."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        kept = [tensor.clone() for tensor in self.weights]
        torch._foreach_copy_(self.weights, self.average)
        torch._foreach_copy_(self.average, kept)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch._foreach_copy_(self.average, [tensor.to(self.weights[0].device) for tensor in state["average"]])
        self.updates = int(state["updates"])
