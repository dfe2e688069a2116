"""A folder of images, decoded once in parallel and cached as uint8 arrays.

Either ``<root>/{train,test}/<class>/*`` or ``<root>/<class>/*``; inside a class folder, images may lie at any depth.
Does not import torch: the decoding processes start quickly, and the config reads sizes and classes from here.
"""

import contextlib
import dataclasses
import hashlib
import logging
import multiprocessing
import os
import re
import signal
import sys
import time
import unicodedata
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.progress import track

from vit_cnn.display import console
from vit_cnn.errors import Refused
from vit_cnn.images import SUFFIXES, decode

log = logging.getLogger(__name__)

FORMAT = "2"  # of the cache; a new number when decoding changes
CHUNK = 500  # files a process decodes at a time
STALE_SECONDS = 3600  # age at which a half-written cache must be one that a killed process left

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Images:
    """Decoded images of ``train`` and ``test``, or of ``all`` where the folder does not tell them apart.

    Attributes:
        images: uint8 [n, c, h, w] by split.
        labels: int64 [n] by split, positions in ``class_names``.
        fingerprint: hash of the files' names and bytes.
        skipped: files that could not be read, with the reason.
    """

    images: dict[str, Array]
    labels: dict[str, Array]
    fingerprint: str
    skipped: list[str]


def splits_of(root: Path) -> list[str]:
    """``["train", "test"]``, or ``["all"]`` for a folder that holds the classes directly.

    Raises:
        Refused: no such folder, or only one of the two.
    """
    if not root.is_dir():
        raise Refused(
            f"data.root={shown(root)}: there is no such folder; expected <root>/<class>/*.jpg, or "
            "<root>/{train,test}/<class>/*.jpg"
        )
    there = [split for split in ("train", "test") if (root / split).is_dir()]
    if len(there) == 1:
        other = "test" if there == ["train"] else "train"
        raise Refused(
            f"data.root={shown(root)}: there is a folder {there[0]} but no folder {other}; both are needed, or neither"
        )
    return there or ["all"]


def folder_of(root: Path, split: str) -> Path:
    return root if split == "all" else root / split


def class_names(root: Path) -> list[str]:
    """Names of the class folders, sorted: the label of a class is its position.

    Raises:
        Refused: no such tree, no class, classes that differ between train and test, or two that differ only by case.
    """
    found = {}
    for split in splits_of(root):
        folder = folder_of(root, split)
        found[split] = sorted(entry.name for entry in entries(folder, root) if entry.is_dir())
        if not found[split]:
            raise Refused(f"data.root={shown(root)}: {shown(folder)} holds no class folders; expected <class>/*.jpg")
    first, *others = found.values()
    for other in others:
        if different := set(first) ^ set(other):
            name = min(different)
            there, missing = ("train", "test") if name in first else ("test", "train")
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
    try:
        found = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise Refused(f"data.root: {shown(folder)} cannot be listed: {error.strerror}") from error
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


def read_folder(root: Path, *, image_size: int, num_channels: int, fit: str, skip_bad: bool, cache: Path) -> Images:
    """Decode every image of the tree, or read what an earlier start decoded.

    The cache is found under the files' names, sizes and times of change, which the system sets anew when any byte is
    written; its content carries a checksum, and a damaged one is made anew.

    Raises:
        Refused: the tree cannot be used, or an image, unless ``skip_bad`` goes on without it.
    """
    classes = class_names(root)
    files = {
        split: [
            (path, label)
            for label, name in enumerate(classes)
            for path in image_files(folder_of(root, split) / name, root)
        ]
        for split in splits_of(root)
    }
    state = hashlib.sha256(f"{FORMAT} {image_size} {num_channels} {fit}".encode())
    for pairs in files.values():
        for path, _ in pairs:
            stat = os.stat(path, follow_symlinks=path.exists())  # a broken link is found out when it is decoded
            state.update(os.fsencode(path.relative_to(root)) + b"\0")
            state.update(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\0".encode())
    slug = re.sub(r"[^\w-]+", "-", ascii(root.resolve().name).strip("'"))[:80]
    cached = cache / f"{slug}-{image_size}px-{state.hexdigest()[:16]}.npz"
    if cached.exists():
        try:
            with np.load(cached) as stored:
                found = unpack(dict(stored))
        except Exception as error:  # whatever a zip or array reader stumbles over
            log.warning("The cache %s is damaged (%s); decoding the images again.", cached, error)
        else:
            if found.skipped and not skip_bad:
                raise unreadable(found.skipped[0])
            return found

    images, labels, skipped, fingerprint = {}, {}, [], hashlib.sha256()
    options = {"image_size": image_size, "num_channels": num_channels, "fit": fit}
    for split, pairs in files.items():
        paths = [path for path, _ in pairs]
        decoded, digests, bad = decode_all(paths, skip_bad=skip_bad, **options)
        skipped += list(bad.values())
        good = np.array([path not in bad for path in paths])
        images[split] = decoded if good.all() else decoded[good]
        labels[split] = np.array([label for _, label in pairs], dtype=np.int64)[good]
        for path, digest in zip(paths, digests, strict=True):
            fingerprint.update(os.fsencode(path.relative_to(root).as_posix()) + digest)
    found = Images(images, labels, fingerprint.hexdigest(), skipped)
    write_cache(cached, pack(found))
    return found


def pack(found: Images) -> dict[str, Array]:
    arrays = {f"images/{split}": array for split, array in found.images.items()}
    arrays |= {f"labels/{split}": array for split, array in found.labels.items()}
    return arrays | {"fingerprint": np.array(found.fingerprint), "skipped": np.array(found.skipped, dtype=np.str_)}


def unpack(arrays: dict[str, Array]) -> Images:
    def of(kind: str) -> dict[str, Array]:
        return {key.removeprefix(kind): array for key, array in arrays.items() if key.startswith(kind)}

    return Images(of("images/"), of("labels/"), str(arrays["fingerprint"]), arrays["skipped"].tolist())


def write_cache(path: Path, arrays: dict[str, Array]) -> None:
    """Write beside, then rename; a cache that cannot be written costs the next start some time and nothing else."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        log.warning("data.cache: %s cannot be written (%s); the next start decodes again.", path, error)


def decode_all(paths: list[Path], *, skip_bad: bool, **options: Any) -> tuple[Array, list[bytes], dict[Path, str]]:
    """Decode files in parallel; ``options`` go to ``images.decode``.

    Returns:
        uint8 [n, c, h, w], the hash of each file's bytes, and the files that could not be decoded, with the reason.

    Raises:
        Refused: one could not be decoded, unless ``skip_bad``.
    """
    size, channels = options["image_size"], options["num_channels"]
    images = np.zeros((len(paths), channels, size, size), dtype=np.uint8)
    hashes: list[bytes] = []
    bad: dict[Path, str] = {}
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    # Threads would share one interpreter lock: a third of the speed. Forked children touch neither torch nor rich.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    workers = min(os.cpu_count() or 1, len(chunks))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as pool:
        results = track(
            pool.map(partial(decode_files, **options), chunks),
            description="Decoding images",
            total=len(chunks),
            console=console,
            disable=not console.is_terminal,
        )
        try:
            for decoded, digests, failed in results:
                images[len(hashes) : len(hashes) + len(decoded)] = decoded
                hashes += digests
                bad |= failed
                if bad and not skip_bad:
                    raise unreadable(next(iter(bad.values())))
        except BrokenProcessPool as error:
            raise Refused("data.root: a process that decodes images was killed; is there too little memory?") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images, hashes, bad


def unreadable(reason: str) -> Refused:
    return Refused(f"data.root: {reason}; mend or remove it, or go on without such files: data.skip_bad=true")


def start_worker() -> None:
    """A decoding process leaves Ctrl-C to its parent, ends with it, and keeps Pillow's doubts about a file quiet."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def decode_files(paths: list[Path], **options: Any) -> tuple[Array, list[bytes], dict[Path, str]]:
    size, channels = options["image_size"], options["num_channels"]
    images = np.zeros((len(paths), channels, size, size), dtype=np.uint8)
    hashes, bad = [], {}
    for position, path in enumerate(paths):
        content = b""
        try:
            content = path.read_bytes()
            images[position] = decode(content, **options)
        except Exception as error:  # Pillow's decoders raise nearly everything for a damaged file
            bad[path] = why_unreadable(path, content, error)
        hashes.append(hashlib.sha256(content).digest())
    return images, hashes, bad


def why_unreadable(path: str | Path, content: bytes, error: Exception) -> str:
    """The file and what is wrong with it, in a line."""
    if isinstance(error, UnidentifiedImageError):
        reason = "it is not an image that Pillow knows" if content else "it is empty"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return f"{shown(path)} cannot be read as an image: {reason}"


def shown(path: str | Path) -> str:
    """A path for a message: as it is, or quoted where it holds line breaks or bytes that are no text."""
    return str(path) if str(path).isprintable() else repr(str(path))
