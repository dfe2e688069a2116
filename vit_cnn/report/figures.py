"""Figures of a comparison, from predictions: who errs where, and how sure they are of it."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vit_cnn.arrays import Array
from vit_cnn.report.groups import by_label, settings_of
from vit_cnn.report.statistics import BINS, confusion_matrix, fit_temperature, probabilities_of, reliability
from vit_cnn.run.reading import Run

MOST_CLASSES = 30  # whose names can be read along an axis
PANEL = (4.6, 4.4)  # inches of a figure that stands beside another


def per_class(names: list[str], rights: dict[str, list[Array]], labels: Array, colours: dict[str, str]) -> Figure:
    """Test accuracy of each class; ``rights`` holds bool [n] for each seed of each label."""
    figure = Figure(figsize=(5.6, 1.5 + 0.25 * len(names) * max(1, len(rights) / 2)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(rights)
    for position, (label, seeds) in enumerate(rights.items()):
        counts = np.bincount(labels, minlength=len(names))
        hits = np.array([np.bincount(labels[right], minlength=len(names)) for right in seeds])
        values = np.where(counts > 0, hits / np.maximum(counts, 1), np.nan)
        places = np.arange(len(names)) + (position - (len(rights) - 1) / 2) * height
        mean = values.mean(axis=0)
        spread = None
        if len(seeds) > 1:  # drawn as far as there can be an accuracy
            deviation = values.std(axis=0, ddof=1)
            spread = np.array([np.minimum(deviation, mean), np.minimum(deviation, 1 - mean)])
        axes.barh(places, mean, height, xerr=spread, ecolor="#333", label=label, color=colours[label])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.005)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper left", ncols=len(rights), fontsize=9, frameon=False)
    return figure


def confusion(label: str, names: list[str], predicted: Array, labels: Array) -> Figure:
    """The confusion matrix of one network: row truth, column prediction, per cent of the row."""
    figure = Figure(figsize=PANEL, layout="constrained")
    counts = confusion_matrix(predicted, labels, len(names))
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(label, fontsize=10)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if len(names) <= MOST_CLASSES:
        axes.set_xticks(range(len(names)), names, fontsize=8)
        if max(map(len, names)) > 2:
            axes.tick_params(axis="x", labelrotation=90)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        for row, column in np.ndindex(share.shape):
            if share[row, column] >= 0.005:
                colour = "white" if share[row, column] > 0.5 else "#333"
                text = f"{100 * share[row, column]:.0f}"
                size = 8 if len(names) <= 12 else 5
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    return figure


def calibration(label: str, arrays: dict[str, Array], colour: str) -> list[Figure]:
    """Reliability diagrams of one seed on test, before and after temperature scaling on validation."""
    temperature = fit_temperature(arrays["val_logits"], arrays["val_labels"])
    scaled = f"{label}, " + ("no temperature" if temperature is None else f"divided by T = {temperature:.2f}")
    figures = []
    for divided_by, title in ((1.0, f"{label}, as trained"), (temperature, scaled)):
        figure = Figure(figsize=PANEL, layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#555", linewidth=1, linestyle="--")
        if divided_by is not None:
            probabilities = probabilities_of(arrays["test_logits"], divided_by)
            accuracy, confidence, count = reliability(probabilities, arrays["test_labels"])
            edges = np.arange(BINS) / BINS
            axes.bar(edges, np.nan_to_num(accuracy), 1 / BINS, align="edge", color=colour, edgecolor="white")
            full = count > 0
            size = 200 * count[full] / count.sum()
            axes.scatter(confidence[full], accuracy[full], s=size, color="#222", clip_on=False, zorder=3)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        figures.append(figure)
    return figures


def sweep_maps(runs: list[Run], vertical: str, horizontal: str) -> list[Figure]:
    """Heat maps over two settings: validation accuracy, training time, parameters; means over seeds."""
    values = [settings_of(run) for run in runs]
    rows, columns = (sorted({each[name] for each in values}) for name in (vertical, horizontal))
    quantities = {
        "validation accuracy": (lambda result: result["val/acc"], "{:.1%}"),
        "training time": (lambda result: result["seconds_train"] / 60, "{:.1f} min"),
        "parameters": (lambda result: result["params"] / 1e6, "{:.2f} M"),
    }
    figures = []
    for title, (read, form) in quantities.items():
        cells = np.full((len(rows), len(columns)), np.nan)
        for group in by_label(runs).values():
            settings = settings_of(group[0])
            place = rows.index(settings[vertical]), columns.index(settings[horizontal])
            cells[place] = np.mean([read(run.figures) for run in group])
        figure = Figure(figsize=(max(3.5, 0.8 * len(columns)), 1.2 + 0.7 * len(rows)), layout="constrained")
        figures.append(figure)
        axes = figure.add_subplot()
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
    return figures
