"""The batches of an epoch: which images, in which order, and how pixels become the network's numbers.

``training/batches.py`` makes of them what the network sees.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vit_cnn.data.dataset import Split

ORDER, AUGMENTATION, MIRRORED, DROPOUT = 1, 2, 3, 4  # what random numbers are drawn for


def shuffled(split: Split, *, batch_size: int, seed: int, epoch: int, first: int) -> Iterator[tuple[int, Tensor]]:
    """Numbers and positions [b] of one epoch's batches, from batch ``first`` on; an incomplete batch is dropped.

    The order is a pure function of ``seed`` and ``epoch``: a resumed epoch goes on with the same batches.
    """
    order = torch.randperm(len(split), generator=seeded(ORDER, seed, epoch))
    batches = order.split(batch_size)
    for batch in range(first, len(split) // batch_size):
        yield batch, batches[batch]


def seeded(purpose: int, *numbers: int) -> torch.Generator:
    """A generator on the CPU that begins with ``seed_of`` these numbers."""
    return torch.Generator().manual_seed(seed_of(purpose, *numbers))


def seed_of(purpose: int, *numbers: int) -> int:
    """A hash of ``numbers`` to seed a generator with, so that a batch depends on nothing that came before it.

    Args:
        purpose: ``ORDER``, ``AUGMENTATION``, … : the hash pads with zeros, so that without it an epoch's order and its
            batch 0 would draw the same stream.
    """
    return int(np.random.SeedSequence((purpose, *numbers)).generate_state(1, np.uint64)[0]) >> 1


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 images [b, c, h, w] → float32 with zero mean and unit variance over the training split."""
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]
