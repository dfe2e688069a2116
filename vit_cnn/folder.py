"""A tree of images, ``<root>/{train,test}/<class>/*``, decoded once and cached as uint8 arrays.

Does not import torch: the decoding processes start quickly, and the config reads sizes and classes from here.
"""

import contextlib
import hashlib
import io
import logging
import multiprocessing
import os
import re
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from vit_cnn.display import console
from vit_cnn.errors import Refused

log = logging.getLogger(__name__)

SPLITS = ("train", "test")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
FORMAT = "1"  # of the cache; a new number when decoding changes
CHUNK = 500  # files a process decodes at a time

Arrays = dict[str, np.ndarray[Any, Any]]


def class_names(root: Path) -> list[str]:
    """Names of the class folders, sorted: the label of a class is its position.

    Raises:
        Refused: no such tree, no class, or classes that differ between train and test.
    """
    found = {}
    for split in SPLITS:
        folder = root / split
        if not folder.is_dir():
            raise Refused(
                f"data.root={root}: there is no folder {folder}; expected {root}/{{train,test}}/<class>/*.jpg"
            )
        found[split] = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
        if not found[split]:
            raise Refused(f"data.root={root}: {folder} holds no class folders; expected {folder}/<class>/*.jpg")
    if different := set(found["train"]) ^ set(found["test"]):
        name = min(different)
        there, missing = ("train", "test") if name in found["train"] else ("test", "train")
        raise Refused(
            f"data.root={root}: class {name!r} is in {there} but not in {missing} ({len(different)} classes differ); "
            "both need the same class folders"
        )
    return found["train"]


def image_files(folder: Path) -> list[Path]:
    """The image files of a class, sorted by name.

    Raises:
        Refused: there is none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not files:
        raise Refused(f"data.root: class folder {folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return files


def common_image_size(root: Path) -> int:
    """Side in pixels that the first training image of each class shares.

    Raises:
        Refused: they differ or are not square, so that a size has to be chosen.
    """
    sizes = set()
    for name in class_names(root):
        path = image_files(root / "train" / name)[0]
        try:
            with Image.open(path) as image:  # reads the header only
                sizes.add(image.size)
        except (OSError, ValueError) as error:
            raise Refused(f"data.root: {path} cannot be read as an image: {error}") from error
    width, height = min(sizes)
    if len(sizes) > 1 or width != height:
        found = ", ".join(f"{w}×{h}" for w, h in sorted(sizes)[:3])
        raise Refused(f"data.image_size has to be given, such as data.image_size=32: the images are {found}")
    return width


def read_folder(root: Path, *, image_size: int, num_channels: int, cache: Path) -> tuple[Arrays, str]:
    """Decode every image of the tree, or read what an earlier start decoded.

    The cache is found under the files' names, sizes and times of change; its content carries a checksum, and a
    damaged one is made anew.

    Returns:
        ``train_images`` and ``test_images`` uint8 [n, c, h, w] with ``train_labels`` and ``test_labels`` int64 [n],
        and the fingerprint of the files' names and bytes.

    Raises:
        Refused: the tree or an image cannot be used.
    """
    classes = class_names(root)
    files = {
        split: [(path, label) for label, name in enumerate(classes) for path in image_files(root / split / name)]
        for split in SPLITS
    }
    state = hashlib.sha256(f"{FORMAT} {image_size} {num_channels}".encode())
    for split in SPLITS:
        for path, _ in files[split]:
            stat = path.stat()
            state.update(f"{path.relative_to(root)}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\0".encode())
    slug = re.sub(r"\W+", "-", root.resolve().name)
    cached = cache / f"{slug}-{image_size}px-{state.hexdigest()[:16]}.npz"
    if cached.exists():
        try:
            with np.load(cached) as stored:
                arrays = dict(stored)
            return arrays, str(arrays.pop("fingerprint"))
        except Exception as error:  # whatever a zip or array reader stumbles over
            log.warning("The cache %s is damaged (%s); decoding the images again.", cached, error)

    arrays, fingerprint = {}, hashlib.sha256()
    for split in SPLITS:
        paths = [path for path, _ in files[split]]
        arrays[f"{split}_images"], hashes = decode_all(paths, image_size=image_size, num_channels=num_channels)
        arrays[f"{split}_labels"] = np.array([label for _, label in files[split]], dtype=np.int64)
        for path, digest in zip(paths, hashes, strict=True):
            fingerprint.update(path.relative_to(root).as_posix().encode() + digest)
    write_cache(cached, arrays | {"fingerprint": np.array(fingerprint.hexdigest())})
    return arrays, fingerprint.hexdigest()


def write_cache(path: Path, arrays: Arrays) -> None:
    """Write beside, then rename; a cache that cannot be written costs the next start some time and nothing else."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        log.warning("data.cache: %s cannot be written (%s); the next start decodes again.", path, error)


def decode_all(paths: list[Path], *, image_size: int, num_channels: int) -> tuple[np.ndarray[Any, Any], list[bytes]]:
    """Decode files in parallel: uint8 [n, c, h, w] and the hash of each file's bytes."""
    images = np.empty((len(paths), num_channels, image_size, image_size), dtype=np.uint8)
    hashes: list[bytes] = []
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    decode = partial(decode_files, image_size=image_size, num_channels=num_channels)
    # Threads would share one interpreter lock: a third of the speed. Forked children touch neither torch nor rich.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    workers = min(os.cpu_count() or 1, len(chunks))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=live_with_parent) as pool:
        results = track(
            pool.map(decode, chunks),
            description="Decoding images",
            total=len(chunks),
            console=console,
            disable=not console.is_terminal,
        )
        try:
            for decoded, digests in results:
                images[len(hashes) : len(hashes) + len(decoded)] = decoded
                hashes += digests
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images, hashes


def live_with_parent() -> None:
    """A decoding process leaves Ctrl-C to its parent, and ends when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def decode_files(paths: list[Path], *, image_size: int, num_channels: int) -> tuple[np.ndarray[Any, Any], list[bytes]]:
    images = np.empty((len(paths), num_channels, image_size, image_size), dtype=np.uint8)
    hashes = []
    for position, path in enumerate(paths):
        try:
            content = path.read_bytes()
            images[position] = decode(content, image_size=image_size, num_channels=num_channels)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all of these
            raise Refused(f"data.root: {path} cannot be read as an image: {error}") from None
        hashes.append(hashlib.sha256(content).digest())
    return images, hashes


def decode(content: bytes, *, image_size: int, num_channels: int) -> np.ndarray[Any, Any]:
    """Bytes of an image file → uint8 [c, h, w], resized (antialiased) to a square of ``image_size`` pixels."""
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("L" if num_channels == 1 else "RGB")
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image_size, image_size, num_channels).transpose(2, 0, 1)
