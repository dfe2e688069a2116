"""Figures of a comparison, from predictions: who errs where, and how sure they are of it."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vit_cnn.report.curves import PALETTE
from vit_cnn.report.groups import by_label, settings_of
from vit_cnn.report.statistics import BINS, confusion_matrix, fit_temperature, probabilities_of, reliability
from vit_cnn.run.reading import Run

Array = np.ndarray[Any, Any]
MOST_CLASSES = 30  # whose names can be read along an axis


def per_class(names: list[str], rights: dict[str, list[Array]], labels: Array) -> Figure:
    """Test accuracy of each class; ``rights`` holds bool [n] for each seed of each label."""
    figure = Figure(figsize=(10, 1.2 + 0.28 * len(names) * max(1, len(rights) / 2)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(rights)
    for position, (label, seeds) in enumerate(rights.items()):
        values = np.array([[right[labels == k].mean() for k in range(len(names))] for right in seeds])
        places = np.arange(len(names)) + (position - (len(rights) - 1) / 2) * height
        spread = values.std(axis=0, ddof=1) if len(seeds) > 1 else None
        axes.barh(places, values.mean(axis=0), height, xerr=spread, label=label, color=PALETTE[position])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    return figure


def confusions(names: list[str], predicted: dict[str, Array], labels: Array) -> Figure:
    """Confusion matrices side by side: row truth, column prediction, per cent of the row."""
    figure = Figure(figsize=(5.4 * len(predicted), 5), layout="constrained")
    for position, (label, guesses) in enumerate(predicted.items(), start=1):
        counts = confusion_matrix(guesses, labels, len(names))
        share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
        axes = figure.add_subplot(1, len(predicted), position)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("prediction")
        if position == 1:
            axes.set_ylabel("truth")
        if len(names) <= MOST_CLASSES:
            axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
            axes.set_yticks(range(len(names)), names, fontsize=8)
            for row, column in np.ndindex(share.shape):
                if share[row, column] >= 0.005:
                    colour = "white" if share[row, column] > 0.5 else "#333"
                    text = f"{100 * share[row, column]:.0f}"
                    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return figure


def calibration(logits: dict[str, dict[str, Array]]) -> Figure:
    """Reliability diagrams on test, before and after temperature scaling on validation, a row for each label."""
    figure = Figure(figsize=(8, 3.4 * len(logits)), layout="constrained")
    for row, (label, arrays) in enumerate(logits.items()):
        titles = {1.0: f"{label}, as trained"}
        if (temperature := fit_temperature(arrays["val_logits"], arrays["val_labels"])) is not None:
            titles[temperature] = f"{label}, divided by T = {temperature:.2f}"
        for column, (divided_by, title) in enumerate(titles.items()):
            probabilities = probabilities_of(arrays["test_logits"], divided_by)
            accuracy, confidence, count = reliability(probabilities, arrays["test_labels"])
            axes = figure.add_subplot(len(logits), 2, 2 * row + column + 1)
            edges = np.arange(BINS) / BINS
            axes.bar(edges, np.nan_to_num(accuracy), 1 / BINS, align="edge", color=PALETTE[row], edgecolor="white")
            axes.plot([0, 1], [0, 1], color="#555", linewidth=1, linestyle="--")
            axes.scatter(
                confidence[count > 0], accuracy[count > 0], s=200 * count[count > 0] / count.sum(), color="#222"
            )
            axes.set_title(title, fontsize=10)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_xlabel("confidence")
            axes.set_ylabel("accuracy")
    return figure


def sweep_maps(runs: list[Run], vertical: str, horizontal: str) -> Figure:
    """Heat maps over two settings: validation accuracy, training time, parameters; means over seeds."""
    values = [settings_of(run) for run in runs]
    rows, columns = (sorted({each[name] for each in values}) for name in (vertical, horizontal))
    quantities = {
        "validation accuracy": (lambda result: result["val/acc"], "{:.1%}"),
        "training time": (lambda result: result["seconds_train"] / 60, "{:.1f} min"),
        "parameters": (lambda result: result["params"] / 1e6, "{:.2f} M"),
    }
    figure = Figure(figsize=(4 * len(quantities), 1.6 + 0.8 * len(rows)), layout="constrained")
    for position, (title, (read, form)) in enumerate(quantities.items(), start=1):
        cells = np.full((len(rows), len(columns)), np.nan)
        for group in by_label(runs).values():
            settings = settings_of(group[0])
            place = rows.index(settings[vertical]), columns.index(settings[horizontal])
            cells[place] = np.mean([read(run.result) for run in group])
        axes = figure.add_subplot(1, len(quantities), position)
        axes.imshow(cells, cmap="viridis", aspect="auto")
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(horizontal.rsplit(".", maxsplit=1)[-1])
        axes.set_ylabel(vertical.rsplit(".", maxsplit=1)[-1])
        for row, column in np.ndindex(cells.shape):
            text = "–" if np.isnan(cells[row, column]) else form.format(cells[row, column])
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5}
            axes.text(column, row, text, ha="center", va="center", fontsize=9, bbox=box)
    return figure
