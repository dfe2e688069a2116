"""What was measured, as a CSV file, as a table on the screen and as a figure."""

import csv
import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from vit_cnn.bench.measure import Row
from vit_cnn.console import console


def write(path: Path, rows: list[Row], machine: str) -> None:
    rows = [row | {"machine": machine} for row in rows]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show(title: str, rows: list[Row]) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for number, heading in enumerate(rows[0]):
        table.add_column(heading.replace("_", " "), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


def draw(rows: list[Row], machine: str) -> Figure:
    """Training speed of each contender, with the spread over the rounds."""
    figure = Figure(figsize=(8, 0.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [row["network"] for row in rows]
    middles = [row["ms"] for row in rows]
    spread = [
        [row["ms"] - row["ms_min"] for row in rows],
        [row["ms_max"] - row["ms"] for row in rows],
    ]
    colours = ["#2a6fb0" if "ours" in name else "#b8c2cc" for name in names]
    axes.barh(names, middles, xerr=spread, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("a training step, ms (shorter is better)")
    figure.suptitle(textwrap.fill(machine, 100), fontsize=9)
    return figure
