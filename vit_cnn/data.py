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
        """What ``result.json`` says of the data."""
        counts = {split: len(getattr(self, split)) for split in ("train", "val", "test")}
        about = {"name": self.name, "source": self.source, "fingerprint": self.fingerprint}
        return {**about, **counts, "skipped": len(self.skipped)}


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


def cifar(
    *,
    name: str,
    root: str,
    image_size: int,
    num_channels: int,
    num_classes: int,
    val_fraction: float,
    max_images: int | None,
) -> Dataset:
    """CIFAR-10 or, with 100 classes, CIFAR-100, downloaded by torchvision to ``root`` on first use and checked.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html.

    Raises:
        Refused: it is not in ``root`` and cannot be downloaded, or what is there does not have the right checksum.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    archives = {10: CIFAR10, 100: CIFAR100}
    if num_classes not in archives or (image_size, num_channels) != (32, 3):
        raise Refused(
            f"data.image_size={image_size}, data.num_channels={num_channels}, data.num_classes={num_classes}: "
            "CIFAR is 32×32 with 3 channels and 10 or 100 classes"
        )
    archive = archives[num_classes]
    try:
        sources = [archive(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # no network, an unwritable root, or a checksum that does not match
        with contextlib.suppress(OSError):
            Path(root).rmdir()  # torchvision made it; one that holds anything stays
        wrong = ""
        if (there := Path(root) / archive.filename).exists():
            wrong = f"{there} has not the checksum of the real archive (md5 {archive.tgz_md5}), "
        raise Refused(
            f"data.root={root}: {name} is not there whole: {wrong}and {archive.url} gives: {error}. "
            "Without network: data=digits, or data=folder data.root=<folder with <class>/*.jpg>"
        ) from error
    splits = []
    for source in sources:
        images = rearrange(torch.from_numpy(source.data), "n h w c -> n c h w").contiguous()
        splits.append(Split(images, torch.tensor(source.targets), torch.arange(len(images))))
    return assemble(
        name=name,
        source=archive.url,
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
    fit: str,
    val_fraction: float,
    test_fraction: float,
    max_images: int | None,
    skip_bad: bool,
    cache: str,
) -> Dataset:
    """Image files in class folders, ``<root>/{train,test}/<class>/*`` or ``<root>/<class>/*``.

    Args:
        fit: ``crop`` cuts the largest square from the centre of an image, ``squash`` changes its aspect ratio.
        test_fraction: share of the images of each class that becomes test images, where ``root`` has no such split.
        skip_bad: go on without files that cannot be read.
        cache: folder for the decoded images.

    Raises:
        Refused: the tree or an image cannot be used; the message names the folder or file.
    """
    tree = Path(root).expanduser()
    found = read_folder(
        tree,
        image_size=image_size,
        num_channels=num_channels,
        fit=fit,
        skip_bad=skip_bad,
        cache=Path(cache).expanduser(),
    )
    splits = {}
    for split, array in found.images.items():
        labels = torch.from_numpy(found.labels[split])
        splits[split] = Split(torch.from_numpy(array), labels, torch.arange(len(labels)))
    if "all" in splits:
        rest, held_out = stratified_split(splits["all"].labels, fraction=test_fraction)
        splits = {"train": splits["all"].take(rest), "test": splits["all"].take(held_out)}
    data = assemble(
        name=name,
        source=f"folder {tree.resolve().name}",
        classes=class_names(tree),
        train=splits["train"],
        test=splits["test"],
        fingerprint=found.fingerprint,
        num_classes=num_classes,
        val_fraction=val_fraction,
        max_images=max_images,
    )
    return dataclasses.replace(data, skipped=found.skipped)


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
        raise Refused(f"data.val_fraction={val_fraction}: {name} has too few images, {counts}; each needs some")
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
