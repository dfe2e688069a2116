"""Which test images the networks get wrong, and how sure they are of it."""

import itertools

import numpy as np
import torch

from vit_cnn.data import Dataset, evenly
from vit_cnn.report import figures
from vit_cnn.report.page import Page
from vit_cnn.report.results import Predictions, network_of, right
from vit_cnn.report.statistics import (
    brier_score,
    cross_entropy,
    expected_calibration_error,
    fit_temperature,
    probabilities_of,
)
from vit_cnn.run.pictures import from_unit, tile

MOST_IMAGES, COLUMNS = 24, 12  # that one network gets right and another does not


def add_errors(page: Page, predictions: Predictions, data: Dataset | None, colours: dict[str, str]) -> None:
    page.section("Errors", f"Test images, best setting of each network: {', '.join(predictions)}.")
    first = next(iter(predictions.values()))[0]
    labels = first["test_labels"]
    names = data.classes if data else [str(label) for label in range(first["test_logits"].shape[1])]
    if len(names) <= figures.MOST_CLASSES:
        rights = {label: [right(arrays) for arrays in group] for label, group in predictions.items()}
        caption = "Accuracy of each class; the lines are one standard deviation over seeds either way."
        page.picture("per_class", figures.per_class(names, rights, labels, colours), caption=caption)
    guesses = {label: group[0]["test_logits"].argmax(axis=1) for label, group in predictions.items()}
    caption = "Confusion matrices of one seed, per cent of each true class."
    matrices = [figures.confusion(label, names, guess, labels) for label, guess in guesses.items()]
    page.picture("confusion", *matrices, caption=caption)
    if not data:
        return
    for winner, loser in itertools.permutations(guesses, 2):
        places = np.flatnonzero((guesses[winner] == labels) & (guesses[loser] != labels))
        chosen = places[evenly(len(places), MOST_IMAGES).numpy()]
        if len(chosen):
            images = from_unit(data.test.images[torch.from_numpy(chosen)] / 255)
            shown = ", ".join(names[label] for label in labels[chosen][:COLUMNS])
            caption = f"{winner} is right, {loser} is not: {len(places):,} test images. The first row: {shown}."
            which = network_of(winner) + ("" if len(guesses) == 2 else f"_not_{network_of(loser)}")
            page.picture(f"only_{which}", tile(images, columns=COLUMNS), caption=caption, enlarged=2)


def add_calibration(page: Page, predictions: Predictions, colours: dict[str, str]) -> None:
    page.section(
        "Calibration",
        "Is 80 % sure right in 80 % of cases? Temperature scaling divides the logits by a number fitted on validation; "
        "none is given where a seed gets every validation image right, since then every lower one would be better.",
    )
    rows = []
    for label, group in predictions.items():
        fitted = [fit_temperature(arrays["val_logits"], arrays["val_labels"]) for arrays in group]
        as_trained: list[float | None] = [1.0] * len(group)
        for kind, temperatures in {"as trained": as_trained, "scaled": fitted}.items():
            found = []
            for arrays, t in zip(group, temperatures, strict=True):
                if t is None:
                    continue
                probabilities, labels = probabilities_of(arrays["test_logits"], t), arrays["test_labels"]
                loss = cross_entropy(arrays["test_logits"] / t, labels)
                found.append(
                    [t, expected_calibration_error(probabilities, labels), brier_score(probabilities, labels), loss]
                )
            if len(found) < len(group):
                rows.append([f"{label}, {kind}", *["–"] * 4])
                continue
            t, ece, brier, loss = np.mean(found, axis=0)
            rows.append([f"{label}, {kind}", f"{t:.2f}", f"{ece:.2%}", f"{brier:.4f}", f"{loss:.4f}"])
    page.table(
        "calibration", ["", "temperature", "ECE, 15 bins", "Brier score", "test loss"], rows, "Mean over the seeds."
    )
    diagrams = [figures.calibration(label, group[0], colours[label]) for label, group in predictions.items()]
    caption = "Test images of one seed; the size of a dot is its share of them, the dashed line is perfect calibration."
    page.picture("reliability", *(each for pair in diagrams for each in pair), caption=caption, columns=2)
