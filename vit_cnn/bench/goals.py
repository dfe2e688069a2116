"""What one GPU should do, measured: ``python -m vit_cnn.bench.goals cnn_89`` (``make goals``), a goal a command.

The deck's trainings of both networks (``deck_vit``, ``deck_cnn``) with images a second against the usual loop with a
``DataLoader``, and the time to the deck's accuracies (``vit_77``, ``cnn_89``). Each row is written as soon as it is
there. Overrides, such as ``data=cifar10_lossless``, go to the training.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from vit_cnn.bench import peers
from vit_cnn.bench.measure import Row
from vit_cnn.bench.tables import show, write
from vit_cnn.config import composed
from vit_cnn.data import Dataset
from vit_cnn.errors import exit_with_code, for_child
from vit_cnn.machine import device_name, versions

FAST = ["trainer=gpu", "trainer.compile=true", "trainer.cuda_graph=true", "wandb.mode=disabled"]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A training and how long it may take.

    Attributes:
        overrides: of the config.
        accuracy: on validation, to be reached; ``None``: the end of the run.
        seconds: the goal, without start and compiling.
        limit: seconds after which the run is stopped, with room for start and compiling.
    """

    what: str
    overrides: list[str]
    accuracy: float | None
    seconds: float
    limit: float


GOALS = {
    "deck_cnn": Goal("CNN, the deck's 180 epochs", ["model=cnn", "recipe=deck"], None, 40, 240),
    "deck_vit": Goal("ViT, the deck's 180 epochs", ["model=vit", "recipe=deck"], None, 60, 360),
    "cnn_89": Goal("CNN, to 89 % validation", ["experiment=cnn_89"], 0.89, 5, 180),
    "vit_77": Goal("ViT, to 77 % validation", ["experiment=vit_77"], 0.77, 15, 180),
}
TIMES_THE_DATA_LOADER = 10
PATIENCE = 30  # seconds for a stopped run to finish its step; one that compiles would not answer for minutes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vit_cnn.bench.goals", description="Measure a goal for one GPU")
    parser.add_argument("goal", choices=GOALS, help="which")
    parser.add_argument("overrides", nargs="*", help="of the config, such as data=cifar10_lossless")
    parser.add_argument("--out", type=Path, default=Path("experiments/speed"), help="folder for the results")
    arguments = parser.parse_intermixed_args()
    goal = GOALS[arguments.goal]
    given = {override.split("=")[0] for override in arguments.overrides}
    defaults = [default for default in FAST if default.split("=")[0] not in given]
    overrides = [*goal.overrides, *defaults, *arguments.overrides]
    cfg = composed(*overrides)  # before anything is started
    data: Dataset = instantiate(cfg.data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = f"{device_name(torch.device(cfg.trainer.device))}, torch {versions()['torch']}, {data.name}"
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append({"what": "", "goal": "", "measured": "", "met": "", "start_s": "", **row})
        write(arguments.out / f"goal_{arguments.goal}.csv", rows, machine)

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        lines = trained(overrides, run, limit=goal.limit)
        finished = (run / "result.json").exists()
        found = reached(lines, goal.accuracy, goal.seconds, finished)
        add({"what": f"{goal.what}, s", "goal": f"≤ {goal.seconds:g}", **found})
        rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
        if goal.accuracy is None and len(rates) > 1:  # the first epoch compiles
            ours, usual = statistics.median(rates[1:]), usual_rate(cfg, data)
            about = f"{goal.what[:3]}, images/s, times those of a DataLoader loop ({ours:,.0f} / {usual:,.0f})"
            times = round(ours / usual, 1)
            met = times >= TIMES_THE_DATA_LOADER
            add({"what": about, "goal": f"≥ {TIMES_THE_DATA_LOADER}", "measured": times, "met": met})
    show(f"{arguments.goal}, {machine}", rows)


def trained(overrides: list[str], run_dir: Path, *, limit: float) -> list[dict[str, Any]]:
    """The lines of metrics of a run; after ``limit`` seconds it is stopped."""
    command = [sys.executable, "-m", "vit_cnn.train", *overrides, f"hydra.run.dir={run_dir}"]
    process = subprocess.Popen(command, stdout=sys.stderr, env=for_child())
    try:
        process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()  # it finishes its step
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    metrics = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []


def reached(lines: list[dict[str, Any]], accuracy: float | None, goal: float, finished: bool) -> Row:
    """When a run reached ``accuracy``, or its end; its start, with all compiling, is told apart."""
    epochs = [line for line in lines if "val/acc" in line]
    if len(epochs) < 2 or not (finished or accuracy):
        return {"measured": f"{len(epochs)} epochs in the time", "met": False}
    ends = [line["seconds"] for line in epochs]
    typical = statistics.median(after - before for before, after in itertools.pairwise(ends))
    start = ends[0] - typical
    hits = [line["seconds"] for line in epochs if line["val/acc"] >= (accuracy or 0)]
    if not hits:
        best = max(line["val/acc"] for line in epochs)
        return {"measured": f"best {best:.1%}", "met": False, "start_s": round(start, 1)}
    seconds = (hits[0] if accuracy else ends[-1]) - start
    return {"measured": round(seconds, 2), "met": seconds <= goal, "start_s": round(start, 1)}


def usual_rate(cfg: DictConfig, data: Dataset) -> float:
    """Images a second in the usual loop."""
    images = len(data.train) // cfg.recipe.batch_size * cfg.recipe.batch_size
    return images / peers.usual_seconds(instantiate(cfg.model), data, cfg)


if __name__ == "__main__":
    exit_with_code(main)
