"""SIGKILL, at any moment of a training, a sweep and a report."""

import functools
import random
import time
from pathlib import Path

from trainings import OPTIONS, Forked, Training, go_on, has_begun, hashes, lines, missing_lines, until

from faults.kinds import Whole, after_lines, ended_well, goes_on_to_the_same_bits, killed, start
from vit_cnn.report import __main__ as report
from vit_cnn.report import jobs

GRID = [*(each for each in OPTIONS if not each.startswith("seed=")), "seed=3,4"]


def at_a_random_moment(run: Path, whole: Whole) -> str:
    process = start(run)
    time.sleep(random.uniform(0, 0.9) * whole.seconds)
    killed(process)
    return goes_on_to_the_same_bits(run, whole)


def of_a_new_process(run: Path, whole: Whole) -> str:
    """Which takes its time to import everything; and so does the one that goes on."""
    process = Training(*OPTIONS, f"hydra.run.dir={run}")
    wanted = random.randint(-20, 20)
    if wanted <= 0:
        time.sleep(random.uniform(0, 5))
    else:
        until(process, lambda: lines(run) >= wanted)
    killed(process)
    go_on(run, Training)
    assert missing_lines(whole.run, run) == 0
    return ""


def while_training(run: Path, whole: Whole) -> str:
    process = after_lines(run, random.randint(1, 20))
    time.sleep(random.uniform(0, 0.02))
    killed(process)
    return goes_on_to_the_same_bits(run, whole)


def while_evaluating(run: Path, whole: Whole) -> str:
    """An epoch has five lines of training, then the one of its evaluation."""
    process = after_lines(run, 6 * random.randint(0, 3) + 5)
    time.sleep(random.uniform(0, 0.005))
    killed(process)
    return goes_on_to_the_same_bits(run, whole)


def while_writing_a_checkpoint(run: Path, whole: Whole) -> str:
    name = random.choice(("last", "best"))
    process = after_lines(run, 6 * random.randint(0, 3) + 5)
    until(process, lambda: any(run.glob(f".{name}.pt.*.tmp")))
    killed(process)
    return goes_on_to_the_same_bits(run, whole)


def in_the_final_pass(run: Path, whole: Whole) -> str:
    process = start(run)
    until(process, (run / "test_looks.jsonl").exists)
    time.sleep(random.uniform(0, 0.03))
    killed(process)
    return goes_on_to_the_same_bits(run, whole)


def three_times(run: Path, whole: Whole) -> str:
    for _ in range(3):
        wanted = min(20, lines(run) + random.randint(1, 7))
        process = Forked(f"resume={run}") if has_begun(run) else start(run)
        until(process, lambda wanted=wanted: lines(run) >= wanted)
        killed(process)
    return goes_on_to_the_same_bits(run, whole)


def in_a_sweep(run: Path, whole: Whole) -> str:
    """The same command goes on with it."""
    undisturbed, seconds = whole_sweep(whole)
    process = sweep(run)
    time.sleep(random.uniform(0, 1) * seconds)
    killed(process)
    ended_well(sweep(run), codes=(0,))
    for job in undisturbed.glob("seed-*"):
        assert missing_lines(job, run / job.name) == 0
    return ""


def sweep(folder: Path) -> Forked:
    return Forked("-m", *GRID, f"hydra.sweep.dir={folder}", prepare=without_report)


def without_report() -> None:
    jobs.write_report = lambda folders, sweep_dir: None


@functools.cache
def whole_sweep(whole: Whole) -> tuple[Path, float]:
    """The folder of one that nothing disturbs, and the seconds that it took."""
    folder, started = whole.aside("whole_sweep"), time.monotonic()
    ended_well(sweep(folder), codes=(0,))
    return folder, time.monotonic() - started


def in_a_report(run: Path, whole: Whole) -> str:
    """The run it is about stays as it is, and the same command makes the report anew."""
    undisturbed, seconds = whole_report(whole)
    before = hashes(whole.run)
    process = report_of(whole.run, out=run)
    time.sleep(random.uniform(0.1, 1) * seconds)
    killed(process)
    ended_well(report_of(whole.run, out=run), codes=(0,))
    assert hashes(whole.run) == before
    here, there = ({path.name for path in folder.rglob("*")} for folder in (run, undisturbed))
    assert here == there, f"other files: {', '.join(here ^ there)}"
    return ""


def report_of(run: Path, *, out: Path) -> Forked:
    return Forked(str(run), "--out", str(out), main=report.main)


@functools.cache
def whole_report(whole: Whole) -> tuple[Path, float]:
    folder, started = whole.aside("whole_report"), time.monotonic()
    ended_well(report_of(whole.run, out=folder), codes=(0,))
    return folder, time.monotonic() - started


KINDS = {
    "SIGKILL at a random moment": at_a_random_moment,
    "SIGKILL of a new process": of_a_new_process,
    "SIGKILL while training": while_training,
    "SIGKILL while evaluating": while_evaluating,
    "SIGKILL while writing a checkpoint": while_writing_a_checkpoint,
    "SIGKILL in the final pass": in_the_final_pass,
    "SIGKILL three times": three_times,
    "SIGKILL in a sweep": in_a_sweep,
    "SIGKILL in a report": in_a_report,
}
