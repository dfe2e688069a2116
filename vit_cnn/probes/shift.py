"""Does the answer stay when the image moves by 0 to 8 pixels, left, right, up or down?

What leaves the image is lost, and its own reflection fills the other side, as in our augmentation.

Prediction: neither network is invariant. What the ViT sees repeats itself when the image has moved by a whole patch,
so it should change fewer answers at 4 pixels than at 2, though the image has moved further. The CNN halves the image
three times, so its period is 8: fewer changed answers at 8 than at 4. Random crops in training make all of it
smaller. A network that had translation equivariance built in altogether would change no answer but for what leaves
the image.

Source: Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, https://arxiv.org/abs/1904.11486.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from einops import reduce
from matplotlib.figure import Figure
from torch import Tensor

from vit_cnn.arrays import Array
from vit_cnn.errors import Refused
from vit_cnn.probes.findings import Findings, draw_lines, in_percent
from vit_cnn.probes.intervals import Interval, interval, only
from vit_cnn.probes.subjects import Look, grouped, guesses, images_of
from vit_cnn.report.colours import colours_of
from vit_cnn.run.reading import Run

FURTHEST = 8  # pixels
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
CNN_PERIOD = 8  # pixels; it halves the image three times


def probe(runs: list[Run], look: Look) -> Findings:
    groups = grouped(runs)
    first = runs[0]
    if (size := first.config["data"]["image_size"]) <= FURTHEST:
        raise Refused(f"{first.folder}: its images are {size} pixels wide, and shift moves them by up to {FURTHEST}")
    images = images_of(first, look)
    found = guesses(groups, all_shifted(images.pixels), look)
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, list[Interval]]] = {"unchanged": {}, "accuracy": {}}
    verdicts = []
    for label, seeds in found.items():
        unchanged = [by_offset(seed == seed[0]) for seed in seeds]
        accuracy = [by_offset(seed == images.labels) for seed in seeds]
        for name, sample in (("unchanged", unchanged), ("accuracy", accuracy)):
            curves[name][label] = [interval(only(k), sample) for k in range(FURTHEST + 1)]
        for offset, (u, a) in enumerate(zip(curves["unchanged"][label], curves["accuracy"][label], strict=True)):
            about = {"network": label, "offset_pixels": offset, "seeds": len(seeds), "images": len(images.labels)}
            rows.append({**about, **u.cells("unchanged"), **a.cells("accuracy")})
        verdicts.append(f"{label} {verdict_of(curves['unchanged'][label], unchanged, period_of(groups[label][0]))}")
    return Findings(rows, draw(curves), f"{'; '.join(verdicts)}.")


def all_shifted(images: Tensor) -> Iterator[Tensor]:
    """The images as they are, then by 1, 2, … pixels in each of the four directions."""
    yield images
    for offset in range(1, FURTHEST + 1):
        for down, right in DIRECTIONS:
            yield shifted(images, down=offset * down, right=offset * right)


def shifted(images: Tensor, *, down: int, right: int) -> Tensor:
    """Images [n, c, h, w] moved by so many pixels, fewer than they have."""
    h, w = images.shape[-2:]
    return images[..., reflected(torch.arange(h) - down, h), :][..., reflected(torch.arange(w) - right, w)]


def reflected(places: Tensor, size: int) -> Tensor:
    """Places outside [0, size), mirrored at the first and the last pixel."""
    return size - 1 - (size - 1 - places.abs()).abs()


def by_offset(answers: Array) -> Array:
    """Answers, bool [1 + offsets · directions, n] → the mean over directions, [1 + offsets, n]."""
    mean = reduce(answers[1:].astype(float), "(offsets directions) n -> offsets n", "mean", directions=len(DIRECTIONS))
    return np.concatenate([answers[:1].astype(float), mean])


def period_of(run: Run) -> int | None:
    """After how many pixels the network sees the same again; ``None`` where that is not known, or out of reach."""
    period = {"ViT": run.config["model"].get("patch_size"), "CNN": CNN_PERIOD}.get(run.model)
    return period if period and 2 <= period <= FURTHEST else None


def verdict_of(curve: list[Interval], sample: list[Array], period: int | None) -> str:
    last = f"keeps {curve[FURTHEST].percent()} of its answers at {FURTHEST} px"
    if period is None:
        return last
    half = period // 2
    back = interval(lambda means: means[period] - means[half], sample)
    said = back.choose("so it dips between whole periods", "no dip between whole periods", "no clear dip")
    kept = f"keeps {curve[half].percent()} of its answers at {half} px, {curve[period].percent()} at {period}"
    return f"{kept} ({back.points()}): {said}"


def draw(curves: dict[str, dict[str, list[Interval]]]) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = {"unchanged": "Answers that stay when the image moves", "accuracy": "Accuracy on moved images"}
    for axes, (name, lines) in zip(panels, curves.items(), strict=True):
        draw_lines(axes, range(FURTHEST + 1), lines, colours_of(list(lines)))
        axes.set_title(titles[name], fontsize=11)
        axes.set_xlabel("the image moves by, pixels")
        axes.set_ylabel("share of images")
        axes.set_xticks(range(FURTHEST + 1))
        in_percent(axes)
    return figure
