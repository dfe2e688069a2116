"""Augmentation of whole batches on their device: each image draws its own numbers, no loop over images.

In two parts: ``draw`` takes every random number of a batch; ``apply`` is a pure function of images and numbers, which
can be compiled. Neither waits for the device, and no shape depends on what was drawn, so that both can be captured
as a CUDA graph. What changes from step to step is in tensors that ``begin`` fills, on the stream that then draws.

Axes: ``b`` batch, ``c`` channels, ``h w`` pixels.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from vit_cnn.config.schema import Recipe
from vit_cnn.data import Dataset
from vit_cnn.data.batches import AUGMENTATION, DROPOUT, MIRRORED, normalise, seed_of, seeded
from vit_cnn.processes.together import here
from vit_cnn.training.colour import recolour
from vit_cnn.training.erasing import erase
from vit_cnn.training.geometry import mirror, move, padded_crop, resized_crop
from vit_cnn.training.mixing import beta_quantiles, is_mixing, mix, shares
from vit_cnn.training.policy import build_policy

Batch = tuple[Tensor, Tensor, Tensor]


class Augmentation:
    """What a run does to its training images.

    Args:
        data: on the device of the run.
        compiled: whether ``apply`` goes through ``torch.compile``.

    Attributes:
        generator: source of every random number, on the device.
    """

    def __init__(self, recipe: Recipe, *, data: Dataset, seed: int, compiled: bool = False) -> None:
        device = data.mean.device
        self.recipe, self.data, self.seed = recipe, data, seed
        self.generator = torch.Generator(device)
        self.epoch_is_odd = torch.zeros((), dtype=torch.bool, device=device)
        self.mixes = torch.zeros((), dtype=torch.bool, device=device)
        if recipe.augment.flip == "alternating":
            drawn = torch.rand(len(data.train), generator=seeded(torch.Generator(), MIRRORED, seed))
            self.mirrored = (drawn < 0.5).to(device)
        if recipe.augment.policy is not None:
            size = data.train.images.shape[-1]
            self.policy = build_policy(recipe.augment.policy, image_size=size, device=device)
        if recipe.mixing.probability:
            alphas = (recipe.mixing.cutmix_alpha, recipe.mixing.mixup_alpha)
            self.quantiles = torch.stack([beta_quantiles(alpha) for alpha in alphas]).to(device)
        self.apply: Callable[[Tensor, Tensor, dict[str, Tensor]], Batch] = (
            torch.compile(self._apply, dynamic=False) if compiled else self._apply
        )

    def begin(self, epoch: int, batch: int) -> None:
        """Get ready to draw for batch ``batch`` of an epoch."""
        seeded(self.generator, AUGMENTATION, self.seed, epoch, batch)
        if here.number > 1:  # each has dropout of its own, which no checkpoint could hold for all
            torch.manual_seed(seed_of(DROPOUT, self.seed, epoch, batch, here.rank))
        if self.recipe.augment.flip == "alternating":
            self.epoch_is_odd.fill_(epoch % 2 == 1)
        if self.recipe.mixing.probability:
            steps_per_epoch = len(self.data.train) // self.recipe.batch_size
            step = epoch * steps_per_epoch + batch
            self.mixes.fill_(is_mixing(step, recipe=self.recipe, steps_per_epoch=steps_per_epoch))

    def draw(self, chosen: Tensor) -> dict[str, Tensor]:
        """The numbers of a batch of the training images at the positions ``chosen`` [b].

        New kinds of numbers are drawn after the older ones, so that an older recipe draws what it always drew.
        """
        recipe, b = self.recipe.augment, len(chosen)
        uniform = functools.partial(torch.rand, device=chosen.device, generator=self.generator)
        whole = functools.partial(torch.randint, device=chosen.device, generator=self.generator)
        draws = {}
        if recipe.crop_scale is not None:
            draws["window"] = uniform(4, b)
        if recipe.crop_padding:
            draws["shift"] = whole(0, 2 * recipe.crop_padding + 1, (2, b, 1))
        if recipe.flip == "alternating":
            draws["flip"] = (self.mirrored[chosen] ^ self.epoch_is_odd)[:, None, None, None]
        elif recipe.flip:
            draws["flip"] = uniform(b, 1, 1, 1) < 0.5
        if recipe.policy is not None:
            amounts, probability = self.policy
            row = whole(0, len(amounts), (b,))
            done = uniform(b, amounts.shape[1]) < probability[row]
            draws["amounts"] = amounts[row] * done[..., None]
        if recipe.erasing_probability:
            draws["erased"] = uniform(b) < recipe.erasing_probability
            draws["erasing"] = uniform(4, b)
        if self.recipe.mixing.probability:
            draws["mixing"], draws["mixes"] = uniform(5, b), self.mixes
        return draws

    def _apply(self, images: Tensor, labels: Tensor, draws: dict[str, Tensor]) -> Batch:
        """Make of uint8 images [b, c, h, w] and labels [b] what the network learns from.

        Returns:
            Images float32 [b, c, h, w]; targets, which are the labels, or with mixing shares [b, classes]; and labels.
        """
        recipe, data = self.recipe.augment, self.data
        if "amounts" in draws:
            images = move(images.float(), draws, recipe)
            for stage in draws["amounts"].unbind(dim=1):
                images = recolour(images, stage)
            images = normalise(images, data.mean, data.std)
        else:
            images = normalise(images, data.mean, data.std)
            if recipe.crop_scale is not None:
                images = resized_crop(images, draws["window"], recipe.crop_scale, recipe.crop_ratio)
            if recipe.crop_padding:
                images = padded_crop(images, draws["shift"], recipe.crop_padding)
            if "flip" in draws:
                images = mirror(images, draws["flip"])
        if "erasing" in draws:
            images = erase(images, draws["erased"], draws["erasing"], recipe.erasing_area, recipe.erasing_ratio)
        if "mixing" in draws:
            h, w = images.shape[-2:]
            share = shares(draws["mixing"], self.quantiles, self.recipe.mixing, mixes=draws["mixes"], h=h, w=w)
            return mix(images, labels, share=share, num_classes=len(data.classes))
        return images, labels, labels
