"""Break trainings in every way that happens, and count what is lost: ``make faults ARGS="--rounds 3"``.

Real processes: one run is left alone; of the others each has one fault, goes on, and is compared with it bit by bit.
"""

import argparse
import csv
import functools
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from helpers import run as train_run
from rich import box
from rich.table import Table
from trainings import go_on

from faults import crowds, damage, disk, kills, online, stops
from faults.kinds import Skipped, TooLate, Whole
from vit_cnn.console import console

KINDS = {**kills.KINDS, **stops.KINDS, **damage.KINDS, **disk.KINDS, **crowds.KINDS, **online.KINDS}
COLUMNS = ("fault", "injected", "survived", "lost")
TRIES = 5  # for a fault that comes too late


def main() -> None:
    parser = argparse.ArgumentParser(prog="make faults", description="Break trainings, and count what is lost")
    parser.add_argument("--rounds", type=int, default=1, help="faults of each kind (default: 1)")
    parser.add_argument("--only", default="", help="kinds whose name has this in it, a regular expression")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the bits")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="kinds at a time (default: one a core)")
    parser.add_argument("--out", type=Path, help="a CSV file for the table")
    arguments = parser.parse_args()
    rows, wrong = [], []
    with tempfile.TemporaryDirectory() as folder:
        train_run(str(Path(folder, "first")), "max_steps=1", "wandb.mode=disabled")  # what it imports, all forks have
        started = time.monotonic()
        go_on(Path(folder, "whole"))
        whole = Whole(Path(folder, "whole"), seconds=time.monotonic() - started)
        if not (kinds := [kind for kind in KINDS if re.search(arguments.only, kind)]):
            parser.error(f"--only {arguments.only}: no kind has this in its name")
        ask = functools.partial(campaign, whole=whole, rounds=arguments.rounds, seed=arguments.seed)
        with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("fork")) as pool:
            for kind, (injected, lost, errors) in zip(kinds, pool.map(ask, kinds), strict=True):
                rows.append((kind, injected, max(0, injected - len(errors)), "; ".join([*lost, *errors]) or "nothing"))
                wrong += errors
                console.print(*rows[-1], f"({time.monotonic() - started:.0f} s)", sep="  ")
    table = Table(*COLUMNS, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
    if arguments.out:
        with open(arguments.out, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    sys.exit(bool(wrong))


def campaign(kind: str, *, whole: Whole, rounds: int, seed: int) -> tuple[int, list[str], list[str]]:
    """Faults of one kind: how many were injected, what was lost as it has to be, and what went wrong."""
    random.seed(f"{seed} {kind}")
    injected, lost, errors = 0, [], []
    for number in range(rounds):
        for again in range(TRIES):
            run = whole.run.with_name(re.sub(r"\W+", "_", f"{kind} {number} {again}"))
            try:
                missing = KINDS[kind](run, whole)
                injected += 1
                lost += [missing] if missing else []
            except TooLate:
                continue
            except Skipped as reason:
                return 0, [f"left out: {reason}"], []
            except Exception as error:  # whatever stumbles over what is left
                injected += 1
                errors.append(f"round {number}: {type(error).__name__}: {' '.join(str(error).split())[-400:]}")
                console.print(kind, number, error, style="red")
            finally:
                for left in run.parent.glob(f"{run.name}*"):
                    shutil.rmtree(left, ignore_errors=True)
            break
        else:
            errors.append(f"round {number}: it came too late {TRIES} times")
    return injected, lost, errors


if __name__ == "__main__":
    main()
