"""What a probe leaves behind: a table, a figure and a sentence."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vit_cnn.probes.intervals import Interval

GAP = 0.07  # between two names at the ends of lines, as a share of the axis


@dataclasses.dataclass(frozen=True)
class Findings:
    """A probe's findings; ``rows`` have the same keys."""

    rows: Sequence[dict[str, Any]]
    figure: Figure
    verdict: str

    def write(self, folder: Path, name: str, runs: Sequence[Path]) -> None:
        """``<name>.csv``, ``<name>.png`` and ``<name>.txt``: the verdict, and below it a line for each run."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            for row in self.rows:
                writer.writerow(
                    {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}
                )
        self.figure.savefig(folder / f"{name}.png", dpi=130)
        lines = [self.verdict, *map(str, runs)]
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def draw_lines(axes: Axes, x: Sequence[float], lines: dict[str, list[Interval]], colours: dict[str, str]) -> None:
    """A line with its interval for each label, from 0 upwards, and the label at its end."""
    for label, line in lines.items():
        colour, values = colours[label], [each.value for each in line]
        axes.plot(x, values, color=colour, marker="o", markersize=4)
        axes.fill_between(x, [each.low for each in line], [each.high for each in line], color=colour, alpha=0.18, lw=0)
    axes.set_ylim(bottom=0)  # before the names, whose distance depends on it
    name_ends(axes, {label: (x[-1], line[-1].value) for label, line in lines.items()}, colours)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_rows(axes: Axes, rows: dict[str, dict[str, Interval]], colours: dict[str, str]) -> None:
    """A row for each name, in it a dot with its interval for each label, which stands at the edge of its first row."""
    named: set[str] = set()
    for row, found in enumerate(rows.values()):
        for place, (label, each) in enumerate(found.items()):
            y = row + 0.22 * (place - (len(found) - 1) / 2)
            axes.plot([each.low, each.high], [y, y], color=colours[label], linewidth=2)
            axes.plot(each.value, y, "o", color=colours[label])
            if label not in named:
                edge = axes.get_yaxis_transform()  # x as a share of the axis
                axes.text(1.01, y, label, color=colours[label], va="center", fontweight="bold", transform=edge)
            named.add(label)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    in_percent(axes, y=False)


def name_ends(axes: Axes, ends: dict[str, tuple[float, float]], colours: dict[str, str]) -> None:
    """Write each label beside the end of its line, moved up where it would cover the one below."""
    low, high = axes.get_ylim()
    before = float("-inf")
    for label, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        place = max(y, before + GAP * (high - low))
        axes.annotate(
            f" {label}", (x, place), color=colours[label], va="center", fontweight="bold", annotation_clip=False
        )
        before = place


def in_percent(axes: Axes, *, y: bool = True) -> None:
    (axes.yaxis if y else axes.xaxis).set_major_formatter(PercentFormatter(1, decimals=0))
