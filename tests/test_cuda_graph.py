"""The bookkeeping of a captured step, on a stand-in for CUDA; test_loop.py tests the real one where there is a GPU."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from vit_cnn.training.cuda_graph import WARM_UP, Captured


class StandIn:
    """A graph that notes the kernels of its capture, and runs them at each replay on the same memory."""

    def __init__(self) -> None:
        self.kernels: list[Callable[[], Any]] = []

    def replay(self) -> None:
        for kernel in self.kernels:
            kernel()


class Stream:
    def __init__(self, device: object = None) -> None: ...

    def wait_stream(self, other: "Stream") -> None: ...


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """The graph that is being captured, if one is."""
    graphs: list[StandIn] = []

    @contextlib.contextmanager
    def capture(graph: StandIn) -> Iterator[None]:
        graphs.append(graph)
        yield
        graphs.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandIn)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return graphs


def test_a_captured_step_sees_each_argument_once(capturing: list[StandIn]) -> None:
    total, calls = torch.zeros(2), []

    def step(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        result = torch.zeros(2)

        def kernel() -> None:
            total.add_(x * y)
            result.copy_(2 * total)

        if capturing:
            capturing[-1].kernels.append(kernel)
        else:
            kernel()
        return result

    captured = Captured(step)
    results = [captured(torch.full((2,), float(n)), torch.full((2,), 1.0 + n)) for n in range(1, WARM_UP + 5)]
    assert torch.equal(total, torch.full((2,), 168.0))  # 1 · 2 + 2 · 3 + … + 7 · 8: each argument once
    assert [result[0].item() for result in results] == [4, 16, 40, 80, 140, 224, 336]  # no result overwrites another
    assert len(calls) == WARM_UP + 1


def test_a_step_that_cannot_be_captured_says_why(capturing: list[StandIn], caplog: pytest.LogCaptureFixture) -> None:
    """The end of a capture raises an error of its own, which would hide the cause."""

    def step(x: Tensor) -> Tensor:
        if capturing:
            raise RuntimeError("this reads the device")
        return x

    captured = Captured(step)
    with pytest.raises(RuntimeError):
        for _ in range(WARM_UP + 1):
            captured(torch.zeros(1))
    assert "this reads the device" in caplog.text
