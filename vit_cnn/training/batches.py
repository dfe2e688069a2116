"""The batches of an epoch as the network sees them; on a GPU several are made at once.

What differs from the textbook: no ``DataLoader``, since the images live on the device. Making a batch takes dozens of
small kernels, each too little work for a GPU. Eight batches together take no more kernels than one.

``data/batches.py`` says which images a batch has. Axes: ``k`` batches, ``b`` images of each.
"""

import math
from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

from vit_cnn.data import Dataset
from vit_cnn.data.batches import DROPOUT, seed_of, shuffled
from vit_cnn.processes.together import here
from vit_cnn.training.augment import Augmentation, Batch
from vit_cnn.training.shares import own_share

BATCHES_AT_ONCE, PIXELS_AT_ONCE = 8, 2**20  # at most, on a GPU; eight batches of 128 images of 32×32 reach both


class Batches:
    """The training batches of a run: the same, however many of them are made at once.

    Args:
        augmentation: what is done to the images, and to which.
        at_once: how many batches are made together; by default ``fitting``.
    """

    def __init__(self, augmentation: Augmentation, *, at_once: int | None = None) -> None:
        self.augmentation, self.data, self.recipe = augmentation, augmentation.data, augmentation.recipe
        self.at_once = at_once or fitting(self.data, batch_size=self.recipe.batch_size)

    def of_epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``first`` on; of several processes each gets its share of every batch.

        Each has to be learned from before the next is taken, since several processes seed their dropout in between.

        Yields:
            Images float32 [b, c, h, w]; targets of the loss, which are the labels, or with mixing shares [b, classes];
            and the labels [b] that accuracy is measured against, of a mixed image that of its larger part.
        """
        seed, batch_size = self.augmentation.seed, self.recipe.batch_size
        numbered = list(shuffled(self.data.train, batch_size=batch_size, seed=seed, epoch=epoch, first=first))
        for start in range(0, len(numbered), self.at_once):
            group = numbered[start : start + self.at_once]
            # A smaller group would have to be compiled anew: copies of its last batch, which nobody reads, fill it up.
            copies = (self.at_once - len(group)) * group[-1:]
            for (number, _), batch in zip(group, self.make([*group, *copies], epoch=epoch), strict=False):
                if here.number > 1:  # each has dropout of its own, which no checkpoint could hold for all
                    torch.manual_seed(seed_of(DROPOUT, seed, epoch, number, here.rank))
                yield batch

    def make(self, numbered: list[tuple[int, Tensor]], *, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch that have these numbers, and the training images at these positions [b]."""
        parts = [own_share(at, self.augmentation.draw(at, epoch=epoch, batch=number)) for number, at in numbered]
        device, k = self.data.mean.device, len(parts)
        chosen = sent(torch.cat([chosen for chosen, _ in parts]), device)
        draws = {name: sent(torch.cat([draws[name] for _, draws in parts]), device) for name in parts[0][1]}
        made = self.augmentation.apply(self.data.train.images[chosen], self.data.train.labels[chosen], draws, k)
        images, targets, labels = (rearrange(each, "(k b) ... -> k b ...", k=k) for each in made)
        partners = int(here.number > 1)
        return zip(images[:, partners:], targets[:, partners:], labels[:, partners:], strict=True)


def fitting(data: Dataset, *, batch_size: int) -> int:
    """How many batches are best made at once: on a CPU one, whose numbers stay in its cache; on a CUDA GPU several."""
    if data.mean.device.type != "cuda":
        return 1
    h, w = data.train.images.shape[-2:]
    most = max(1, min(BATCHES_AT_ONCE, PIXELS_AT_ONCE * here.number // (batch_size * h * w)))
    steps = max(1, len(data.train) // batch_size)
    return math.ceil(steps / math.ceil(steps / most))  # as many groups, with the fewest copies in the last


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` copied to the device; the host does not wait for that, which takes pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
