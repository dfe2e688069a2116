"""Files that a disk has damaged."""

import random
from collections.abc import Callable
from pathlib import Path

from trainings import Forked, lines, until

from faults.kinds import TooLate, Whole, after_lines, goes_on_to_the_same_bits


def flipped(content: bytearray) -> bytearray:
    """With one bit turned over."""
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return content


def cut(content: bytearray) -> bytearray:
    return content[: random.randrange(len(content))]


def damaged(name: str, how: Callable[[bytearray], bytearray]) -> Callable[[Path, Whole], str]:
    """Stop twice, so that there are two checkpoints, then damage one file."""

    def damage(run: Path, whole: Whole) -> str:
        process = after_lines(run, 8)
        process.send_signal(15)
        if process.wait() == 0:
            raise TooLate
        process = Forked(f"resume={run}")
        until(process, lambda: lines(run) >= 14)
        process.send_signal(15)
        if process.wait() == 0:
            raise TooLate
        (run / name).write_bytes(how(bytearray((run / name).read_bytes())))
        return goes_on_to_the_same_bits(run, whole, may_lose_lines=name == "metrics.jsonl")

    return damage


KINDS = {
    "last.pt with a flipped bit": damaged("last.pt", flipped),
    "last.pt cut short": damaged("last.pt", cut),
    "best.pt with a flipped bit": damaged("best.pt", flipped),
    "best.pt cut short": damaged("best.pt", cut),
    "metrics.jsonl cut short": damaged("metrics.jsonl", cut),
}
