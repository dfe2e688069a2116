"""Augmentation of whole batches on their device: each image has its own random numbers, no loop over images.

In two parts: ``draw`` takes every random number of a batch, on the CPU, so that they are the same whatever the device.
``apply`` is a pure function of images and numbers, on the device. It never makes the host wait for the device, and no
shape depends on what was drawn, so that it can be compiled. It may get several batches at once.

Axes: ``b`` images, ``c`` channels, ``h w`` pixels.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from vit_cnn.config.schema import Recipe
from vit_cnn.data import Dataset
from vit_cnn.data.batches import AUGMENTATION, MIRRORED, normalise, seeded
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
    """

    def __init__(self, recipe: Recipe, *, data: Dataset, seed: int, compiled: bool = False) -> None:
        self.recipe, self.data, self.seed = recipe, data, seed
        if recipe.augment.flip == "alternating":
            drawn = torch.rand(len(data.train), generator=seeded(MIRRORED, seed))
            self.mirrored = drawn < 0.5
        if recipe.augment.policy is not None:
            size = data.train.images.shape[-1]
            self.policy = build_policy(recipe.augment.policy, image_size=size)
        if recipe.mixing.probability:
            alphas = (recipe.mixing.cutmix_alpha, recipe.mixing.mixup_alpha)
            self.quantiles = torch.stack([beta_quantiles(alpha) for alpha in alphas]).to(data.mean.device)
        self.apply: Callable[[Tensor, Tensor, dict[str, Tensor], int], Batch] = (
            torch.compile(self._apply, dynamic=False) if compiled else self._apply
        )

    def draw(self, chosen: Tensor, *, epoch: int, batch: int) -> dict[str, Tensor]:
        """The random numbers of batch ``batch`` of an epoch, by what they are for.

        They depend on nothing that came before. New kinds are drawn after the older ones, so that an older recipe
        draws what it always drew.

        Args:
            chosen: positions of its training images [b].

        Returns:
            Those of the following that the recipe asks for. Numbers in [0, 1): ``window``, ``erasing``, ``mixing``,
            each [b, 4]. Whether it is done to an image: ``flip``, ``erased``, ``mixed``, each bool [b]. Pixels by which
            a padded crop moves: ``shift`` [b, 2]. How much of each operation of a policy: ``amounts``
            [b, stages, operations].
        """
        augment, mixing, b = self.recipe.augment, self.recipe.mixing, len(chosen)
        generator = seeded(AUGMENTATION, self.seed, epoch, batch)
        uniform = functools.partial(torch.rand, generator=generator)
        whole = functools.partial(torch.randint, generator=generator)
        draws = {}
        if augment.crop_scale is not None:
            draws["window"] = uniform(4, b).T
        if augment.crop_padding:
            draws["shift"] = whole(0, 2 * augment.crop_padding + 1, (2, b)).T
        if augment.flip == "alternating":
            draws["flip"] = self.mirrored[chosen] ^ (epoch % 2 == 1)
        elif augment.flip:
            draws["flip"] = uniform(b) < 0.5
        if augment.policy is not None:
            amounts, probability = self.policy
            row = whole(0, len(amounts), (b,))
            done = uniform(b, amounts.shape[1]) < probability[row]
            draws["amounts"] = amounts[row] * done[..., None]
        if augment.erasing_probability:
            draws["erased"] = uniform(b) < augment.erasing_probability
            draws["erasing"] = uniform(4, b).T
        if mixing.probability:
            steps_per_epoch = len(self.data.train) // self.recipe.batch_size
            mixes = is_mixing(epoch * steps_per_epoch + batch, recipe=self.recipe, steps_per_epoch=steps_per_epoch)
            numbers = uniform(5, b).T
            draws["mixed"], draws["mixing"] = (numbers[:, 0] < mixing.probability) & mixes, numbers[:, 1:]
        return draws

    def _apply(self, images: Tensor, labels: Tensor, draws: dict[str, Tensor], batches: int) -> Batch:
        """Make of uint8 images [b, c, h, w] and labels [b] what the network learns from.

        Args:
            draws: random numbers of each image, on the device of the images.
            batches: how many batches the images are, of equal size, one after another: each is mixed by itself.

        Returns:
            Images float32 [b, c, h, w]; targets, which are the labels, or with mixing shares [b, classes]; and labels.
        """
        augment, data = self.recipe.augment, self.data
        if "amounts" in draws:
            images = move(images.float(), draws, augment)
            for stage in draws["amounts"].unbind(dim=1):
                images = recolour(images, stage)
            images = normalise(images, data.mean, data.std)
        else:
            images = normalise(images, data.mean, data.std)
            if augment.crop_scale is not None:
                images = resized_crop(images, draws["window"], augment.crop_scale, augment.crop_ratio)
            if augment.crop_padding:
                images = padded_crop(images, draws["shift"], augment.crop_padding)
            if "flip" in draws:
                images = mirror(images, draws["flip"])
        if "erasing" in draws:
            images = erase(images, draws["erased"], draws["erasing"], augment.erasing_area, augment.erasing_ratio)
        if "mixing" in draws:
            h, w = images.shape[-2:]
            share = shares(draws["mixed"], draws["mixing"], self.quantiles, self.recipe.mixing, h=h, w=w)
            return mix(images, labels, share=share, num_classes=len(data.classes), batches=batches)
        return images, labels, labels
