"""How the processes of a run meet, and how they end: all at once, and with one message."""

import contextlib
import gc
import hashlib
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import cast

from vit_cnn.errors import Refused, Stopped, code_of, first_line, is_expected, one_line
from vit_cnn.processes import together
from vit_cnn.processes.together import Lost, here, is_first, refuse_unlike, told_by_another

GIVEN = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # by torchrun, or by hand
PATIENCE = timedelta(seconds=5)  # of a process that has failed, with process 0, which tells it


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Within it, the processes that torchrun has started belong together.

    Process 0 tells what goes wrong. The others leave their message to it, wait until it has told and saved, since
    torchrun ends all as soon as one has failed, and end with the same code. A process that has failed alone does not
    wait for long: process 0 may notice no sooner than it is gone.

    Raises:
        Refused: the processes do not meet, or have different commands or code.
    """
    if not os.environ.keys() >= GIVEN:
        yield
        return
    join()
    if is_first():
        signal.signal(signal.SIGTERM, ended_by_torchrun)
    ending: BaseException | None = None
    try:
        import torch

        code_files = sorted(Path(__file__).parent.parent.rglob("*.py"))
        refuse_unlike(command=shlex.join(sys.argv[1:]), code=hash_of(code_files), torch=torch.__version__)
        yield
    except BaseException as error:
        ending = error
        raise
    finally:
        code = leave(ending)
        if not is_first() and (ending is None or isinstance(ending, SystemExit) or is_expected(ending)):
            sys.exit(code)


def join() -> None:
    """Meet the other processes at the address that all were given.

    Raises:
        Refused: the port is in use, or some of them do not come.
    """
    import torch
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    rank, number = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    keeps_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun does
    try:
        make_store, make_part = dist.TCPStore, dist.PrefixStore  # type: ignore[attr-defined]
        whole = make_store(address, int(port), number, keeps_store, together.TIMEOUT, wait_for_workers=False)
        store = make_part(f"start {starts_before()}", whole)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=number, timeout=together.TIMEOUT)
    except (RuntimeError, ValueError) as error:
        if "in use" in str(error):
            raise Refused(f"MASTER_PORT={port} is in use on {socket.gethostname()}: choose another port") from error
        said = f"{number} processes were to meet at {address}:{port}, and do not: {first_line(error)}"
        raise Refused(said) from error
    here.rank, here.number, here.store = rank, number, store
    here.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    here.local_number = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def starts_before() -> int:
    """How often torchrun has started the processes before."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def leave(error: BaseException | None) -> int:
    """End the connection, and let process 0 tell ``error``; returns the exit code of the run."""
    import torch.distributed as dist

    store, code = here.store, code_of(error) if error else 0
    failed_here = error is not None and not isinstance(error, Lost)
    with contextlib.suppress(RuntimeError):  # whoever kept the store has ended
        if is_first():
            store.set("end", str(code))
        elif failed_here:
            told = {"host": socket.gethostname(), "code": code, "message": one_line(cast(BaseException, error))}
            store.set(f"error {here.rank}", json.dumps(told))
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
    gc.collect()  # closes the connections, which wakes those that wait for this one
    if not is_first():
        patience = together.TIMEOUT if error is None or isinstance(error, Stopped) else PATIENCE
        until = time.monotonic() + patience.total_seconds()
        with contextlib.suppress(RuntimeError):
            while not store.check(["end"]) and time.monotonic() < until:
                time.sleep(0.05)
            code = int(store.get("end")) if store.check(["end"]) else code
    return code


def ended_by_torchrun(number: int, frame: FrameType | None) -> None:
    """Answer SIGTERM, in process 0, outside of training: another process has failed, if it was not a person."""
    if sys.exc_info()[0] is None:  # else it is about to tell why it ends itself
        raise told_by_another() or SystemExit(128 + number)


def hash_of(files: list[Path]) -> str:
    """Of names and contents, short enough for a message."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def remember(key: str, value: str) -> None:
    """Keep a value for the processes that torchrun starts after these, where one of these dies."""
    if here.store is not None and is_first():
        here.store.underlying_store.set(key, value)


def remembered(key: str) -> str | None:
    """What process 0 kept in an earlier start, ``None`` in the first."""
    if here.store is None or not here.store.underlying_store.check([key]):
        return None
    return cast(str, here.store.underlying_store.get(key).decode())
