"""The same bits again? ``make repro``: both networks, twice in new processes, and once over a stop and a kill.

Prints a hash of what each run computed. ``ARGS`` are overrides, such as ``trainer.precision=bf16``.
"""

import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers import TINY
from rich import box
from rich.table import Table
from trainings import Training, go_on, hashes, lines, until

from vit_cnn.console import console

WITHOUT_MODEL = [each for each in TINY if not each.startswith("model.")]
NETWORKS = {
    "ViT": [*TINY, "model.dropout=0.1", "recipe.epochs=4"],
    "CNN": [*WITHOUT_MODEL, "model=cnn", "recipe.epochs=4"],
}
RUNS = ("first", "again", "over a stop and a kill")


def train(network: str, kind: str, folder: Path, overrides: list[str]) -> dict[str, str]:
    """One run to its end; hashes of what it left."""
    run = folder / f"{network} {kind}".replace(" ", "-")
    options = [*NETWORKS[network], *overrides]
    if kind == RUNS[2]:
        break_off([*options, f"hydra.run.dir={run}"], run, signal.SIGTERM, after=1)
        break_off([f"resume={run}"], run, signal.SIGKILL, after=4)
    go_on(run, Training, options)
    return hashes(run)


def break_off(words: list[str], run: Path, number: int, *, after: int) -> None:
    """Train until there are ``after`` lines of metrics, then send a signal."""
    process = Training(*words)
    until(process, lambda: lines(run) >= after)
    process.send_signal(number)
    process.wait()
    if (run / "result.json").exists() or not lines(run):
        raise SystemExit(f"the run ended with {process.returncode} before it was broken off: {process.printed()}")


def main() -> None:
    overrides = [*sys.argv[1:], "wandb.mode=disabled"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(network, kind): pool.submit(train, network, kind, Path(folder), overrides)
                for kind in reversed(RUNS) for network in NETWORKS}  # fmt: skip
        found = {each: job.result() for each, job in jobs.items()}
    table = Table("network", "run", *found["ViT", RUNS[0]], box=box.SIMPLE_HEAD)
    for network in NETWORKS:
        for kind in RUNS:
            table.add_row(network, kind, *found[network, kind].values())
    console.print(table)
    different = [network for network in NETWORKS if len({str(found[network, kind]) for kind in RUNS}) > 1]
    console.print(f"Not the same bits: {' and '.join(different)}" if different else "The same bits each time.")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
