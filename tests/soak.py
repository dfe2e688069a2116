"""Does a long training grow? ``make soak ARGS="--minutes 60"`` trains tiny epochs and looks on from outside.

With evaluation, checkpoints and W&B offline. Every few seconds, memory, open files, threads and the time of a step go
into a table; at the end there are a plot, and a sentence for each.
"""

import argparse
import csv
import json
import re
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from helpers import TINY
from scipy import stats
from trainings import Training, until

from vit_cnn.console import console

OPTIONS = [
    *(each for each in TINY if not each.startswith(("recipe.epochs", "data.max_images", "trainer.log_every"))),
    "data.max_images=600", "recipe.epochs=1000000", "trainer.log_every=5", "model.dropout=0.1", "wandb.mode=offline",
]  # fmt: skip
BATCH = 30
MEASURES = {
    "memory_megabytes": "memory, MB",
    "service_megabytes": "memory of W&B's process, MB",
    "open_files": "open files",
    "threads": "threads",
    "step_milliseconds": "time of a step, ms",
}
LEFT_OUT = 0.5  # of the time: the first half, in which caches fill
PIECES = 12  # means of neighbouring looks, since neighbours are alike
SMALL = 0.02  # change in an hour, as a share: less is flat, however sure it is


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description="Does a long training grow?")
    parser.add_argument("--minutes", type=float, default=60, help="how long it trains (default: 60)")
    parser.add_argument("--every", type=float, default=5, help="seconds between two looks (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("experiments/reliability"), help="folder of soak.csv and .png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = watch(Path(folder), minutes=arguments.minutes, every=arguments.every)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "soak.csv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    draw(rows, arguments.out / "soak.png")
    if len(rows) < 2 * PIECES:
        console.print(f"{len(rows)} looks: too short to say whether anything grows.")
        return
    for name in MEASURES:
        console.print(sentence(name, rows))


def watch(folder: Path, *, minutes: float, every: float) -> list[dict[str, float]]:
    """Train for so long, and look."""
    run = folder / "run"
    process = Training(*OPTIONS, f"hydra.run.dir={run}", WANDB_DIR=str(folder))
    metrics = run / "metrics.jsonl"
    until(process, metrics.exists)
    rows: list[dict[str, float]] = []
    seen, started = 0, time.monotonic()
    while (seconds := time.monotonic() - started) < 60 * minutes and process.poll() is None:
        time.sleep(every)
        with open(metrics) as file:
            file.seek(seen)
            new = file.read()
        complete = new.rpartition("\n")[0]
        seen += len(complete) + bool(complete)
        rates = [line["images_per_second"] for line in map(json.loads, complete.splitlines()) if "train/loss" in line]
        if rates:
            step = 1000 * BATCH / float(np.median(rates))
            rows.append({"seconds": round(seconds, 1), **of_process(process.pid), "step_milliseconds": round(step, 3)})
    process.terminate()
    code = process.wait()
    assert code == 3, f"it ended with code {code}: {process.printed()}"
    return rows


def of_process(pid: int) -> dict[str, float]:
    """What it and W&B's process hold now."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {
        "memory_megabytes": megabytes(pid),
        "service_megabytes": sum(megabytes(int(child)) for child in children),
        "open_files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(field(pid, "Threads")),
    }


def megabytes(pid: int) -> float:
    return round(int(field(pid, "VmRSS")) * 1024 / 1e6, 2)


def field(pid: int, name: str) -> str:
    return re.findall(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0]


def slope(name: str, rows: list[dict[str, float]]) -> tuple[float, float, float]:
    """Mean, change in an hour, and the half width of its 95 % interval, by least squares over means of pieces."""
    kept = [row for row in rows if row["seconds"] >= LEFT_OUT * rows[-1]["seconds"]]
    pieces = [(np.mean([row["seconds"] for row in piece]) / 3600, np.mean([row[name] for row in piece]))
              for piece in np.array_split(np.array(kept), PIECES)]  # fmt: skip
    hours, values = map(np.array, zip(*pieces, strict=True))
    if np.ptp(values) == 0:
        return float(values[0]), 0.0, 0.0
    fit = stats.linregress(hours, values)
    return float(values.mean()), fit.slope, float(fit.stderr * stats.t.ppf(0.975, PIECES - 2))


def sentence(name: str, rows: list[dict[str, float]]) -> str:
    mean, change, width = slope(name, rows)
    is_flat = abs(change) <= width or abs(change) <= SMALL * mean
    way = "flat" if is_flat else "growing" if change > 0 else "falling"
    return f"{MEASURES[name]}: {mean:.4g}, {change:+.2g} ± {width:.2g} an hour: {way}."


def draw(rows: list[dict[str, float]], path: Path) -> None:
    figure, axes = plt.subplots(len(MEASURES), sharex=True, figsize=(7, 8), layout="constrained")
    for axis, (name, label) in zip(axes, MEASURES.items(), strict=True):
        axis.plot([row["seconds"] / 60 for row in rows], [row[name] for row in rows], linewidth=1)
        axis.set_title(label, loc="left", fontsize=9)
        axis.set_ylim(0, 1.2 * max(row[name] for row in rows))
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
