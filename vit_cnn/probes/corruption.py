"""How much of its accuracy does a network keep under noise, blur, other light and digital damage, at five severities?

The corruptions are made here, in the manner of CIFAR-10-C (``corruptions.py`` says what differs). With ``--split
test`` the real ones are used instead where $VIT_CNN_DATA holds them (CIFAR-10-C/*.npy), and CIFAR-10.1, new test
images, is added (cifar10.1_v6_data.npy and cifar10.1_v6_labels.npy).

Prediction: convolutions pass on what changes from pixel to pixel, attention averages it away: the ViT keeps more
under noise, the CNN more under blur. Only runs of one recipe can show it: on ImageNet, training a ResNet by a ViT's
recipe took away more than half of the difference between them.

Sources: Park & Kim, "How Do Vision Transformers Work?", 2022, https://arxiv.org/abs/2202.06709; Bai et al., "Are
Transformers More Robust Than CNNs?", 2021, https://arxiv.org/abs/2111.05464; Recht et al., "Do CIFAR-10 Classifiers
Generalize to CIFAR-10?", 2018, https://arxiv.org/abs/1806.00451.
"""

import itertools

import numpy as np
from matplotlib.figure import Figure

from vit_cnn.probes.conditions import Condition, cifar10_1, cifar10_c, made_here
from vit_cnn.probes.findings import Findings, draw_rows
from vit_cnn.probes.intervals import Interval, difference, interval, kept, only
from vit_cnn.probes.subjects import Look, grouped, guesses, images_of, pair_of
from vit_cnn.report.colours import colours_of
from vit_cnn.run.reading import Run

Families = dict[str, dict[str, Interval]]  # what each label keeps, by family


def probe(runs: list[Run], look: Look) -> Findings:
    groups = grouped(runs)
    pair = pair_of(groups)
    images = images_of(runs[0], look)
    conditions = made_here(images)
    if look.split == "test" and runs[0].is_cifar10:
        conditions = (cifar10_c(len(images.labels)) or conditions) + cifar10_1(len(images.labels))
    found = guesses(groups, itertools.chain([images.pixels], (each.make() for each in conditions)), look)
    labels = np.stack([images.labels, *(each.labels for each in conditions)])
    samples = {label: [(seed == labels).astype(float) for seed in seeds] for label, seeds in found.items()}
    rows = []
    for label, sample in samples.items():
        for number, condition in enumerate(conditions, start=1):
            accuracy = interval(only(number), sample).cells("accuracy")
            of_clean = interval(kept([number]), sample).cells("of_clean")
            about = {"network": label, **condition.describe(), "seeds": len(sample), "images": labels.shape[1]}
            rows.append({**about, **accuracy, **of_clean})
    numbers: dict[str, list[int]] = {}
    for number, condition in enumerate(conditions, start=1):
        numbers.setdefault(condition.family, []).append(number)
    families = {
        family: {label: interval(kept(each), sample) for label, sample in samples.items()}
        for family, each in numbers.items()
    }
    first, second = (samples[label] for label in pair)
    less = {family: difference(kept(each), first, second) for family, each in numbers.items()}
    return Findings(rows, draw(families, conditions), verdict_of(families, less, pair, conditions))


def sources(conditions: list[Condition]) -> str:
    return " and ".join(dict.fromkeys(condition.source for condition in conditions))


def verdict_of(
    families: Families, less: dict[str, Interval], pair: tuple[str, str], conditions: list[Condition]
) -> str:
    a, b = pair
    parts = []
    for family, of in families.items():
        said = less[family].choose(f"{a} keeps more", f"{b} keeps more", "no clear difference")
        numbers = ", ".join(f"{label} {100 * of[label].value:.0f} %" for label in pair)
        parts.append(f"{family} {numbers} ({less[family].points()}: {said})")
    return f"Of the accuracy on clean images there remain under {'; '.join(parts)}. Images: {sources(conditions)}."


def draw(families: Families, conditions: list[Condition]) -> Figure:
    figure = Figure(figsize=(7.5, 1.4 + 0.7 * len(families)), layout="constrained")
    axes = figure.add_subplot()
    draw_rows(axes, families, colours_of(list(next(iter(families.values())))))
    axes.axvline(1, color="#555", linestyle="--", linewidth=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("accuracy, share of that on clean images (dashed)")
    axes.set_title(f"What remains under corruption, severities 1 to 5 ({sources(conditions)})", fontsize=11)
    return figure
