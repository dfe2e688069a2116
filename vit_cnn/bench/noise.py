"""Random images of any number: what speed depends on, and nothing else."""

import torch
from omegaconf import DictConfig

from vit_cnn.config import composed
from vit_cnn.data import Dataset, Split
from vit_cnn.data.dataset import assemble


def noise(
    *,
    name: str,
    images: int,
    image_size: int,
    num_channels: int,
    num_classes: int,
    val_fraction: float,
    max_images: int | None,
    train_share: float,
) -> Dataset:
    """Random pixels: ``images`` to train and validate on, and as many test images as ``val_fraction`` of them."""
    few = round(images * val_fraction)
    labels = torch.arange(images + few) % num_classes
    pixels = torch.randint(256, (len(labels), num_channels, image_size, image_size), dtype=torch.uint8)
    everything = Split(pixels, labels, torch.arange(len(labels)))
    return assemble(
        name=name,
        source="random pixels",
        classes=[str(label) for label in range(num_classes)],
        train=everything.take(torch.arange(images)),
        test=everything.take(torch.arange(images, images + few)),
        fingerprint="random pixels",
        num_classes=num_classes,
        val_fraction=val_fraction,
        max_images=max_images,
        train_share=train_share,
    )


def noise_config(*overrides: str, images: int, batch: int) -> DictConfig:
    """The config of a training on ``images`` random images."""
    few = 200  # images to validate on
    data = ["data=digits", "data._target_=vit_cnn.bench.noise.noise", f"+data.images={images + few}"]
    more = [f"data.val_fraction={few / (images + few)}", f"recipe.batch_size={batch}", "wandb.mode=disabled"]
    return composed(*data, *more, *overrides)
