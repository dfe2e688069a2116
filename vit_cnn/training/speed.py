"""How fast a training is, and what share that is of what the machine can do."""

import dataclasses
import functools
import time

import torch
from torch import nn

from vit_cnn.models.linear import Linear
from vit_cnn.training.precision import autocast_for


@dataclasses.dataclass(frozen=True)
class Speed:
    """Turns images a second into operations a second.

    Attributes:
        flops_per_image: of one forward pass.
        peak: operations a second of a large matrix product here.
    """

    flops_per_image: int
    peak: float

    def of(self, images: int, seconds: float) -> dict[str, float]:
        """What a training on ``images`` in ``seconds`` comes to; a step takes about three forward passes."""
        rate = images / seconds
        flops = 3 * self.flops_per_image * rate
        return {"images_per_second": rate, "flops_per_second": flops, "share_of_peak": flops / self.peak}


@functools.cache  # a sweep asks once, not for each of its jobs
def peak_flops(device: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product in the precision of training: the best of five."""
    n = 2048 if device.type == "cpu" else 8192
    linear = nn.utils.skip_init(Linear, n, n, bias=False, device=device)  # draws nothing from the run's random state
    nn.init.ones_(linear.weight)
    rows = torch.ones(n, n, device=device)
    fastest = float("inf")
    for _ in range(6):  # the first warms up
        started = time.perf_counter()
        with torch.no_grad(), autocast_for(device, precision):
            product = linear(rows)
        product[0, 0].item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * n**3 / fastest
