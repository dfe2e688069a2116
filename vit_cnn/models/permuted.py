"""A network that sees its images with the pixels in another order, always the same one."""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

KINDS = ("nothing", "patches", "within", "everything")


class Permuted(nn.Module):
    """Permute the values of every image, then call a network.

    The permutation comes after the augmentation, in training as in evaluation. It is a buffer: a run keeps its own.

    Args:
        network: images [b, num_channels, image_size, image_size] → logits [b, classes].
        image_size: side of the images in pixels.
        num_channels: channels of the images.
        permute: ``patches``: one order of the patches, and one of the values inside a patch, the same for all of them;
            ``within``: another order inside each patch, which stays where it is; ``everything``: all values of the
            image; ``nothing``.
        patch_size: side of a patch in pixels; divides ``image_size``.
        permutation_seed: draws the permutation; does not follow the seed of the run.

    Shape: that of ``network``.

    Raises:
        ValueError: ``permute`` is none of these, or ``patch_size`` does not divide ``image_size``.
    """

    order: Tensor

    def __init__(
        self,
        *,
        network: nn.Module,
        image_size: int,
        num_channels: int,
        permute: str,
        patch_size: int,
        permutation_seed: int,
    ) -> None:
        super().__init__()
        if permute not in KINDS:
            raise ValueError(f"permute={permute} must be one of {', '.join(KINDS)}")
        if image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide image_size={image_size}")
        self.network = network
        self.patch_size = patch_size
        patches, values = (image_size // patch_size) ** 2, num_channels * patch_size**2
        order = permutation(permute, patches, values, np.random.default_rng(permutation_seed))
        self.register_buffer("order", torch.from_numpy(order))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.permuted(images))

    def permuted(self, images: Tensor) -> Tensor:
        """Images [b, c, h·p1, w·p2] → the same values in the new order."""
        p, h = self.patch_size, images.shape[-2] // self.patch_size
        values = rearrange(images, "b c (h p1) (w p2) -> b (h w c p1 p2)", p1=p, p2=p)[:, self.order]
        return rearrange(values, "b (h w c p1 p2) -> b c (h p1) (w p2)", h=h, c=images.shape[1], p1=p, p2=p)


def permutation(kind: str, patches: int, values: int, random: np.random.Generator) -> np.ndarray:
    """Which value comes where, [patches · values]; all values of a patch stand together."""
    places = np.arange(patches * values).reshape(patches, values)
    if kind == "patches":
        places = places[random.permutation(patches)][:, random.permutation(values)]
    if kind == "within":
        places = random.permuted(places, axis=1)
    if kind == "everything":
        places = random.permutation(places.flatten())
    return places.flatten()
