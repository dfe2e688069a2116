"""Dropout whose mask comes from raw random bits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # sixteen random bits decide about one element


class Dropout(nn.Module):
    """Inverted dropout: zero each element with probability ``rate``, scale the others by ``1 / (1 - rate)``.

    Does what ``nn.Dropout`` does (Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html), but
    on CPU draws sixteen bits an element instead of one Bernoulli sample, which PyTorch draws one after the other:
    half of a ViT training step there. The rate in effect is ``rate`` rounded to 1/65536, and so is the scale.

    Args:
        rate: probability of zeroing an element, 0 <= rate < 1.

    Shape: any → the same.

    Raises:
        ValueError: ``rate`` lies outside [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout={rate} must be at least 0 and below 1")
        self.rate = rate
        self.dropped_levels = round(rate * LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.dropped_levels == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        levels = words.view(torch.int16)[: x.numel()].view(x.shape)
        keep = levels >= self.dropped_levels - LEVELS // 2
        # Two products, so that the backward pass keeps a byte for an element and not a float.
        return (x * keep).mul_(LEVELS / (LEVELS - self.dropped_levels))

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
