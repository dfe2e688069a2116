"""Data sets as uint8 tensors: read, split, moved to the training device once.

Each source is a function whose keyword arguments are the keys of its file in ``conf/data`` and which returns a
``Dataset``. To add one, write such a function and a YAML file with its ``_target_``.

Axes: ``n`` images, ``c`` channels, ``h w`` pixels.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from vit_cnn.errors import Refused
from vit_cnn.folder import class_names, read_folder

SPLIT_SEED = 0  # part of what a data set is, not a setting: every model and every training seed sees the same split


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of one split.

    Attributes:
        images: uint8 [n, c, h, w].
        labels: int64 [n].
        indices: int64 [n], positions in the source's own training or test images.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Tensor) -> "Split":
        return Split(self.images[chosen], self.labels[chosen], self.indices[chosen])

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
        fingerprint: hash of the images and the split; equal fingerprints mean comparable results.
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

    def to(self, device: torch.device) -> "Dataset":
        moved = {key: getattr(self, key).to(device) for key in ("train", "val", "test", "mean", "std")}
        return dataclasses.replace(self, **moved)

    def describe(self) -> dict[str, object]:
        """What ``result.json`` says of the data."""
        counts = {split: len(getattr(self, split)) for split in ("train", "val", "test")}
        return {"name": self.name, "source": self.source, **counts, "fingerprint": self.fingerprint}


def digits(
    *, name: str, image_size: int, num_channels: int, num_classes: int, val_fraction: float, max_images: int | None
) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8×8; a fifth of each class is the test split.

    Source: https://archive.ics.uci.edu/dataset/80, bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None] / 16 * 255
    large = F.interpolate(small, size=(image_size, image_size), mode="bilinear", align_corners=False)
    images = repeat(large.round().to(torch.uint8), "n 1 h w -> n c h w", c=num_channels)
    labels = torch.from_numpy(bunch.target).long()
    rest, test = stratified_split(labels, fraction=0.2)
    return assemble(
        name=name,
        source="scikit-learn load_digits",
        classes=[str(digit) for digit in range(10)],
        train=Split(images[rest], labels[rest], rest),
        test=Split(images[test], labels[test], test),
        fingerprint=hash_arrays(images, labels),
        num_classes=num_classes,
        val_fraction=val_fraction,
        max_images=max_images,
    )


def cifar10(
    *,
    name: str,
    root: str,
    image_size: int,
    num_channels: int,
    num_classes: int,
    val_fraction: float,
    max_images: int | None,
) -> Dataset:
    """CIFAR-10 through torchvision, downloaded to ``root`` on first use and checked against its checksums.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html.

    Raises:
        Refused: it is not in ``root`` and cannot be downloaded, or what is there is damaged.
    """
    from torchvision.datasets import CIFAR10

    if (image_size, num_channels) != (32, 3):
        raise Refused(
            f"data.image_size={image_size}, data.num_channels={num_channels}: CIFAR-10 is 32×32 with 3 channels"
        )
    try:
        sources = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # no network, an unwritable root, or a checksum that does not match
        with contextlib.suppress(OSError):
            Path(root).rmdir()  # torchvision made it; one that holds anything stays
        raise Refused(
            f"data.root={root}: CIFAR-10 is not there whole, and {CIFAR10.url} gives: {error}. "
            "Without network: data=digits, or data=folder data.root=<folder with train/<class>/* and test/<class>/*>"
        ) from error
    splits = []
    for source in sources:
        images = rearrange(torch.from_numpy(source.data), "n h w c -> n c h w").contiguous()
        splits.append(Split(images, torch.tensor(source.targets), torch.arange(len(images))))
    return assemble(
        name=name,
        source=CIFAR10.url,
        classes=sources[0].classes,
        train=splits[0],
        test=splits[1],
        fingerprint=hash_arrays(*(array for split in splits for array in (split.images, split.labels))),
        num_classes=num_classes,
        val_fraction=val_fraction,
        max_images=max_images,
    )


def folder(
    *,
    name: str,
    root: str,
    image_size: int,
    num_channels: int,
    num_classes: int,
    val_fraction: float,
    max_images: int | None,
    cache: str,
) -> Dataset:
    """A tree of images, ``<root>/{train,test}/<class>/*``; ``cache`` is the folder for the decoded images.

    Raises:
        Refused: the tree or an image cannot be used; the message names the folder or file.
    """
    tree = Path(root).expanduser()
    arrays, fingerprint = read_folder(
        tree, image_size=image_size, num_channels=num_channels, cache=Path(cache).expanduser()
    )
    splits = []
    for split in ("train", "test"):
        labels = torch.from_numpy(arrays[f"{split}_labels"])
        splits.append(Split(torch.from_numpy(arrays[f"{split}_images"]), labels, torch.arange(len(labels))))
    return assemble(
        name=name,
        source=f"folder {tree.resolve().name}",
        classes=class_names(tree),
        train=splits[0],
        test=splits[1],
        fingerprint=fingerprint,
        num_classes=num_classes,
        val_fraction=val_fraction,
        max_images=max_images,
    )


def assemble(
    *,
    name: str,
    source: str,
    classes: list[str],
    train: Split,
    test: Split,
    fingerprint: str,
    num_classes: int,
    val_fraction: float,
    max_images: int | None,
) -> Dataset:
    """Split the validation images off ``train`` and measure the pixels of what remains.

    Args:
        fingerprint: hash of the source's images and labels, before any split.
        val_fraction: share of the training images of each class that becomes validation images.
        max_images: keep about so many images of each split, spread evenly over the classes; ``None`` keeps all.

    Raises:
        Refused: the classes are not ``num_classes``, or a split would be empty.
    """
    if len(classes) != num_classes:
        raise Refused(f"data.num_classes={num_classes}, but {name} has {len(classes)} classes")
    kept, held_out = stratified_split(train.labels, fraction=val_fraction)
    train, val = train.take(kept), train.take(held_out)
    if max_images is not None:
        train, val, test = (shrink(split, max_images) for split in (train, val, test))
    if not (len(train) and len(val) and len(test)):
        counts = f"{len(train)} training, {len(val)} validation and {len(test)} test images"
        raise Refused(f"data.val_fraction={val_fraction} leaves {counts} of {name}; each needs some")
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


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 images [b, c, h, w] → float32 with zero mean and unit variance over the training split."""
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def seeded(generator: torch.Generator, *numbers: int) -> torch.Generator:
    """Seed ``generator`` with a hash of ``numbers``, so that a batch depends on nothing that came before it."""
    return generator.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1)


def shuffled(split: Split, *, batch_size: int, seed: int, epoch: int, first: int) -> Iterator[tuple[int, Tensor]]:
    """Positions of one epoch's batches on the split's device, from batch ``first`` on; an incomplete batch is dropped.

    The order is a pure function of ``seed`` and ``epoch``: a resumed epoch goes on with the same batches.
    """
    order = torch.randperm(len(split), generator=seeded(torch.Generator(), seed, epoch))
    batches = order.to(split.labels.device).split(batch_size)
    for batch in range(first, len(split) // batch_size):
        yield batch, batches[batch]
