"""A data set: uint8 images, split once and for all, moved to the training device once.

Axes: ``n`` images, ``c`` channels, ``h w`` pixels.
"""

import dataclasses
import hashlib

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vit_cnn.errors import Refused, shown

SPLIT_SEED = 0  # part of what a data set is, not a setting: every model and every training seed sees the same split


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of one split.

    Attributes:
        images: uint8 [n, c, h, w].
        labels: int64 [n].
        indices: int64 [n], positions in the source's own images; of a split taken from training, in those of training.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor) -> "Split":
        return Split(self.images[chosen], self.labels[chosen], self.indices[chosen])

    def distinct(self) -> "Split":
        """Each image once; itself where none comes twice."""
        first = np.sort(np.unique(self.indices.cpu().numpy(), return_index=True)[1])
        return self if len(first) == len(self) else self.take(torch.from_numpy(first).to(self.labels.device))

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device), self.indices.to(device))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training, validation and test images of one data set.

    Attributes:
        name: the label that every figure carries.
        source: where the images come from, in words.
        classes: names, by label.
        train, val, test: the splits.
        mean, std: float32 [c], of the training split's pixels scaled to [0, 1].
        fingerprint: hash of the source's images and of the split; of a folder's files, not of the size to which they
            are brought.
        skipped: files that were left out since they could not be read.
    """

    name: str
    source: str
    classes: list[str]
    train: Split
    val: Split
    test: Split
    mean: Tensor
    std: Tensor
    fingerprint: str
    skipped: list[str] = dataclasses.field(default_factory=list)

    def to(self, device: torch.device) -> "Dataset":
        moved = {key: getattr(self, key).to(device) for key in ("train", "val", "test", "mean", "std")}
        return dataclasses.replace(self, **moved)

    def describe(self) -> dict[str, object]:
        """What ``result.json`` says of the data; images that come several times count once."""
        counts = {split: len(getattr(self, split).distinct()) for split in ("train", "val", "test")}
        about = {"name": self.name, "source": self.source, "fingerprint": self.fingerprint}
        return {**about, **counts, "skipped": len(self.skipped)}


def assemble(
    *,
    name: str,
    source: str,
    classes: list[str],
    train: Split,
    val: Split | None = None,
    test: Split,
    fingerprint: str,
    num_classes: int,
    val_fraction: float,
    max_images: int | None,
    train_share: float,
) -> Dataset:
    """Split the validation images off ``train``, if there is no ``val``, and measure the pixels of what remains.

    Args:
        fingerprint: hash of the source's images and labels, before any split.
        val_fraction: share of the training images of each class that becomes validation images.
        max_images: keep about so many images of each split, the same share of each class; ``None`` keeps all.
        train_share: share of the training images of each class that is kept; a smaller share is part of a larger one.

    Raises:
        Refused: the classes are not ``num_classes``, a split would be empty, or a class has no training images.
    """
    if len(classes) != num_classes:
        raise Refused(f"data.num_classes={num_classes}, but {name} has {len(classes)} classes")
    cause = f"data.val_fraction={val_fraction}" if val is None else "data"
    if val is None:
        kept, held_out = stratified_split(train.labels, fraction=val_fraction)
        train, val = train.take(kept), train.take(held_out)
    if max_images is not None:
        train, val, test = (shrink(split, max_images) for split in (train, val, test))
        cause = f"data.max_images={max_images}"
    if train_share < 1:
        train, cause = repeated(train, train_share), f"data.train_share={train_share}"
    if not (len(train) and len(val) and len(test)):
        counts = f"{len(train)} training, {len(val)} validation and {len(test)} test images"
        raise Refused(f"{cause}: {name} has too few images, {counts}; each needs some")
    there = set(train.labels.tolist())
    if missing := [shown(each) for label, each in enumerate(classes) if label not in there]:
        raise Refused(f"{cause}: {name} has no training image of {len(missing)} of its classes, such as {missing[0]!r}")
    mean, std = pixel_statistics(train.images)
    fingerprint = hashlib.sha256(
        fingerprint.encode() + b"".join(split.indices.numpy().tobytes() for split in (train, val, test))
    ).hexdigest()[:16]
    return Dataset(name, source, list(classes), train, val, test, mean, std, fingerprint)


def stratified_split(labels: Tensor, *, fraction: float) -> tuple[Tensor, Tensor]:
    """Positions of ``labels`` [n] in two sorted parts; the second holds ``fraction`` of each class, rounded."""
    generator = np.random.default_rng(SPLIT_SEED)
    second = []
    for label in labels.unique().tolist():
        members = generator.permutation((labels == label).nonzero()[:, 0].numpy())
        second.append(members[: round(len(members) * fraction)])
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.from_numpy(np.concatenate(second))] = True
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]


def shrink(split: Split, most: int) -> Split:
    if len(split) <= most:
        return split
    _, chosen = stratified_split(split.labels, fraction=most / len(split))
    return split.take(chosen)


def repeated(split: Split, share: float) -> Split:
    """A share of each class, over and over until there are as many images as before.

    So an epoch keeps its number of steps, and the schedule its meaning: only the number of different images changes.
    """
    _, chosen = stratified_split(split.labels, fraction=share)
    if not len(chosen):
        return split.take(chosen)
    # A source may be sorted by class: the last round, which is not whole, must not favour the first ones.
    chosen = chosen[torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(chosen)))]
    return split.take(chosen.repeat(-(-len(split) // len(chosen)))[: len(split)])


def pixel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images [n, c, h, w], as float32 [c] of pixels in [0, 1]."""
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for part in images.split(1000):  # a whole data set as float64 would fill the memory
        pixels = rearrange(part, "n c h w -> c (n h w)").double() / 255
        total += pixels.sum(dim=1)
        squares += pixels.square().sum(dim=1)
    count = images.numel() / images.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-6).sqrt()  # constant channels must not divide by zero
    return mean.float(), std.float()


def hash_arrays(*arrays: Tensor) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(tuple(array.shape)).encode())
        digest.update(array.contiguous().numpy().data)
    return digest.hexdigest()


def evenly(n: int, most: int) -> Tensor:
    """At most ``most`` positions out of ``n``, from all over a split, which may be sorted by class."""
    return torch.linspace(0, n - 1, min(n, most)).round().long()
