"""Who needs the arrangement of the whole image, who the texture of its parts? No network is trained again.

shuffled   the image is cut into squares, which change places: texture stays, arrangement goes
dropped    half of the squares, drawn at random, get the mean colour: arrangement stays, with holes
occluded   one square, anywhere, gets the mean colour

Prediction: the ViT, which may attend to any patch, bears dropped and shuffled squares of 4 pixels or more better
than the CNN, as ViTs of ImageNet do. Squares of 2 pixels cut through the ViT's patches: there its lead is gone. That
our CNN ends in linear layers, which know every place, speaks for a large loss when arrangement goes.

Source: Naseer et al., "Intriguing Properties of Vision Transformers", 2021, https://arxiv.org/abs/2105.10497.
"""

from collections.abc import Iterator
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vit_cnn.arrays import Array
from vit_cnn.errors import Refused
from vit_cnn.probes.findings import Findings, draw_lines, in_percent
from vit_cnn.probes.intervals import Interval, difference, interval, kept, only
from vit_cnn.probes.squares import CHANGES
from vit_cnn.probes.subjects import Images, Look, grouped, guesses, images_of, pair_of
from vit_cnn.report.colours import colours_of
from vit_cnn.run.reading import Run

SIZES = (2, 4, 8, 16)  # of the squares, pixels


def probe(runs: list[Run], look: Look) -> Findings:
    groups = grouped(runs)
    pair = pair_of(groups)
    side = runs[0].config["data"]["image_size"]
    sizes = [size for size in SIZES if side % size == 0 and size < side]
    if not sizes:
        raise Refused(f"{runs[0].folder}: none of the squares of {SIZES} pixels divides its images of {side}")
    images = images_of(runs[0], look)
    conditions = [(what, size) for what in CHANGES for size in sizes]
    found = guesses(groups, all_changed(images, conditions), look)
    samples = {label: [(seed == images.labels).astype(float) for seed in seeds] for label, seeds in found.items()}
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, list[Interval]]] = {what: {label: [] for label in samples} for what in CHANGES}
    for label, sample in samples.items():
        for number, (what, size) in enumerate(conditions, start=1):
            share, accuracy = interval(kept([number]), sample), interval(only(number), sample)
            curves[what][label].append(share)
            about = {"network": label, "change": what, "square_pixels": size}
            counts = {"seeds": len(sample), "images": len(images.labels)}
            rows.append({**about, **counts, **accuracy.cells("accuracy"), **share.cells("of_clean")})
    return Findings(rows, draw(curves, sizes), verdict_of(samples, pair, conditions, sizes))


def all_changed(images: Images, conditions: list[tuple[str, int]]) -> Iterator[Tensor]:
    pixels = images.pixels.float()
    yield pixels
    for what, size in conditions:
        yield CHANGES[what](pixels, size, images.mean, torch.Generator().manual_seed(size))


def verdict_of(
    samples: dict[str, list[Array]], pair: tuple[str, str], conditions: list[tuple[str, int]], sizes: list[int]
) -> str:
    a, b = pair
    small, large = sizes[0], 8 if 8 in sizes else sizes[-1]
    parts = []
    for what, size in dict.fromkeys((("shuffled", large), ("shuffled", small), ("dropped", large))):
        measure = kept([conditions.index((what, size)) + 1])
        shares = [interval(measure, samples[label]) for label in pair]
        less = difference(measure, samples[a], samples[b])
        said = less.choose(f"{b} suffers more", f"{a} suffers more", "no clear difference")
        numbers = " and ".join(f"{label} {100 * each.value:.0f} %" for label, each in zip(pair, shares, strict=True))
        parts.append(f"with squares of {size} px {what} {numbers} ({less.points()}): {said}")
    return f"Of the accuracy on clean images there remain, {'; '.join(parts)}."


def draw(curves: dict[str, dict[str, list[Interval]]], sizes: list[int]) -> Figure:
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    titles = {"shuffled": "Squares change places", "dropped": "Half of the squares gone", "occluded": "One square gone"}
    top = max(each.high for lines in curves.values() for line in lines.values() for each in line)
    for axes, (what, lines) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        axes.set_xscale("log", base=2)
        axes.set_ylim(0, 1.05 * top)
        draw_lines(axes, sizes, lines, colours_of(list(lines)))
        axes.set_title(titles[what], fontsize=11)
        axes.set_xlabel("side of a square, pixels")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        in_percent(axes)
    figure.axes[0].set_ylabel("accuracy, share of that on clean images")
    return figure
