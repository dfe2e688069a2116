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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vit_cnn.arrays import Array
from vit_cnn.errors import Refused
from vit_cnn.models import ViT
from vit_cnn.models.size import whole
from vit_cnn.probes.attention import distances, distances_in_words, draw_distances, nearness, uniform_distance
from vit_cnn.probes.cka import cka, ends_alike, grams_of
from vit_cnn.probes.findings import Findings
from vit_cnn.probes.intervals import Interval, interval, only
from vit_cnn.probes.subjects import Look, grouped, images_of, pair_of
from vit_cnn.run.reading import Run
from vit_cnn.run.trained import load_run

FEWEST = 20  # images from which CKA can be estimated
DISTANCE = "attention distance, pixels"


def probe(runs: list[Run], look: Look) -> Findings:
    """Distances of every setting of the ViT, CKA of the first two networks; of several seeds the first is looked at."""
    groups = grouped(runs)
    networks = {
        label: load_run(group[0].folder, device=look.device, trust=look.trust) for label, group in groups.items()
    }
    vits = {label: network.model for label, network in networks.items() if isinstance(network.model, ViT)}
    if not vits:
        raise Refused(f"{runs[0].folder}: a {runs[0].model} has no attention to look at; add the run of a ViT")
    pair = pair_of({label: groups[label] for label in sorted(groups, key=lambda label: label not in vits)})
    images = images_of(runs[0], look)
    if (n := len(images.labels)) < FEWEST:
        raise Refused(f"{runs[0].folder}: inside needs {FEWEST} images or more, not {n}")
    far, uniform, near = {}, {}, {}
    grams: dict[str, Tensor] = {}
    for label in dict.fromkeys([*pair, *vits]):
        network = networks[label]
        seen = network.normalised(images.pixels)
        if vit := vits.get(label):
            far[label], uniform[label], near[label] = distances(vit, seen), uniform_distance(vit), nearness(vit)
        if label in pair:
            with whole(network.model):
                grams |= grams_of(label, network.model, seen)
    alike = np.array([[cka(x, y) for y in grams.values()] for x in grams.values()])
    ends = {label: ends_alike([g for layer, g in grams.items() if layer.startswith(f"{label}, ")]) for label in pair}

    rows: list[dict[str, Any]] = []
    for label, blocks in far.items():
        for b, heads in enumerate(blocks, start=1):
            for h in range(len(heads)):
                rows.append(row(DISTANCE, f"{label}, block {b}", f"head {h + 1}", n, interval(only(h), [heads])))
        rows.append(row(DISTANCE, f"{label}, uniform attention", "", n, known(uniform[label])))
        rows.append(row("cosine of positions", f"{label}, neighbours", "minus all pairs", n, known(near[label])))
    rows += [row("CKA of first and last layer", label, "", n, each) for label, each in ends.items()]
    for i, x in enumerate(grams):
        rows += [row("CKA", x, y, n, known(float(alike[i, j]))) for j, y in enumerate(grams) if i <= j]
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
    draw_distances(left, {label: blocks.mean(axis=2) for label, blocks in far.items()}, uniform[pair[0]])
    draw_cka(figure, right, pair, alike, list(grams))
    said = [f"{distances_in_words(label, far[label], uniform[label])}, positions of neighbours {near[label]:+.2f} more "
            "alike than any two" for label in far]  # fmt: skip
    return Findings(rows, figure, f"{'; '.join(said)}; {ends_in_words(ends)}.")


def row(quantity: str, first: str, second: str, n: int, found: Interval) -> dict[str, Any]:
    return {"quantity": quantity, "first": first, "second": second, "images": n, **found.cells("value")}


def known(value: float) -> Interval:
    """A figure without an interval."""
    return Interval(value, float("nan"), float("nan"))


def ends_in_words(ends: dict[str, Interval]) -> str:
    (a, x), (b, y) = ends.items()
    clear = x.low > y.high or y.low > x.high
    said = "as predicted" if x.low > y.high else "against the prediction" if clear else "which is no clear difference"
    return f"CKA of first and last layer: {a} {x.number()}, {b} {y.number()}, {said}"


def draw_cka(figure: Figure, axes: Axes, pair: tuple[str, str], alike: Array, layers: list[str]) -> None:
    """How alike all layers of both networks are, each with each."""
    shown = axes.imshow(alike, cmap="magma", vmin=0, vmax=1, origin="lower")
    names = [layer.rsplit(", ", maxsplit=1)[1] for layer in layers]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    border = sum(layer.startswith(f"{pair[0]}, ") for layer in layers) - 0.5
    axes.axhline(border, color="white")
    axes.axvline(border, color="white")
    axes.set_title(f"How alike layers are: {pair[0]} below, {pair[1]} above", fontsize=11)
    figure.colorbar(shown, label="CKA: 1 the same, 0 unrelated", shrink=0.8)
