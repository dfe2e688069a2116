"""A linear layer by the library that is faster on a CPU."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Linear(nn.Linear):
    """``nn.Linear``, which a CPU computes as a convolution with a 1×1 kernel: each row of ``x`` is a pixel.

    The sums are the same up to rounding, but PyTorch leaves matrix products to Intel's MKL, which does without the
    512-bit units of AMD's processors, and convolutions to oneDNN, which does not: twice the speed there
    (``experiments/speed``).

    Attributes:
        as_convolution: the switch; ``Linear.as_convolution = False`` leaves everything to PyTorch; it is so already
            on processors without such units.

    Shape: x [..., in_features] → [..., out_features].
    """

    as_convolution = torch.backends.cpu.get_cpu_capability() == "AVX512"

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not self.as_convolution or not x.numel():
            return super().forward(x)
        # One image, one pixel high. Laid out before the axes change places: else its layout would be copied.
        pixels = rearrange(x, "... c -> 1 1 (...) c").permute(0, 3, 1, 2)
        out = F.conv2d(pixels, rearrange(self.weight, "out c -> out c 1 1"), self.bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)
