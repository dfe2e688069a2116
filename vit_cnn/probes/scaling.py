"""Who gains more from more images? Runs of ``experiment=scaling``: nested parts of the training images, the same steps.

The steps are the same, since with the same epochs few images would mean a short training too. A power law, error = a
n^-b over n images, is fitted to each network; its exponent b says how fast the error falls.

Prediction: what is built in need not be learned, so the CNN leads most where there are few images, and the ViT's
error falls faster (a larger b): the gap shrinks. At fixed epochs others measured a gap of 18 points at 10 % of CIFAR-10
and of 9 at 100 % (rokcpla2/CNN-vs-ViT). The two do not cross within 45,000 images.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vit_cnn.probes.findings import Findings, draw_lines, in_percent
from vit_cnn.probes.intervals import Interval, Measure, Sample, difference, interval, only
from vit_cnn.probes.settings import NETWORKS, by_size, check_trained_alike, rights
from vit_cnn.probes.subjects import Look, check_finished
from vit_cnn.report.colours import colours_of
from vit_cnn.run.reading import Run

LEAST_ERROR = 1e-4  # whose logarithm is taken where there is no error


def probe(runs: list[Run], look: Look) -> Findings:
    check_finished(runs)
    check_trained_alike(runs)
    sizes, table = by_size(runs)
    correct = {run.folder: each for run, each in zip(runs, rights(runs, look), strict=True)}
    samples = {
        network: [np.concatenate([correct[run.folder] for run in seed]) for seed in seeds]
        for network, seeds in table.items()
    }
    exponent = exponent_over(sizes)
    rows: list[dict[str, Any]] = []
    curves: dict[str, list[Interval]] = {}
    for network, sample in samples.items():
        curves[network] = [interval(error_of(k), sample) for k in range(len(sizes))]
        b = interval(exponent, sample).cells("exponent")
        for size, error in zip(sizes, curves[network], strict=True):
            about = {"network": network, "training_images": size, "seeds": len(sample), "images": sample[0].shape[1]}
            rows.append({**about, **error.cells("error"), **b})
    return Findings(rows, draw(sizes, curves, samples), verdict_of(sizes, samples))


def error_of(number: int) -> Measure:
    return lambda means: 1 - means[number]


def exponent_over(sizes: list[int]) -> Measure:
    """The b of error = a n^-b, by least squares in logarithms, from accuracies [sizes, …]."""
    x = np.log(sizes) - np.log(sizes).mean()
    return lambda means: -(x @ np.log(np.maximum(1 - means, LEAST_ERROR))) / (x @ x)


def verdict_of(sizes: list[int], samples: dict[str, Sample]) -> str:
    vit, cnn = (samples[network] for network in NETWORKS)
    exponent = exponent_over(sizes)
    numbers = " and ".join(f"{name} {interval(exponent, samples[name]).number()}" for name in NETWORKS)
    faster = difference(exponent, vit, cnn).choose("the ViT gains more", "the CNN gains more", "no clear difference")
    leads = [difference(only(k), cnn, vit) for k in range(len(sizes))]
    ahead = [lead.choose("CNN", "ViT", "") for lead in leads]
    crossed = "they cross" if {"CNN", "ViT"} <= set(ahead) else "no crossing is seen"
    ends = " and ".join(f"{leads[k].points()} at {sizes[k]:,} images" for k in (0, -1))
    return f"Exponents of the error: {numbers} ({faster}); CNN minus ViT {ends}; {crossed}{meeting(sizes, samples)}."


def fit(sizes: list[int], sample: Sample) -> tuple[float, float]:
    """The b and log a of error = a n^-b."""
    mean = np.mean([seed.mean(axis=1) for seed in sample], axis=0)
    b = float(exponent_over(sizes)(mean[:, None])[0])
    return b, float(np.log(np.maximum(1 - mean, LEAST_ERROR)).mean() + b * np.log(sizes).mean())


def meeting(sizes: list[int], samples: dict[str, Sample]) -> str:
    """Where the two fitted lines meet, if their slopes differ clearly and it is within a factor of 100 of the runs."""
    vit, cnn = (samples[network] for network in NETWORKS)
    if difference(exponent_over(sizes), vit, cnn).choose("yes", "yes", "") == "":
        return ""
    (b1, a1), (b2, a2) = fit(sizes, vit), fit(sizes, cnn)
    where = float(np.exp(np.clip((a1 - a2) / (b1 - b2), -50, 50)))
    near = sizes[0] / 100 < where < 100 * sizes[-1]
    return f", the fitted lines meet at about {where:,.0f} images" if near else ", nor do the fitted lines meet nearby"


def draw(sizes: list[int], curves: dict[str, list[Interval]], samples: dict[str, Sample]) -> Figure:
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    colours = colours_of(list(curves))
    for network, sample in samples.items():
        b, log_a = fit(sizes, sample)
        axes.plot(sizes, np.exp(log_a - b * np.log(sizes)), color=colours[network], linestyle="--", linewidth=1)
    draw_lines(axes, sizes, curves, colours)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel("different training images, at the same number of steps")
    axes.set_ylabel("error")
    axes.set_title("Who gains more from more images? Dashed: fitted power laws", fontsize=11)
    in_percent(axes)
    return figure
