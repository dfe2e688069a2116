"""How fast a training is, and what share that is of what the machine can do."""

import dataclasses
import functools
import time

import torch
from torch import nn

from vit_cnn.machine import forget_peak_memory
from vit_cnn.models.linear import Linear
from vit_cnn.processes.together import here

FEWEST, MOST = 3, 11  # products by which the peak is measured
PATIENCE = 0.5  # seconds for them


@dataclasses.dataclass(frozen=True)
class Speed:
    """Turns images a second into operations a second.

    Attributes:
        flops_per_image: of one forward pass in training.
        peak: operations a second of large matrix products here, in all processes of the run together.
    """

    flops_per_image: int
    peak: float

    def of(self, images_per_second: float) -> dict[str, float]:
        """What training at this rate comes to; a step takes about three forward passes."""
        flops = 3 * self.flops_per_image * images_per_second
        share = flops / max(self.peak, flops)  # a peak that was measured while the machine was busy is too low
        return {"images_per_second": images_per_second, "flops_per_second": flops, "share_of_peak": share}


@functools.cache  # a sweep asks once, not for each of its jobs
def peak_flops(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product in the precision of training, times the processes: the best of ten,
    or of those that fit into half a second, since a run waits for it.

    Its inputs are in that precision from the start: casting them each time would count as work. Leaves no trace in the
    device's peak memory.
    """
    n = 2048 if device.type == "cpu" else 8192
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    linear = nn.utils.skip_init(Linear, n, n, bias=False, device=device, dtype=dtype)  # draws no random numbers
    nn.init.ones_(linear.weight)
    rows = torch.ones(n, n, device=device, dtype=dtype)
    seconds: list[float] = []
    while len(seconds) < FEWEST or (len(seconds) < MOST and sum(seconds) < PATIENCE):  # the first warms up
        started = time.perf_counter()
        with torch.no_grad():
            product = linear(rows)
        product[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    if device.type == "cuda":
        del linear, rows, product
        torch.cuda.empty_cache()
        forget_peak_memory(device)
    return here.number * 2 * n**3 / min(seconds)
