"""Dropout whose mask comes from raw random bytes."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 256  # a random byte decides about one element


class Dropout(nn.Module):
    """Inverted dropout: zero each element with probability ``rate``, scale the others by ``1 / (1 - rate)``.

    Does what ``nn.Dropout`` does (Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html). On CPU,
    where PyTorch draws one Bernoulli sample after the other, it compares random bytes with a threshold instead; but not
    where it is compiled, which NumPy cannot be.

    Args:
        rate: probability of zeroing an element, 0 <= rate < 1.

    Attributes:
        raw_bytes: the switch; ``Dropout.raw_bytes = False`` leaves everything to PyTorch.

    Shape: any → the same.

    Raises:
        ValueError: ``rate`` lies outside [0, 1).
    """

    raw_bytes = True

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout={rate} must be at least 0 and below 1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        is_for_numpy = x.device.type == "cpu" and not torch.compiler.is_compiling()
        if not is_for_numpy or not self.raw_bytes or self.rate > 1 - 1 / LEVELS:
            return F.dropout(x, self.rate)
        return Masked.apply(x, random_mask(x.shape, self.rate), 1 / (1 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class StochasticDepth(nn.Module):
    """Leave out a residual branch for some images of a batch, scale it by ``1 / (1 - rate)`` for the others.

    Huang et al., 2016, https://arxiv.org/abs/1603.09382.

    Args:
        rate: probability that an image skips the branch, 0 <= rate < 1.

    Shape: [b, n, d] → the same.

    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        return branch * F.dropout(branch.new_ones(len(branch), 1, 1), self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def random_mask(shape: torch.Size, rate: float) -> Tensor:
    """uint8 [shape], 0 with probability ``rate`` and else 1; a function of torch's seed.

    256 levels are too few for most rates: 0.2 lies between 51 and 52 of them. So each of ``shape[0]`` rows draws which
    of the two it takes, with the odds that make the probability exact.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(math.ceil(shape.numel() / 8))
    levels = words.view(np.uint8)[: shape.numel()].reshape(shape)
    row = torch.rand(shape[0], *[1] * (len(shape) - 1))
    thresholds = (rate * LEVELS + row).floor().to(torch.uint8).numpy()
    return torch.from_numpy((levels >= thresholds).view(np.uint8))  # NumPy compares bytes ten times as fast


class Masked(torch.autograd.Function):
    """``x * mask * scale``, which keeps a byte for an element until the backward pass, and not a float."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return mask.to(x.dtype).mul_(x).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return mask.to(grad.dtype).mul_(grad).mul_(ctx.scale), None, None
