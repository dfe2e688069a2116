"""A disk that is full, or broken: each call that writes into the run folder fails once, in turn."""

import contextlib
import functools
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainings import Forked

from faults.kinds import Skipped, TooLate, Whole, ended_well, goes_on_to_the_same_bits, start

CALLS = "openat,write,pwrite64,writev,ftruncate,fsync,rename,renameat,renameat2,link,linkat,mkdir,mkdirat"
LINE = re.compile(r"^(?P<thread>\d+) +(?P<call>\w+)\(")


def failing(error: str) -> Callable[[Path, Whole], str]:
    """Round by round, another call of those that a whole run makes: first one of each name on each file, at random."""
    order: list[tuple[str, int]] = []

    def fail(run: Path, whole: Whole) -> str:
        if not order:
            order.extend(in_turn(writing_calls(whole)))
        call, number = order.pop(0)
        log = run.with_suffix(".strace")
        process = traced(run, log, "-e", f"inject={call}:error={error}:when={number}")
        failed = [line for line in log.read_text().splitlines() if "(INJECTED)" in line]
        if not failed or not all(str(run) in line for line in failed):
            raise TooLate  # the numbers have moved, and it was another call
        ended_well(process, codes=(0, 1, 2))
        return goes_on_to_the_same_bits(run, whole)

    return fail


def in_turn(calls: dict[tuple[str, str], list[int]]) -> list[tuple[str, int]]:
    """All of them, in rounds of one of each name on each file, in a random order."""
    shuffled = [(name, random.sample(numbers, len(numbers))) for (name, _), numbers in calls.items()]
    random.shuffle(shuffled)
    rounds = itertools.zip_longest(*([(name, number) for number in numbers] for name, numbers in shuffled))
    return [call for round in rounds for call in round if call]


def traced(run: Path, log: Path, *options: str) -> Forked:
    """A training under strace, which notes the calls that write, and lets one fail."""
    if not shutil.which("strace"):
        raise Skipped("there is no strace here")
    process = start(run, prepare=lambda: os.kill(os.getpid(), signal.SIGSTOP))
    os.waitpid(process.pid, os.WUNTRACED)
    call = ["strace", "-f", "-y", "-qq", "-e", "signal=none", "-e", f"trace={CALLS}", *options]
    tracer = subprocess.Popen([*call, "-o", str(log), "-p", str(process.pid)], stderr=subprocess.PIPE)
    status = Path(f"/proc/{process.pid}/status")
    while "TracerPid:\t0\n" in status.read_text():
        if tracer.poll() is not None:
            process.kill()
            process.wait()
            raise Skipped(f"strace cannot be used here: {tracer.stderr.read().decode().strip()}")
        time.sleep(0.005)
    process.send_signal(signal.SIGCONT)
    process.wait()
    tracer.wait()
    return process


@functools.cache
def writing_calls(whole: Whole) -> dict[tuple[str, str], list[int]]:
    """The calls that write into the run folder, by name and file: the number of each among those of its name."""
    run, log = whole.aside("traced"), whole.aside("traced.strace")
    ended_well(traced(run, log), codes=(0,))
    count: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, str], list[int]] = {}
    for line in log.read_text().splitlines():
        if match := LINE.match(line):
            key = (match["thread"], match["call"])
            count[key] = count.get(key, 0) + 1
            if str(run) in line and (match["call"] != "openat" or "O_CREAT" in line):
                file = re.sub(r"\d+", "", line.rpartition(str(run))[2].split(">")[0].split('"')[0])
                found.setdefault((match["call"], file), []).append(count[key])
    assert found, "strace saw no call that writes"
    return found


def a_small_one(run: Path, whole: Whole) -> str:
    """One of a megabyte, with room for some of the run."""
    with mounted(run.with_name(f"{run.name}_disk"), size="1m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(os.statvfs(disk).f_bavail * 4096 - random.randrange(500_000) // 4096 * 4096))
        process = start(disk / "run")
        ended_well(process, codes=(0, 1, 2))
        ballast.unlink()
        if process.returncode == 0:
            raise TooLate
        assert "No space left on device" in process.printed(), process.printed()
        return goes_on_to_the_same_bits(disk / "run", whole)


@contextlib.contextmanager
def mounted(disk: Path, *, size: str) -> Iterator[Path]:
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise Skipped("no disk can be mounted here: that takes root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


KINDS = {
    "no space (ENOSPC) at one call": failing("ENOSPC"),
    "disk error (EIO) at one call": failing("EIO"),
    "a small disk that is full": a_small_one,
}
