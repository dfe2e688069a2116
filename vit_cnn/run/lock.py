"""One writer at a time in a run folder: a lock that the operating system takes back, however the process ends."""

import contextlib
import fcntl
import functools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from vit_cnn.errors import Refused
from vit_cnn.processes.together import is_first
from vit_cnn.run.files import remove_torn

log = logging.getLogger(__name__)

FILE = Path(".hydra", "lock")  # in the run folder while a process writes there; a kill leaves it, but not locked

FRESH = 3600  # seconds

HELD: set[Path] = set()  # folders that this process has locked

Result = TypeVar("Result")


@contextlib.contextmanager
def only_writer(run_dir: Path) -> Iterator[None]:
    """Within the ``with`` block no other process writes into ``run_dir``; this one may enter it again.

    Not promised on NFS: there it holds as far as server and mount pass locks on (``nolock`` and ``local_lock`` do not,
    between machines). A file system without any locks costs a warning, and two writers are then not noticed.

    Raises:
        Refused: another process writes there, which is named; or nobody can, since the folder is read-only.
    """
    folder = run_dir.resolve()
    if folder in HELD:
        yield
        return
    path = run_dir / FILE
    file = opened(path)
    HELD.add(folder)
    remove_torn(run_dir)
    remove_torn(path.parent)
    try:
        yield
    finally:
        HELD.remove(folder)
        with contextlib.suppress(OSError):  # the folder may be gone, or not empty unless the run never began
            path.unlink()
            path.parent.rmdir()
        file.close()


def opened(path: Path) -> IO[str]:
    """The open lock file; closing it gives the lock back."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+")
            lock(file, path)
            if is_the_one_at(path, file):  # else its last owner has just removed it
                with contextlib.suppress(OSError):  # a full disk, which is told where something has to be written
                    os.ftruncate(file.fileno(), 0)
                    os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        except OSError as error:
            raise Refused(f"{path.parent.parent} cannot be written: {error.strerror}") from error
        file.close()


def is_locked(run_dir: Path) -> bool:
    """Whether a process has locked the folder; it looks so, too, where the file system has no locks."""
    try:
        with open(run_dir / FILE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def is_written_elsewhere(run_dir: Path) -> bool:
    """Whether a process of another machine seems to write there: its lock file is there, its metrics are not old."""
    with contextlib.suppress(OSError, ValueError):
        _, on, machine = (run_dir / FILE).read_text().partition(" on ")
        is_fresh = time.time() - (run_dir / "metrics.jsonl").stat().st_mtime < FRESH
        return bool(on) and machine != socket.gethostname() and is_fresh
    return False


def lock(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read() or "another process"
        file.close()
        raise Refused(f"{path.parent.parent} is being written by {owner}: wait for it, or stop it first") from None
    except OSError as error:
        log.warning("%s cannot be locked (%s): see to it yourself that nothing else writes there.", path, error)


def is_the_one_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def alone(train: Callable[[DictConfig, Path], Result]) -> Callable[[DictConfig, Path], Result]:
    """Make ``train(cfg, run_dir)`` the only writer of ``run_dir`` until it is done; of several processes, the first."""

    @functools.wraps(train)
    def train_alone(cfg: DictConfig, run_dir: Path) -> Result:
        with only_writer(run_dir) if is_first() else contextlib.nullcontext():
            return train(cfg, run_dir)

    return train_alone


@contextlib.contextmanager
def locked(file: Path, *, folder: Path) -> Iterator[None]:
    """Keep other processes out of what has no run folder yet: a sweep, the next trial of a search.

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
