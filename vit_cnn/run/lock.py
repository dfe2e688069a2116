"""What one process alone may do at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vit_cnn.errors import Refused


@contextmanager
def locked(file: Path, *, folder: Path) -> Iterator[None]:
    """Keep other processes out of the ``with`` block; the system lets go of the lock however this process ends.

    Args:
        file: of the lock, empty, in a folder that exists.
        folder: what the lock is for.

    Raises:
        Refused: another process has it.
    """
    try:
        with FileLock(file, timeout=0):
            yield
    except Timeout as error:
        raise Refused(f"{folder} is in use by another process: wait for its end, or choose another folder") from error
