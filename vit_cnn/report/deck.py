"""The README's first figure: validation accuracy over the epochs, with the deck's figures as lines.

``python -m vit_cnn.report.deck experiments/close_the_gap/recipes_curves.csv``, the points that a report of such runs
has written.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vit_cnn.errors import Refused, exit_with_code
from vit_cnn.report.claims import DECK
from vit_cnn.report.colours import colours_of
from vit_cnn.report.curves import Curve, read_csv


def accuracy(curves: dict[str, Curve]) -> Figure:
    """Validation accuracy by label over the epochs; names stand at the curves' ends and on the lines."""
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    colours = colours_of(list(DECK)) | colours_of(list(curves))
    end = max(curve.x["epochs"][-1] for curve in curves.values())
    for network, figures in DECK.items():
        axes.axhline(figures["test/acc"], color=colours[network], linestyle=":", linewidth=1.2)
        said = f"the deck's {network},\n{figures['test/acc']:.0%} test"
        axes.annotate(said, (end, figures["test/acc"]), (4, 0), textcoords="offset points", va="center", fontsize=9,
                      color=colours[network], annotation_clip=False)  # fmt: skip
    for label, curve in curves.items():
        epochs, colour = curve.x["epochs"], colours[label]
        axes.plot(epochs, curve.mean, color=colour, linewidth=1.6)
        axes.fill_between(epochs, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        line = DECK.get(label.split()[0])
        is_above = line is None or curve.mean[-1] > line["test/acc"]  # where the line leaves room
        name = f"ours: {label}, {epochs[-1]:.0f} epochs, n = {curve.seeds}"
        beside = slice(3 * len(epochs) // 5, None)  # the part of the curve that the name runs along
        edge = max(curve.high[beside]) if is_above else min(curve.low[beside])
        axes.annotate(name, (epochs[-1], edge), (0, 1 if is_above else -3), textcoords="offset points",
                      ha="right", va="bottom" if is_above else "top", fontsize=9, color=colour)  # fmt: skip
    axes.set_xlim(0, end)
    axes.set_ylim(0.5, 0.98)
    axes.set_xlabel("epochs")
    axes.set_ylabel("validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.25)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vit_cnn.report.deck", description="Draw the README's first figure")
    parser.add_argument("csv", type=Path, help="curves.csv of a report; accuracy.png goes beside it")
    path = parser.parse_args().csv
    if not (found := read_csv(path)["val/acc"]):
        raise Refused(f"{path} has no curve of val/acc")
    accuracy(found).savefig(path.parent / "accuracy.png", dpi=130)


if __name__ == "__main__":
    exit_with_code(main)
