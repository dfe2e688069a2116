"""What the processes of a run do together. Each has to call it, in the same order."""

import contextlib
import dataclasses
import json
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_cnn.errors import REFUSED, Failed, Refused, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TIMEOUT = timedelta(minutes=10)  # for a silent process: it may decode images while the others wait
SEEN_WITHIN = 10  # seconds, in which a new file in a shared folder has to reach other machines


@dataclasses.dataclass
class Place:
    """Which process this is.

    Attributes:
        rank: from 0, among the ``number`` processes of the run.
        local_rank: from 0, among the ``local_number`` on this machine.
        store: torch's key-value store, which any of them may write into and read; ``None`` for a process of its own.
    """

    rank: int = 0
    number: int = 1
    local_rank: int = 0
    local_number: int = 1
    store: Any = None


here = Place()  # ``joined`` changes it


class Lost(Failed):
    """Another process of the run has ended or is silent, so that this one cannot go on."""


def is_first() -> bool:
    """Whether this is the process that writes, logs and decides."""
    return here.rank == 0


def add(values: "Tensor") -> "Tensor":
    """The sum of ``values`` over all processes, in place: the same bits in each of them."""
    if here.number > 1:
        import torch.distributed as dist

        with others_lost():
            dist.all_reduce(values)
    return values


def take_over(values: "Tensor") -> None:
    """Give ``values``, in place, what they are in process 0."""
    if here.number > 1:
        import torch.distributed as dist

        buffer = values.contiguous()
        with others_lost():
            dist.broadcast(buffer, src=0)
        values.copy_(buffer)


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is set in any process."""
    if here.number == 1:
        return flag
    import torch

    return bool(add(torch.tensor(int(flag))))


def gathered(value: Any) -> list[Any]:
    """The plain ``value`` of each process, by rank."""
    if here.number == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * here.number
    with others_lost():
        dist.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """The plain ``value`` of process 0."""
    return gathered(value if is_first() else None)[0]


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Process 0 goes first, then the first on each other machine, then the rest: one fills a cache, the others read."""
    mine = 0 if is_first() else 1 if here.local_rank == 0 else 2
    for turn in range(3):
        if turn == mine:
            yield
        gathered(None)


def refuse_unlike(**values: object) -> None:
    """End all processes where one has other ``values`` than process 0, such as another command.

    Raises:
        Refused: names the process, its machine and both values.
    """
    first, *others = gathered((socket.gethostname(), values))
    for rank, (host, theirs) in enumerate(others, start=1):
        for name, value in theirs.items():
            if value != first[1][name]:
                raise Refused(
                    f"process {rank} on {host} has another {name} than process 0 on {first[0]}: {value} there, "
                    f"{first[1][name]} here; all have to be the same"
                )


def refuse_hidden(folder: Path) -> None:
    """End all processes where one does not see ``folder``, in which process 0 writes.

    Raises:
        Refused: names the process and its machine.
    """
    mark = folder / ".hydra" / from_first(f"seen-{secrets.token_hex(4)}")
    if is_first():
        mark.touch()
    gathered(None)
    deadline = time.monotonic() + SEEN_WITHIN  # network file systems take a moment
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    seen = gathered((socket.gethostname(), mark.exists()))
    if is_first():
        mark.unlink(missing_ok=True)
    for rank, (host, is_seen) in enumerate(seen):
        if not is_seen:
            raise Refused(f"process {rank} on {host} does not see {folder}: choose a folder that all machines share")


def own_device(name: str) -> "torch.device":
    """The device of this process: ``cuda`` is another GPU in each process of a machine."""
    import torch

    device = torch.device(name)
    if device.type == "cuda":  # streams belong to the device that is set
        torch.cuda.set_device(here.local_rank if here.number > 1 else device.index or 0)
    return device


@contextlib.contextmanager
def others_lost() -> Iterator[None]:
    """Say why the processes cannot act together any more, in the words of the one that has ended, if it left any."""
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise
        if told := told_by_another():
            raise told from error
        text = first_line(error)
        what = f"has not answered for {TIMEOUT.total_seconds():g} seconds" if "imed out" in text else "has ended"
        cause = "it was killed, or its machine or the network between is gone"
        unknown = "" if "onnection" in text or "imed out" in text else f" ({text})"
        raise Lost(f"another process of this run {what}: {cause}{unknown}") from error


def told_by_another() -> Refused | Lost | None:
    """What another process has left as its last word."""
    for rank in range(here.number):
        with contextlib.suppress(RuntimeError):  # whoever kept the store is gone
            if here.store.check([f"error {rank}"]):
                told = json.loads(here.store.get(f"error {rank}"))
                kind = Refused if told["code"] == REFUSED else Lost
                return kind(f"process {rank} on {told['host']}: {told['message']}")
    return None
