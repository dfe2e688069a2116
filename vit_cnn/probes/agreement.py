"""The same mistakes? Error consistency (Cohen's κ) of every two runs, from ``predictions.npz`` alone.

Two networks that are right on 90 % of the images are right or wrong together on 82 % by accuracy alone. κ says how
much of the rest they share: 0 for mistakes that have nothing to do with each other, 1 for the same ones. Networks of
unequal accuracy cannot make the same ones: the table says what κ their accuracies allow.

Prediction: above 0 for every pair, since some images are hard for anybody. If what is built in decides what is
learned, the ViT and the CNN share fewer mistakes (a smaller κ) than two seeds of the same network do.

Source: Geirhos et al., "Beyond accuracy: quantifying trial-by-trial behaviour", 2020,
https://arxiv.org/abs/2006.16736.
"""

import itertools
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vit_cnn.arrays import Array
from vit_cnn.errors import Refused
from vit_cnn.probes.findings import Findings
from vit_cnn.probes.hardest import draw_hardest
from vit_cnn.probes.intervals import difference, interval
from vit_cnn.probes.subjects import Look, grouped
from vit_cnn.report.results import right
from vit_cnn.run.reading import Run

KINDS = {"networks": "two networks", "recipes": "two settings of one network", "seeds": "two seeds of one setting"}


def probe(runs: list[Run], look: Look) -> Findings:
    runs = [run for group in grouped(runs).values() for run in group]
    if len(runs) < 2:
        raise Refused(f"{runs[0].folder}: agreement compares two runs or more, of different seeds or settings")
    predictions = [run.predictions() for run in runs]
    rights = [right(arrays, look.split) for arrays in predictions]
    rows: list[dict[str, Any]] = []
    samples: dict[str, list[Array]] = {}
    matrix = np.full((len(runs), len(runs)), np.nan)
    for (i, a), (j, b) in itertools.combinations(enumerate(runs), 2):
        kind = "seeds" if a.label == b.label else "recipes" if a.model == b.model else "networks"
        sample = np.stack([rights[i], rights[j], rights[i] == rights[j]]).astype(float)
        samples.setdefault(kind, []).append(sample)
        found = interval(kappa, [sample])
        matrix[i, j] = matrix[j, i] = found.value
        p, q, observed = sample.mean(axis=1)
        names = {"first": name_of(a), "second": name_of(b), "pair": KINDS[kind], "images": len(rights[i])}
        by_accuracy = {"right_or_wrong_together": observed, "by_accuracy_alone": p * q + (1 - p) * (1 - q)}
        rows.append({**names, **by_accuracy, **found.cells("kappa"), "kappa_at_most": float(kappa(at_most(p, q)))})
    verdict = verdict_of({kind: np.concatenate(each) for kind, each in samples.items()})
    return Findings(rows, draw(runs, matrix, rights, predictions, look), verdict)


def kappa(means: Array) -> Array:
    """κ of two networks from their accuracies and how often they are right or wrong together [3 · pairs, …]: its mean.

    nan where neither makes a mistake, since then there is nothing to share.
    """
    p, q, observed = means[0::3], means[1::3], means[2::3]
    expected = p * q + (1 - p) * (1 - q)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = ((observed - expected) / (1 - expected)).mean(axis=0)
    return found


def at_most(p: float, q: float) -> Array:
    """The ``means`` for ``kappa`` of two accuracies, where all mistakes of the better one are the other's too."""
    return np.array([p, q, 1 - abs(p - q)])


def verdict_of(samples: dict[str, Array]) -> str:
    found = {kind: interval(kappa, [samples[kind]]) for kind in KINDS if kind in samples}
    parts = [f"{KINDS[kind]} κ = {each.number()}" for kind, each in found.items()]
    text = f"Mistakes in common beyond what accuracy alone gives: {', '.join(parts)}"
    if any(np.isnan(each.value) for each in found.values()):
        return f"{text}; there is no κ where two runs make no mistakes."
    alike = "seeds" if "seeds" in found else "recipes"
    if {"networks", alike} <= set(found):
        less = difference(kappa, [samples["networks"]], [samples[alike]])
        said = less.choose("more", "fewer", "neither clearly more nor clearly fewer")
        pairs = samples["networks"].mean(axis=1).reshape(-1, 3)
        highest = float(kappa(np.concatenate([at_most(p, q) for p, q, _ in pairs])))
        allowed = f"their accuracies alone allow κ up to {highest:.2f}"
        return f"{text}; two networks share {said} mistakes than {KINDS[alike]} do ({allowed})."
    said = next(iter(found.values())).choose("more", "fewer", "no more")
    return f"{text}; they share {said} mistakes than chance would have it."


def name_of(run: Run) -> str:
    return f"{run.label}, seed {run.seed}"


def draw(
    runs: list[Run], matrix: Array, rights: list[Array], predictions: list[dict[str, Array]], look: Look
) -> Figure:
    """κ of every two runs; to the right the images that most of them get wrong, where the images are at hand."""
    side = max(3.4, 0.75 * len(runs) + 1.6)
    figure = Figure(figsize=(side + 5, side), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[side, 5])
    left, right_side = (figure.add_subfigure(grid[0, column]) for column in range(2))
    axes = left.add_subplot()
    axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    names = [name_of(run).replace(", ", "\n") for run in runs]
    axes.set_xticks(range(len(runs)), names, fontsize=8, rotation=30, ha="right")
    axes.set_yticks(range(len(runs)), names, fontsize=8)
    axes.set_title("κ: shared mistakes\n0 as by chance, 1 the same ones", fontsize=10)
    for row, column in np.ndindex(matrix.shape):
        text = "" if row == column else f"{matrix[row, column]:.2f}"
        colour = "black" if matrix[row, column] > 0.6 else "white"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    draw_hardest(right_side, runs, rights, [arrays[f"{look.split}_logits"] for arrays in predictions], look.split)
    return figure
