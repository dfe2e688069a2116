"""What a kind of fault is given, and what it may answer."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from trainings import OPTIONS, Forked, go_on, lines, missing_lines, until


@dataclasses.dataclass(frozen=True)
class Whole:
    """The run that nothing disturbs, to be compared with.

    Attributes:
        run: its folder.
        seconds: that it took.
    """

    run: Path
    seconds: float

    def aside(self, name: str) -> Path:
        """A place of this process beside it, for what else nothing disturbs."""
        return self.run.with_name(f"{name}_{os.getpid()}")


class TooLate(Exception):
    """The training was over before the fault came: it does not count."""


class Skipped(Exception):
    """The machine lacks what this kind of fault takes."""


def start(run: Path, *overrides: str, **how: Any) -> Forked:
    return Forked(*OPTIONS, *overrides, f"hydra.run.dir={run}", **how)


def killed(process: Any) -> None:
    """Kill it now.

    Raises:
        TooLate: it was over.
    """
    process.kill()
    code = process.wait()
    if code == 0:
        raise TooLate
    assert code == -9, f"it had ended with code {code}: {process.printed()}"


def ended_well(process: Any, codes: tuple[int, ...] = (0, 3)) -> None:
    """It ended with one of these codes, and no traceback."""
    code, printed = process.wait(), process.printed()
    assert code in codes, f"code {code}: {printed}"
    assert "Traceback" not in printed, f"a traceback: {printed}"


def after_lines(run: Path, number: int, **how: Any) -> Forked:
    """A training that has just written so many lines of metrics."""
    process = start(run, **how)
    until(process, lambda: lines(run) >= number)
    return process


def goes_on_to_the_same_bits(run: Path, whole: Whole, *, may_lose_lines: bool = False) -> str:
    """What is lost, in words; empty where nothing is."""
    go_on(run)
    missing = missing_lines(whole.run, run)
    assert may_lose_lines or not missing, f"{missing} lines of metrics are gone"
    return f"{missing} lines that were cut" if missing else ""
