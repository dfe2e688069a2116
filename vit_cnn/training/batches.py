"""The batches of an epoch, as the network sees them; on a GPU several are made at once.

What differs from the textbook: no ``DataLoader``, since the images live on the device. What makes a batch there is
dozens of kernels, each too small for a GPU: for eight batches at once it takes no more of them than for one.

Axes: ``k`` batches, ``b`` images of each.
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

from vit_cnn.data import Dataset
from vit_cnn.data.batches import DROPOUT, seed_of, shuffled
from vit_cnn.processes.together import here
from vit_cnn.training.augment import Augmentation, Batch
from vit_cnn.training.shares import own_share

PIXELS_AT_ONCE = 2**20  # on a GPU: of 32×32 eight batches of 128 images


class Batches:
    """The training batches of a run: the same, however many of them are made at once.

    Args:
        at_once: how many are; by default ``fitting``.
    """

    def __init__(self, augmentation: Augmentation, *, at_once: int | None = None) -> None:
        self.augmentation, self.data, self.recipe = augmentation, augmentation.data, augmentation.recipe
        self.at_once = at_once or fitting(self.data, batch_size=self.recipe.batch_size // here.number)

    def of_epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``first`` on; of several processes each gets its share of every batch.

        Yields:
            Images float32 [b, c, h, w]; targets of the loss, which are the labels, or with mixing shares [b, classes];
            and the labels [b] that accuracy is measured against, of a mixed image that of its larger part.
        """
        seed = self.augmentation.seed
        order = shuffled(self.data.train, batch_size=self.recipe.batch_size, seed=seed, epoch=epoch, first=first)
        numbered = list(order)
        for start in range(0, len(numbered), self.at_once):
            group = numbered[start : start + self.at_once]
            missing = self.at_once - len(group)  # made up for: another size would have to be compiled anew
            made = self.make([*group, *missing * group[-1:]], epoch=epoch)
            for (number, _), batch in zip(group, made, strict=False):
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
    """How many batches are best made at once: one on a processor, whose cache holds no more; some on a GPU."""
    h, w = data.train.images.shape[-2:]
    return max(1, PIXELS_AT_ONCE // (batch_size * h * w)) if data.mean.device.type == "cuda" else 1


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on the device, for whose copying nobody waits."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
