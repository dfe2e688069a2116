"""A training step as one CUDA graph: launching its hundreds of kernels takes longer than running them."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

WARM_UP = 3  # steps before the capture, in which libraries choose and allocate


class Captured:
    """``step``, which from its fourth call on is replayed as one CUDA graph.

    The first calls run as they are, on a stream of their own: steps like any others, so that nothing is computed that
    plain calls would not compute. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.

    Args:
        step: takes tensors on the device and returns one, always of the same shapes, and never waits for the device.
            What else it reads must be tensors that are changed in place. What it draws, it draws from the device's
            default generator.
    """

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self.step = step
        self.stream = torch.cuda.Stream()
        self.calls = 0

    def __call__(self, *arguments: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.step(*arguments)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.calls == WARM_UP + 1:
            self.arguments = [argument.clone() for argument in arguments]
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records the kernels and runs none
                try:
                    self.result = self.step(*self.arguments)
                except Exception:  # the end of the capture raises an error of its own, which hides this one
                    log.exception("The training step cannot be captured")
                    raise
        for own, argument in zip(self.arguments, arguments, strict=True):
            own.copy_(argument)
        self.graph.replay()
        return self.result.clone()
