"""Where the images come from: each source is a function that returns a ``Dataset``.

Its keyword arguments are the keys of its file in ``conf/data``. To add one, write such a function and a YAML file with
its ``_target_``.
"""

import contextlib
import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from vit_cnn.data.dataset import Dataset, Split, assemble, hash_arrays, stratified_split
from vit_cnn.errors import Refused
from vit_cnn.images.read import read_folder
from vit_cnn.images.tree import class_names


def digits(
    *,
    name: str,
    image_size: int,
    num_channels: int,
    num_classes: int,
    val_fraction: float,
    max_images: int | None,
    train_share: float,
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
        train_share=train_share,
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
    train_share: float,
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
            f"data.root={root}: {name} is not there whole: {wrong}{archive.url} gives: {error}. "
            f"Without network: put {archive.filename} into {root}, or use data=digits, or data=folder "
            "data.root=<folder with <class>/*.jpg>"
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
        train_share=train_share,
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
    train_share: float,
    skip_bad: bool,
    cache: str,
) -> Dataset:
    """Image files in class folders, ``<root>/{train,val,test}/<class>/*`` or ``<root>/<class>/*``.

    Args:
        fit: ``crop`` cuts the largest square from the centre of an image, ``squash`` changes its aspect ratio.
        val_fraction, test_fraction: share of the images of each class that becomes validation or test images, where
            ``root`` has no such split.
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
        val=splits.get("val"),
        test=splits["test"],
        fingerprint=found.fingerprint,
        num_classes=num_classes,
        val_fraction=val_fraction,
        max_images=max_images,
        train_share=train_share,
    )
    return dataclasses.replace(data, skipped=found.skipped)
