"""A third network between the two: the ViT, whose patches are embedded by convolutions."""

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn


class Hybrid(nn.Module):
    """Strided 3×3 convolutions before a ViT, in the manner of https://arxiv.org/abs/2106.14881.

    They shrink a patch to a place with as many features as the patch has values. These take the place of its pixels, so
    that the ViT is the same to the parameter; its linear embedding becomes the last, 1×1 convolution.

    Args:
        network: the ViT; images [b, num_channels, h, w] → logits [b, classes], as the whole.
        num_channels: channels of the images.
        patch_size: side of the ViT's patches in pixels; a power of 2, since each convolution halves the image.

    Raises:
        ValueError: ``patch_size`` is not a power of 2.
    """

    def __init__(self, *, network: nn.Module, num_channels: int, patch_size: int) -> None:
        super().__init__()
        if patch_size < 2 or patch_size & (patch_size - 1):
            raise ValueError(f"patch_size={patch_size} must be 2, 4, 8 or another power of 2")
        features, times = num_channels * patch_size**2, round(math.log2(patch_size))
        widths = [num_channels, *(features // 2**left for left in range(times - 1, -1, -1))]
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise(widths):
            convolution = nn.Conv2d(c_in, c_out, kernel_size=3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(c_out), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        self.network, self.patch_size = network, patch_size

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.stemmed(images))

    def stemmed(self, images: Tensor) -> Tensor:
        """What the ViT gets instead of the pixels of images [b, num_channels, h, w]; of the same shape."""
        return F.pixel_shuffle(self.stem(images), self.patch_size)
