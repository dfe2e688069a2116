"""Random images of any number: what speed depends on, and nothing else."""

import torch

from vit_cnn.data import Dataset, Split, assemble


def noise(
    *,
    name: str,
    images: int,
    image_size: int,
    num_channels: int,
    num_classes: int,
    val_fraction: float,
    max_images: int | None,
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
    )
