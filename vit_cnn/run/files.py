"""Files that survive a kill at any moment: written beside, synced, renamed."""

import contextlib
import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vit_cnn.errors import Failed, Refused, first_line
from vit_cnn.processes.together import is_first


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file, then rename it to ``path``: there is always a whole old or new file.

    Of several processes the first one writes.

    Raises:
        Failed: the disk is full, and by how much, or the folder cannot be written.
    """
    if not is_first():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        remove(temporary)  # before the free space is looked at
        raise Failed(
            f"{path} cannot be written: {why(error, path, write)}; what stood there before is whole"
        ) from error
    finally:
        remove(temporary)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, which gets its name at the end of the ``with`` block: whole or not at all.

    Raises:
        Refused: there is something already.
        Failed: it cannot be written.
    """
    check_new(path)
    whole = path.resolve()
    temporary = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    around = [folder for folder in whole.parents if not folder.exists()]
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, whole)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror or error}; nothing is left of it") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in around:
            with contextlib.suppress(OSError):  # it holds the new folder
                folder.rmdir()


def check_new(path: Path) -> None:
    """Refuse a folder in which there is something, and a file."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Refused(f"{path} exists already: choose another folder")


def remove_torn(folder: Path, name: str = "*") -> None:
    """Remove what a writer that was killed left half-written; for the only writer of files of that name there."""
    for left in folder.glob(f".{name}.*.tmp"):
        if left.suffixes[-2][1:].isdigit():  # of ours, with the number of the process
            remove(left)


def remove(path: Path) -> None:
    """Remove a file that may not be there; of several processes the first one does."""
    if not is_first():
        return
    with contextlib.suppress(OSError):  # not there, or in a folder that is read-only
        path.unlink()


def why(error: OSError | RuntimeError, path: Path, write: Callable[[BinaryIO], object]) -> str:
    """Why a file cannot be written; of a full disk, what it takes and what is there, measured by writing to nowhere."""
    if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error.strerror or str(error)
    write(sink := Nowhere())  # type: ignore[arg-type]
    free = shutil.disk_usage(path.parent).free
    is_full = isinstance(error, OSError) or free < sink.size
    reason = os.strerror(errno.ENOSPC) if is_full else first_line(error)
    return f"{reason} ({sink.size:,} bytes are needed, {free:,} are free)"


class Nowhere(io.RawIOBase):
    """Counts what is written to it, and forgets it."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that ``write_json`` wrote.

    Raises:
        Refused: it cannot be read or is damaged.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise Refused(f"{path} cannot be read: it holds a {type(value).__name__}, not a dictionary")
    return value
