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
        step: takes and returns a tensor on the device, always of the same shape, and never waits for the device. What
            else it reads must be tensors that are changed in place.
        generator: what ``step`` draws from, beside the device's default generator. It may be seeded between calls.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], *, generator: torch.Generator) -> None:
        self.step, self.generator = step, generator
        self.stream = torch.cuda.Stream(generator.device)
        self.calls = 0

    def __call__(self, argument: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.step(argument)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if self.calls == WARM_UP + 1:
            self.argument = argument.clone()
            self.graph = torch.cuda.CUDAGraph()
            self.graph.register_generator_state(self.generator)
            with torch.cuda.graph(self.graph):  # records the kernels and runs none
                try:
                    self.result = self.step(self.argument)
                except Exception:  # the end of the capture raises an error of its own, which hides this one
                    log.exception("The training step cannot be captured")
                    raise
        self.argument.copy_(argument)
        self.graph.replay()
        return self.result.clone()
