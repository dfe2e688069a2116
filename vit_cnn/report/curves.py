"""Curves over training: mean and spread over seeds, against steps, epochs, seconds or FLOPs."""

import argparse
import csv
import dataclasses
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, PercentFormatter
from plotly.subplots import make_subplots

from vit_cnn.arrays import Array
from vit_cnn.errors import Refused, exit_with_code
from vit_cnn.report.colours import colours_of
from vit_cnn.report.groups import by_label
from vit_cnn.run.reading import Run

PANELS = {
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "train/acc": "training accuracy",
    "val/acc": "validation accuracy",
}
AXES = {
    "epochs": "epochs",
    "steps": "training steps",
    "seconds": "seconds, evaluation included",
    "FLOPs": "training FLOPs (three forward passes a step, and Muon)",
}
MOST_POINTS = 400  # of a curve: more cannot be seen
FEW_POINTS = 20


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric of the runs with one label: mean and spread over the seeds at the steps they share.

    Attributes:
        x: by axis, [points].
        mean, low, high: [points]; low and high are one standard deviation away.
        seeds: number of runs.
    """

    x: dict[str, Array]
    mean: Array
    low: Array
    high: Array
    seeds: int


def curve(runs: list[Run], key: str, flops: int) -> Curve | None:
    """The curve of ``key``, or ``None`` where no run has any."""
    series = [{row["step"]: row for row in run.series(key)} for run in runs]
    series = [rows for rows in series if rows]
    if not series:
        return None
    # A run that is behind the others must not cut them short: the mean is taken over those that are there.
    steps = sorted(set().union(*series))
    values = np.array([[rows[step][key] if step in rows else np.nan for step in steps] for rows in series])
    epochs = np.array([next(rows[step]["epoch"] for rows in series if step in rows) for step in steps])
    seconds = np.array([np.mean([rows[step]["seconds"] for rows in series if step in rows]) for step in steps])
    mean, count = np.nanmean(values, axis=0), np.sum(~np.isnan(values), axis=0)
    # The sample's deviation, as in the tables; a step that one run alone has reached has none.
    spread = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(count - 1, 1))
    x = {"epochs": epochs, "steps": np.array(steps), "seconds": seconds}
    x["FLOPs"] = x["steps"] * float(flops)
    return Curve(
        x={axis: thin(values) for axis, values in x.items()},
        mean=thin(mean),
        low=thin(mean - spread),
        high=thin(mean + spread),
        seeds=len(series),
    )


def thin(values: Array) -> Array:
    """Means of neighbours, so that at most ``MOST_POINTS`` are left; a rest is cut off the beginning, not the end."""
    width = -(-len(values) // MOST_POINTS)
    if width == 1:
        return values.astype(float)
    return values[len(values) % width :].reshape(-1, width).mean(axis=1)


def all_curves(runs: list[Run], flops: dict[str, int]) -> dict[str, dict[str, Curve]]:
    """By metric and label; ``flops`` are those of one step of training, by label."""
    found: dict[str, dict[str, Curve]] = {}
    for key in PANELS:
        drawn = {label: curve(group, key, flops[label]) for label, group in by_label(runs).items()}
        found[key] = {label: each for label, each in drawn.items() if each}
    return found


def interactive(curves: dict[str, dict[str, Curve]], colours: dict[str, str]) -> go.Figure:
    """Four panels with a switch for the x axis; a click on the legend hides a label."""
    figure = make_subplots(rows=2, cols=2, subplot_titles=list(PANELS.values()), vertical_spacing=0.12)
    drawn: list[Curve] = []
    named: set[str] = set()
    for position, panel in enumerate(curves.values()):
        place = {"row": position // 2 + 1, "col": position % 2 + 1}
        for label, each in panel.items():
            line = {"color": colours[label], "width": 2}
            shared = {"legendgroup": label, "x": each.x["epochs"], "mode": mode_of(each)}
            if each.seeds > 1:
                hidden = {**shared, "mode": "lines", "showlegend": False, "hoverinfo": "skip"}
                figure.add_trace(go.Scatter(y=each.high, line={"width": 0}, **hidden), **place)
                band = {"fill": "tonexty", "fillcolor": transparent(colours[label])}
                figure.add_trace(go.Scatter(y=each.low, line={"width": 0}, **band, **hidden), **place)
                drawn += [each, each]
            name = f"{label}, {each.seeds} seed{'s'[: each.seeds > 1]}"
            is_first = label not in named
            figure.add_trace(go.Scatter(y=each.mean, line=line, name=name, showlegend=is_first, **shared), **place)
            drawn.append(each)
            named.add(label)
    buttons = [
        {
            "label": axis,
            "method": "update",
            "args": [
                {"x": [each.x[axis] for each in drawn]},
                {f"xaxis{n}.title.text": AXES[axis] for n in (3, 4)},
            ],
        }
        for axis in AXES
    ]
    figure.update_layout(
        template="plotly_white",
        height=720,
        margin={"l": 50, "r": 20, "t": 90, "b": 50},
        hovermode="x unified",
        legend={"orientation": "h", "y": -0.1, "yanchor": "top"},
        updatemenus=[
            {"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "y": 1.13, "xanchor": "left"}
        ],
    )
    for n in (3, 4):
        figure.update_xaxes(title_text=AXES["epochs"], row=2, col=n - 2)
    figure.update_yaxes(tickformat=".0%", row=2)
    return figure


def mode_of(curve: Curve) -> str:
    """With dots where there are few points: a single one would not be seen otherwise."""
    return "lines+markers" if len(curve.mean) <= FEW_POINTS else "lines"


def transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.2)"


def static(curves: dict[str, dict[str, Curve]], axis: str, colours: dict[str, str]) -> Figure:
    """The same four panels as a picture."""
    figure = Figure(figsize=(10, 6.8), layout="constrained")
    labels = dict.fromkeys(label for panel in curves.values() for label in panel)
    for position, (key, panel) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(2, 2, position)
        for label, each in panel.items():
            marker = "." if "markers" in mode_of(each) else ""
            axes.plot(each.x[axis], each.mean, color=colours[label], marker=marker)
            if each.seeds > 1:
                axes.fill_between(each.x[axis], each.low, each.high, color=colours[label], alpha=0.2, linewidth=0)
        axes.set_title(PANELS[key], fontsize=10)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200T, as in the interactive figure
        if key.endswith("acc"):
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        if position > 2:
            axes.set_xlabel(AXES[axis])
    seeds = {label: max(panel[label].seeds for panel in curves.values() if label in panel) for label in labels}
    lines = [Line2D([], [], color=colours[label], label=f"{label} (n={seeds[label]})") for label in labels]
    figure.legend(handles=lines, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return figure


def write_csv(curves: dict[str, dict[str, Curve]], path: Path) -> None:
    """Every point that is drawn, so that the figures can be drawn again without the runs."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["metric", "label", "seeds", *AXES, "mean", "low", "high"])
        for key, panel in curves.items():
            for label, each in panel.items():
                columns = zip(*(each.x[axis] for axis in AXES), each.mean, each.low, each.high, strict=True)
                writer.writerows([key, label, each.seeds, *(f"{value:.6g}" for value in row)] for row in columns)


def read_csv(path: Path) -> dict[str, dict[str, Curve]]:
    """What ``write_csv`` wrote.

    Raises:
        Refused: it is not such a file.
    """
    points: dict[tuple[str, str, int], list[list[float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                place = row["metric"], row["label"], int(row["seeds"])
                if place[0] not in PANELS:
                    raise ValueError(f"there is no curve of {place[0]}")
                points.setdefault(place, []).append([float(row[key]) for key in (*AXES, "mean", "low", "high")])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise Refused(f"{path} cannot be read as curves: {error}") from error
    found: dict[str, dict[str, Curve]] = {key: {} for key in PANELS}
    for (key, label, seeds), rows in points.items():
        columns = np.array(rows).T
        mean, low, high = columns[len(AXES) :]
        x = dict(zip(AXES, columns, strict=False))
        found[key][label] = Curve(x=x, mean=mean, low=low, high=high, seeds=seeds)
    return found


def save_static(curves: dict[str, dict[str, Curve]], folder: Path, colours: dict[str, str]) -> None:
    """A picture for each x axis, ``curves_<axis>.png``."""
    for axis in AXES:
        static(curves, axis, colours).savefig(folder / f"curves_{axis.lower()}.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vit_cnn.report.curves", description="Draw a report's curves again")
    parser.add_argument("csv", type=Path, nargs="+", help="curves.csv of a report; the pictures go beside it")
    for path in parser.parse_args().csv:
        curves = read_csv(path)
        labels = list(dict.fromkeys(label for panel in curves.values() for label in panel))
        save_static(curves, path.parent, colours_of(labels))


if __name__ == "__main__":
    exit_with_code(main)
