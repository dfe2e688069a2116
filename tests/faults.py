"""Break trainings in every way that happens, and count what is lost: ``make faults ARGS="--rounds 3"``.

Real processes: one run is left alone; of the others each has one fault, goes on, and is compared with it bit by bit. A
full disk is in ``tests/test_limits.py``.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import TINY, metrics, weights
from rich import box
from rich.table import Table

from vit_cnn.console import console

OPTIONS = [*(each for each in TINY if "epochs" not in each), "recipe.epochs=4", "model.dropout=0.1"]

Train = subprocess.Popen[bytes]


def command(*overrides: str) -> Train:
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    call = [sys.executable, "-m", "vit_cnn.train", *overrides]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


def go_on(run: Path) -> bytes:
    """The run to its end, by ``resume=`` or, where it has not begun, by the same command; what was printed."""
    has_begun = (run / ".hydra" / "config.yaml").exists()
    if not has_begun and run.exists():
        subprocess.run(["rm", "-r", str(run)], check=True)  # as the refusal says
    process = command(f"resume={run}") if has_begun else command(*OPTIONS, f"hydra.run.dir={run}")
    printed = process.communicate()[0]
    if process.returncode:
        raise AssertionError(printed.decode())
    return printed


def until(process: Train, is_there: Callable[[], bool]) -> None:
    while process.poll() is None and not is_there():
        time.sleep(0.001)


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed_at_a_random_moment(run: Path, seconds: float) -> None:
    process = command(*OPTIONS, f"hydra.run.dir={run}")
    time.sleep(random.uniform(0.2, 1) * seconds)
    process.kill()
    process.communicate()
    go_on(run)


def killed_while_training(run: Path, seconds: float) -> None:
    process = command(*OPTIONS, f"hydra.run.dir={run}")
    wanted = random.randint(1, 20)
    until(process, lambda: lines(run) >= wanted)
    process.kill()
    process.communicate()
    go_on(run)


def killed_in_the_final_pass(run: Path, seconds: float) -> None:
    process = command(*OPTIONS, f"hydra.run.dir={run}")
    until(process, (run / "test_looks.jsonl").exists)
    process.kill()
    process.communicate()
    go_on(run)


def stopped(number: int, times: int) -> Callable[[Path, float], None]:
    def stop(run: Path, seconds: float) -> None:
        process = command(*OPTIONS, f"hydra.run.dir={run}")
        wanted = random.randint(1, 18)
        until(process, lambda: lines(run) >= wanted)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.005)
        process.communicate()
        assert process.returncode in (0, 3), process.returncode
        go_on(run)

    return stop


def damaged(name: str, how: str) -> Callable[[Path, float], None]:
    """Stop twice, so that there are two checkpoints, then damage one file."""

    def damage(run: Path, seconds: float) -> None:
        first = [*OPTIONS, f"hydra.run.dir={run}"]
        for call, wanted in ((first, 6), ([f"resume={run}"], 12)):
            process = command(*call)
            until(process, lambda wanted=wanted: lines(run) >= wanted)
            process.terminate()
            process.communicate()
        content = bytearray((run / name).read_bytes())
        position = random.randrange(len(content))
        if how == "flipped":
            content[position] ^= 1 << random.randrange(8)
        (run / name).write_bytes(content if how == "flipped" else content[:position])
        go_on(run)

    return damage


def two_at_once(run: Path, seconds: float) -> None:
    process = command(*OPTIONS, f"hydra.run.dir={run}")
    until(process, lambda: lines(run) >= 3)
    second = command(f"resume={run}")
    printed = second.communicate()[0]
    first = process.communicate()[0]
    assert process.returncode == 0, first
    assert second.returncode == 2 or b"nothing to do" in printed, printed


FAULTS = {
    "SIGKILL at a random moment": killed_at_a_random_moment,
    "SIGKILL while training": killed_while_training,
    "SIGKILL in the final pass": killed_in_the_final_pass,
    "SIGTERM": stopped(signal.SIGTERM, 1),
    "Ctrl-C": stopped(signal.SIGINT, 1),
    "Ctrl-C twice": stopped(signal.SIGINT, 2),
    "last.pt with a flipped bit": damaged("last.pt", "flipped"),
    "last.pt cut short": damaged("last.pt", "cut"),
    "best.pt cut short": damaged("best.pt", "cut"),
    "metrics.jsonl cut short": damaged("metrics.jsonl", "cut"),
    "two processes in one folder": two_at_once,
}


def check_same(whole: Path, run: Path) -> None:
    """Both runs are the same to the bit: weights, and what the result says."""
    for name in ("last.pt", "best.pt"):
        ours, theirs = weights(str(run), name), weights(str(whole), name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs), f"other weights in {name}"
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, run)]
    for key in ("steps", "train/loss", "val/loss", "test/loss", "best_epoch"):
        assert results[0][key] == results[1][key], f"another {key}"
    assert all(line in metrics(str(whole)) for line in metrics(str(run))), "other metrics"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="faults of each kind (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the bits")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    table = Table("fault", "injected", "survived", "lost", box=box.SIMPLE_HEAD)
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        whole, started = Path(folder, "whole"), time.monotonic()
        go_on(whole)
        seconds = time.monotonic() - started
        for kind, inject in FAULTS.items():
            survived, lost = 0, []
            for number in range(arguments.rounds):
                run = Path(folder, f"{kind} {number}".replace(" ", "_"))
                try:
                    inject(run, seconds)
                    check_same(whole, run)
                    survived += 1
                    if missing := len(metrics(str(whole))) - len(metrics(str(run))):
                        lost.append(f"{missing} lines of metrics")
                        broken += "metrics.jsonl" not in kind  # which a cut takes away for good
                except AssertionError as error:
                    lost.append(str(error).splitlines()[-1])
                    broken += 1
            table.add_row(kind, str(arguments.rounds), str(survived), "; ".join(lost) or "nothing")
    console.print(table)
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
