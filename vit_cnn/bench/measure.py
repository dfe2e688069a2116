"""Times of whatever is called, and the memory that a network keeps."""

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vit_cnn.errors import for_child
from vit_cnn.training.cuda_graph import WARM_UP

Row = dict[str, Any]


def in_rounds(
    work: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int | None = None
) -> dict[str, list[float]]:
    """Seconds of each piece of work, in turn; what it returns, where that is a float, else the time that it takes.

    First rounds, which warm up, do not count: one, or with CUDA as many as a capture needs.
    """
    if warm_up is None:
        warm_up = WARM_UP + 1 if torch.cuda.is_available() else 1
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(warm_up + rounds):
        for name, call in work.items():
            wait_for_the_device()
            started = time.perf_counter()
            result = call()
            wait_for_the_device()
            seconds = result if isinstance(result, float) else time.perf_counter() - started
            if number >= warm_up:
                times[name].append(seconds)
    return times


def wait_for_the_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def spread(times: list[float]) -> Row:
    """Median, least and most of seconds, in milliseconds."""
    figures = {"ms": statistics.median(times), "ms_min": min(times), "ms_max": max(times)}
    return {name: round(1000 * seconds, 1) for name, seconds in figures.items()}


def command_seconds(arguments: list[str], until: Path | None = None) -> float:
    """Seconds of ``python -m vit_cnn.train`` to its end, or until there is something in the file ``until``."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "vit_cnn.train", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=for_child())
    while process.poll() is None and not (until and until.exists() and until.stat().st_size):
        time.sleep(0.005)
    seconds = time.perf_counter() - started
    process.wait()
    return seconds


def saved_bytes(network: nn.Module, images: Tensor, autocast: torch.autocast) -> int:
    """Memory that a forward pass keeps for the backward pass, without the weights themselves."""
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        logits = network(images)
    del logits
    return sum(seen.values())


class OperatorTimes(TorchDispatchMode):
    """Seconds in each of PyTorch's operators while this context is entered; of a CPU, since CUDA would have to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        self.seconds[function.overloadpacket.__name__] += time.perf_counter() - started
        return result
