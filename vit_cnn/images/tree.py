"""What is in a folder of images: its splits, its classes, its files, their common size.

Either ``<root>/{train,val,test}/<class>/*``, where ``val`` may be missing, or ``<root>/<class>/*``; inside a class
folder, images may lie at any depth.
Does not import torch: the config reads sizes and classes from here.
"""

import contextlib
import os
import unicodedata
from pathlib import Path

from PIL import Image

from vit_cnn.errors import Refused, shown
from vit_cnn.images.decode import SUFFIXES

SPLITS = ("train", "val", "test")
ALIKE = (*SPLITS, "training", "valid", "validation", "testing")  # in any case: what else a split may be called


def splits_of(root: Path) -> list[str]:
    """``["train", "test"]``, with ``val`` between them if it is there; ``["all"]`` where the classes lie in ``root``.

    Raises:
        Refused: no such folder, training without test images or the other way round, or a split under another name.
    """
    if not root.is_dir():
        raise Refused(
            f"data.root={shown(root)}: there is no such folder; expected <root>/<class>/*.jpg, or "
            "<root>/{train,test}/<class>/*.jpg"
        )
    there = [split for split in SPLITS if (root / split).is_dir()]
    missing = [split for split in ("train", "test") if split not in there]
    if there == ["val"]:
        raise Refused(
            f"data.root={shown(root)}: the folder val needs train and test beside it; if val is a class, rename it"
        )
    if there and missing:
        are = "is a folder" if len(there) == 1 else "are folders"
        raise Refused(
            f"data.root={shown(root)}: there {are} {' and '.join(there)} but no folder {' and '.join(missing)}; "
            "train and test are needed, or neither"
        )
    folders = [entry.name for entry in listed(root) if entry.is_dir()]
    alike = sorted(name for name in folders if name.lower() in ALIKE and name not in SPLITS)
    if alike and (there or len(alike) > 1):  # one alone may be a class
        raise Refused(
            f"data.root={shown(root)}: {alike[0]} is not the name of a split: they are train, test and, if you like, "
            "val; rename it or move it away"
        )
    return there or ["all"]


def folder_of(root: Path, split: str) -> Path:
    return root if split == "all" else root / split


def class_names(root: Path) -> list[str]:
    """Names of the class folders, sorted: the label of a class is its position.

    Raises:
        Refused: no such tree, no class, classes that differ between the splits, or two that differ only by case.
    """
    found = {}
    for split in splits_of(root):
        folder = folder_of(root, split)
        found[split] = sorted(entry.name for entry in entries(folder, root) if entry.is_dir())
        if not found[split]:
            raise Refused(f"data.root={shown(root)}: {shown(folder)} holds no class folders; expected <class>/*.jpg")
    (split, first), *others = found.items()
    for other, names in others:
        if different := set(first) ^ set(names):
            name = min(different)
            there, missing = (split, other) if name in first else (other, split)
            raise Refused(
                f"data.root={shown(root)}: class {name!r} is in {there} but not in {missing} "
                f"({len(different)} classes differ); both need the same class folders"
            )
    alike: dict[str, str] = {}
    for name in first:
        before = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if before != name:
            raise Refused(
                f"data.root={shown(root)}: the classes {before!r} and {name!r} differ only by case or by how an "
                "accent is written; rename or merge one"
            )
    return first


def image_files(folder: Path, root: Path) -> list[Path]:
    """The image files of a class at any depth, sorted by name.

    Raises:
        Refused: there is none, or a link leaves the root.
    """
    files, folders = [], [folder]
    while folders:
        for entry in entries(folders.pop(), root):
            if entry.is_dir():
                folders.append(Path(entry.path))
            elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                files.append(Path(entry.path))
    if not files:
        raise Refused(f"data.root: class folder {shown(folder)} holds no images ({', '.join(sorted(SUFFIXES))})")
    return sorted(files)


def entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, without hidden files.

    Raises:
        Refused: it cannot be listed, or a link leads out of ``root``, or to a folder, where it could loop.
    """
    found = listed(folder)
    for entry in found:
        if entry.is_symlink():
            target = Path(os.path.realpath(entry.path))
            if not target.is_relative_to(root.resolve()):
                raise Refused(
                    f"data.root: the link {shown(entry.path)} leaves {shown(root)}; replace it with what it points to"
                )
            if target.is_dir():
                raise Refused(f"data.root: {shown(entry.path)} is a link to a folder; only links to images can be used")
    return found


def listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise Refused(f"data.root: {shown(folder)} cannot be listed: {error.strerror}") from error


def common_image_size(root: Path) -> int:
    """Side in pixels that the first readable training image of each class shares.

    Raises:
        Refused: they differ or are not square, so that a size has to be chosen.
    """
    sizes: set[tuple[int, int]] = set()
    for name in class_names(root):
        for path in image_files(folder_of(root, splits_of(root)[0]) / name, root):
            with contextlib.suppress(Exception), Image.open(path) as image:  # reads the header only
                sizes.add(image.size)
                break
    if not sizes:
        raise Refused(f"data.root={shown(root)}: not one of its files can be read as an image")
    width, height = min(sizes)
    if len(sizes) > 1 or width != height:
        found = ", ".join(f"{w}×{h}" for w, h in sorted(sizes)[:3])
        raise Refused(f"data.image_size has to be given, such as data.image_size=32: the images are {found}")
    return width
