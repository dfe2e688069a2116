"""A folder of images as uint8 arrays, decoded once in parallel and cached.

Does not import torch, so that the decoding processes start quickly.
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
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from vit_cnn.arrays import Array, read_arrays
from vit_cnn.console import console
from vit_cnn.errors import Refused, limit_reached
from vit_cnn.images.decode import decode, why_unreadable
from vit_cnn.images.tree import class_names, folder_of, image_files, splits_of

log = logging.getLogger(__name__)

FORMAT = "2"  # of the cache; a new number when decoding changes

CHUNK = 500  # files a process decodes at a time

STALE_SECONDS = 3600  # age at which a half-written cache must be one that a killed process left


@dataclasses.dataclass(frozen=True)
class Images:
    """Decoded images of ``train``, ``test`` and perhaps ``val``, or of ``all`` where the folder has no such splits.

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
    settings = f"{root.resolve()} {image_size} {num_channels} {fit}"
    of_this_folder = f"{slug}-{image_size}px-{hashlib.sha256(os.fsencode(settings)).hexdigest()[:8]}"
    cached = cache / f"{of_this_folder}-{state.hexdigest()[:16]}.npz"
    if cached.exists():
        try:
            found = unpack(read_arrays(cached))
            check_cached(found, files, (num_channels, image_size, image_size))
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
    if cached.exists():
        with contextlib.suppress(OSError):  # what is left over costs space and nothing else
            for before in cache.glob(f"{of_this_folder}-*.npz"):
                if before != cached:  # of the same folder, before a file of it was changed
                    before.unlink(missing_ok=True)
    return found


def pack(found: Images) -> dict[str, Array]:
    arrays = {f"images/{split}": array for split, array in found.images.items()}
    arrays |= {f"labels/{split}": array for split, array in found.labels.items()}
    return arrays | {"fingerprint": np.array(found.fingerprint), "skipped": np.array(found.skipped, dtype=np.str_)}


def unpack(arrays: dict[str, Array]) -> Images:
    def of(kind: str) -> dict[str, Array]:
        return {key.removeprefix(kind): array for key, array in arrays.items() if key.startswith(kind)}

    return Images(of("images/"), of("labels/"), str(arrays["fingerprint"]), arrays["skipped"].tolist())


def check_cached(found: Images, files: dict[str, list[Any]], shape: tuple[int, ...]) -> None:
    """A cache of another making must not reach a training as images of other sizes or numbers."""
    whole = sum(map(len, files.values())) == sum(map(len, found.labels.values())) + len(found.skipped)
    if not whole or not files.keys() == found.images.keys() == found.labels.keys():
        raise ValueError("it is of other files")
    for split, images in found.images.items():
        if images.dtype != np.uint8 or images.shape != (len(found.labels[split]), *shape):
            raise ValueError(f"its images of {split} are {images.dtype} {list(images.shape)}")


def write_cache(path: Path, arrays: dict[str, Array]) -> None:
    """Write beside, then rename; a cache that cannot be written costs the next start some time and nothing else."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".*.npz.*.tmp"):
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
            if limit_reached(error) and not isinstance(error, PermissionError):
                raise  # it is not the file's fault, and skip_bad must not leave it out
            bad[path] = why_unreadable(path, content, error)
        hashes.append(hashlib.sha256(content).digest())
    return images, hashes, bad
