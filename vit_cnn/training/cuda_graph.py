"""A training step as two CUDA graphs: launching its hundreds of kernels takes longer than running them.

One makes the batch, the other learns from it. The first runs on a stream of its own. The host only launches, and is
ahead of the device: so the next images are augmented while the network still learns from the last.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

WARM_UP = 3  # calls before the capture, in which libraries choose and allocate


class Captured:
    """``function``, which from its fourth call on is replayed as one CUDA graph.

    The first calls run as they are, on a stream of their own: calls like any others, so that nothing is computed that
    plain calls would not compute. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.

    Args:
        function: takes tensors on the device and returns one or a tuple of them, always of the same shapes, and never
            waits for the device. What else it reads must be tensors that are changed in place.
        generator: what ``function`` draws from, beside the device's default generator. It may be seeded between calls.
    """

    def __init__(self, function: Callable[..., Any], *, generator: torch.Generator | None = None) -> None:
        self.function, self.generator = function, generator
        self.stream = torch.cuda.Stream()
        self.calls = 0

    def __call__(self, *arguments: Tensor) -> Any:
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                results = self.function(*arguments)
            torch.cuda.current_stream().wait_stream(self.stream)
            return results
        if self.calls == WARM_UP + 1:
            self.arguments = [argument.clone() for argument in arguments]
            self.graph = torch.cuda.CUDAGraph()
            if self.generator is not None:
                self.graph.register_generator_state(self.generator)
            # Records the kernels and runs none; on its own stream, since libraries keep memory for each stream, which
            # graphs that run at the same time must not share.
            with torch.cuda.graph(self.graph, stream=self.stream):
                try:
                    self.results = self.function(*self.arguments)
                except Exception:  # the end of the capture raises an error of its own, which hides this one
                    log.exception("This part of the training step cannot be captured")
                    raise
        for own, argument in zip(self.arguments, arguments, strict=True):
            own.copy_(argument)
        self.graph.replay()
        if isinstance(self.results, Tensor):
            return self.results.clone()
        return tuple(result.clone() for result in self.results)


class Beside:
    """``function``, which returns a tuple of tensors, on a stream of its own, beside what the device still has to do.

    It must read nothing that the caller's stream has yet to write. Results take memory for as many calls as the host is
    ahead, which is tens of them.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())

    def __call__(self, *arguments: object) -> Any:
        with torch.cuda.stream(self.stream):
            results = self.function(*arguments)
        reader = torch.cuda.current_stream()
        reader.wait_stream(self.stream)
        for result in results:
            result.record_stream(reader)  # else its memory would be used anew before it has been read
        return results
