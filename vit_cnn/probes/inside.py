"""Did the ViT learn to look nearby, and are its layers like those of the CNN?

Attention distance: how far each head looks, in pixels. Uniform attention sets the mark: a head that looks less than
half as far is called local here. CKA: how alike every two layers of both networks are. Positions: how much more
alike the learned positions of neighbours are than those of any two patches; at the start there is no difference.

Prediction: in the lowest layers of the ViT some heads look nearby and some far, if there were enough images to learn
it from; with few, no local heads appear (a report of 2026 has CutMix create them). The positions of neighbours
become alike. All blocks of the ViT are alike, while the CNN's first and last layers are not: a larger CKA of first
and last in the ViT.

Source: Raghu et al., "Do Vision Transformers See Like Convolutional Neural Networks?", 2021,
https://arxiv.org/abs/2108.08810.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vit_cnn.arrays import Array
from vit_cnn.data.batches import normalise
from vit_cnn.errors import Refused
from vit_cnn.models import ViT
from vit_cnn.models.attention_maps import mean_distance
from vit_cnn.probes.attention import distances, nearness
from vit_cnn.probes.cka import cka, ends_alike, grams_of
from vit_cnn.probes.findings import Findings
from vit_cnn.probes.intervals import Interval, interval, only
from vit_cnn.probes.subjects import Look, grouped, images_of, pair_of
from vit_cnn.report.colours import colours_of
from vit_cnn.run.reading import Run
from vit_cnn.run.trained import load_run

FEWEST = 20  # images from which CKA can be estimated
DISTANCE = "attention distance, pixels"


def probe(runs: list[Run], look: Look) -> Findings:
    groups = grouped(runs)
    if "ViT" not in {run.model for run in runs}:
        raise Refused(f"{runs[0].folder}: a {runs[0].model} has no attention to look at; add the run of a ViT")
    pair = pair_of(groups)
    images = images_of(runs[0], look)
    if (n := len(images.labels)) < FEWEST:
        raise Refused(f"{runs[0].folder}: inside needs {FEWEST} images or more, not {n}")
    first, second = (load_run(groups[label][0].folder, device=look.device) for label in pair)
    a, b = (normalise(images.pixels.to(each.mean.device), each.mean, each.std) for each in (first, second))
    vit = first.model
    assert isinstance(vit, ViT)
    for module in [*vit.modules(), *second.model.modules()]:
        if isinstance(module, ViT):
            module.only_cls_at_the_end = False  # the last block too is to give all its tokens

    far = distances(vit, a)
    heads = len(far) // len(vit.blocks)
    shown = [interval(only(k), [far]) for k in range(len(far))]
    uniform = float(mean_distance(torch.ones(1, 1, 1, *[len(vit.positions)] * 2), patch_size=vit.patch_size))
    near = nearness(vit)
    grams = grams_of(pair[0], vit, a) | grams_of(pair[1], second.model, b)
    alike = np.array([[cka(x, y) for y in grams.values()] for x in grams.values()])
    ends = {label: ends_alike([g for layer, g in grams.items() if layer.startswith(f"{label}, ")]) for label in pair}

    rows: list[dict[str, Any]] = []
    for k, each in enumerate(shown):
        rows.append(row(DISTANCE, f"block {k // heads + 1}", f"head {k % heads + 1}", n, each))
    rows.append(row(DISTANCE, "uniform attention", "", n, known(uniform)))
    rows.append(row("cosine of positions", "neighbours", "minus all pairs", n, known(near)))
    rows += [row("CKA of first and last layer", label, "", n, each) for label, each in ends.items()]
    for i, x in enumerate(grams):
        rows += [row("CKA", x, y, n, known(float(alike[i, j]))) for j, y in enumerate(grams) if i <= j]
    figure = draw(pair, np.array([each.value for each in shown]).reshape(-1, heads), uniform, alike, list(grams))
    return Findings(rows, figure, verdict_of(far[:heads], uniform, near, ends))


def row(quantity: str, first: str, second: str, n: int, found: Interval) -> dict[str, Any]:
    return {"quantity": quantity, "first": first, "second": second, "images": n, **found.cells("value")}


def known(value: float) -> Interval:
    """A figure without an interval."""
    return Interval(value, float("nan"), float("nan"))


def verdict_of(first_layer: Array, uniform: float, near: float, ends: dict[str, Interval]) -> str:
    shortest = interval(lambda means: means.min(axis=0), [first_layer])
    local = int((first_layer.mean(axis=1) < uniform / 2).sum())
    (a, x), (b, y) = ends.items()
    clear = x.low > y.high or y.low > x.high
    said = "as predicted" if x.low > y.high else "against the prediction" if clear else "which is no clear difference"
    return (
        f"{local} of {len(first_layer)} heads of the first block are local; the one that looks nearest looks "
        f"{shortest.number(1)} px far, uniform attention {uniform:.1f}; the positions of neighbours are {near:+.2f} "
        f"more alike than any two; CKA of first and last layer: {a} {x.number()}, {b} {y.number()}, {said}."
    )


def draw(pair: tuple[str, str], far: Array, uniform: float, alike: Array, layers: list[str]) -> Figure:
    """Left: how far each head looks; right: CKA of all layers of both networks."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    for number, heads in enumerate(far, start=1):
        left.scatter([number] * len(heads), heads, color=colours_of([pair[0]])[pair[0]], alpha=0.7)
    left.axhline(uniform, color="#555", linestyle="--", linewidth=1)
    left.annotate("uniform attention", (1, uniform), xytext=(0, 4), textcoords="offset points", color="#555")
    left.set_ylim(0, 1.25 * max(uniform, far.max()))
    left.set_xlabel("block of the ViT")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("mean attention distance, pixels")
    left.set_title("How far each head looks", fontsize=11)
    left.grid(alpha=0.3)
    shown = right.imshow(alike, cmap="magma", vmin=0, vmax=1, origin="lower")
    names = [layer.rsplit(", ", maxsplit=1)[1] for layer in layers]
    right.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    right.set_yticks(range(len(names)), names, fontsize=8)
    border = sum(layer.startswith(f"{pair[0]}, ") for layer in layers) - 0.5
    right.axhline(border, color="white")
    right.axvline(border, color="white")
    right.set_title(f"How alike layers are: {pair[0]} below, {pair[1]} above", fontsize=11)
    figure.colorbar(shown, label="CKA: 1 the same, 0 unrelated", shrink=0.8)
    return figure
