"""How fast, next to others: ``python -m vit_cnn.bench`` (``make bench``) writes CSV files and a figure.

In rounds that go over all contenders in turn, so that a machine that slows down slows all of them; figures are medians.
Steps are measured in one process, whole loops and what grows in processes of their own. Run it on an otherwise idle
machine: twenty minutes on two CPU cores.
"""

import argparse
from pathlib import Path

from vit_cnn.bench.contests import Bench
from vit_cnn.bench.loops import EPOCH_STEPS
from vit_cnn.bench.measure import Row
from vit_cnn.bench.tables import draw, show, write
from vit_cnn.console import console
from vit_cnn.errors import Refused, exit_with_code

TABLES = {  # by method of Bench, which is also the name of its file
    "start": "From the command to …",
    "steps": "A training step and an evaluation pass",
    "switches": "A training step with something switched off, or in another precision",
    "profile": "Where a training step's time goes",
    "epoch": f"The training part of an epoch of {EPOCH_STEPS} steps",
    "images": "The training part of an epoch without the network: order, gather, normalise, augment",
    "augmentation": "A training batch without the network: what each ingredient costs; and an average of the weights",
    "growth": "What grows how: a training step of our networks",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn bench",
        epilog="example: vit-cnn bench trainer.precision=bf16 --out speed",
        description="Measure speed against other libraries",
    )
    parser.add_argument("overrides", nargs="*", help="of the config, such as trainer.precision=bf16")
    parser.add_argument("--out", type=Path, default=Path("experiments/speed"), help="folder for the results")
    parser.add_argument("--rounds", type=int, default=7, help="how often each contender is measured (default: 7)")
    parser.add_argument("--batch", type=int, default=128, help="images in a training step (default: 128)")
    parser.add_argument("--only", help="one table, such as augmentation (default: all)")
    arguments = parser.parse_args()
    if arguments.only not in (None, *TABLES):
        raise Refused(f"--only {arguments.only} is not a table; there are {', '.join(TABLES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(overrides=arguments.overrides, batch=arguments.batch, rounds=arguments.rounds)
    console.print(f"{bench.machine}; batch {arguments.batch}; medians of {arguments.rounds} rounds")
    for name, title in TABLES.items():
        if arguments.only in (None, name):
            rows: list[Row] = getattr(bench, name)()
            write(arguments.out / f"{name}.csv", rows, bench.machine)
            show(title, rows)
            if name == "steps":
                draw(rows, bench.machine).savefig(arguments.out / "steps.png", dpi=120)


if __name__ == "__main__":
    exit_with_code(main)
