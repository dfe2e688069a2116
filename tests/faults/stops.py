"""Asked to stop, by a signal or by a terminal that goes away."""

import contextlib
import fcntl
import os
import pty
import random
import signal
import termios
import time
from collections.abc import Callable
from pathlib import Path

from trainings import lines, until

from faults.kinds import TooLate, Whole, after_lines, ended_well, goes_on_to_the_same_bits, start


def stopped(number: int, *, times: int = 1) -> Callable[[Path, Whole], str]:
    def stop(run: Path, whole: Whole) -> str:
        process = after_lines(run, random.randint(1, 18))
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.005)
        ended_well(process)
        if process.returncode == 0:
            raise TooLate
        return goes_on_to_the_same_bits(run, whole)

    return stop


def terminal_closed(run: Path, whole: Whole) -> str:
    """The kernel sends SIGHUP, and whatever is printed from then on fails."""
    process = reader_leaves(run, *pty.openpty(), is_its_own=True)
    assert process.wait() in (0, 3), f"it ended with {process.returncode} after {lines(run)} lines"
    return goes_on_to_the_same_bits(run, whole)


def terminal_lost(run: Path, whole: Whole) -> str:
    """Without a signal, as after ``disown``: the training goes on, though nobody sees it."""
    process = reader_leaves(run, *pty.openpty(), is_its_own=False)
    assert process.wait() == 0, f"it ended with {process.returncode} after {lines(run)} lines"
    return goes_on_to_the_same_bits(run, whole)


def pipe_closed(run: Path, whole: Whole) -> str:
    """As after ``| head``."""
    process = reader_leaves(run, *os.pipe(), is_its_own=False)
    assert process.wait() == 0, f"it ended with {process.returncode} after {lines(run)} lines"
    return goes_on_to_the_same_bits(run, whole)


def reader_leaves(run: Path, ours: int, theirs: int, *, is_its_own: bool) -> object:
    """A training that prints into ``theirs``, whose other end is closed at some moment."""

    def print_there() -> None:
        os.close(ours)
        os.setsid()
        if is_its_own:
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        for descriptor in (1, 2):
            os.dup2(theirs, descriptor)
        os.close(theirs)

    process = start(run, prepare=print_there)
    os.close(theirs)
    os.set_blocking(ours, False)
    wanted = random.randint(1, 18)
    until(process, lambda: read_away(ours) and lines(run) >= wanted)
    os.close(ours)
    return process


def read_away(descriptor: int) -> bool:
    """Keep what is printed from filling up."""
    with contextlib.suppress(OSError):
        os.read(descriptor, 1 << 16)
    return True


KINDS = {
    "SIGTERM": stopped(signal.SIGTERM),
    "Ctrl-C": stopped(signal.SIGINT),
    "Ctrl-C twice": stopped(signal.SIGINT, times=2),
    "terminal closed (SIGHUP)": terminal_closed,
    "terminal lost without a signal": terminal_lost,
    "pipe closed": pipe_closed,
}
