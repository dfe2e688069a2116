"""From runs to a page: the deck's tables and curves, its observations put to the test, and what it could not show."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vit_cnn.config.network import build_network
from vit_cnn.data import Dataset
from vit_cnn.errors import Refused, one_line
from vit_cnn.models.size import flops_per_image, layers_of
from vit_cnn.report import curves, figures, inside
from vit_cnn.report.claims import check_claims
from vit_cnn.report.groups import by_label, check_same_data, label_runs, once_per_seed, settings_of, swept
from vit_cnn.report.page import Page
from vit_cnn.report.results import Predictions, add_mcnemar, add_results, add_runs, right
from vit_cnn.report.statistics import (
    brier_score,
    cross_entropy,
    expected_calibration_error,
    fit_temperature,
    probabilities_of,
)
from vit_cnn.run.pictures import enlarge, from_unit, tile
from vit_cnn.run.reading import Run
from vit_cnn.run.trained import TrainedRun, load_run

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
MOST_IMAGES = 24  # that only one of two networks gets right


def build(runs: list[Run], folder: Path, *, look_inside: bool = True) -> Path:
    """Write ``report.html`` with its figures and tables into ``folder``.

    Args:
        look_inside: into the networks too, which takes their weights and the images.

    Raises:
        Refused: the runs cannot be compared; nothing is written.
    """
    check_same_data(runs)
    everything = label_runs(runs)
    runs, repeats = once_per_seed(everything)
    finished = [run for run in runs if run.result]
    best = best_groups(finished)
    predictions = {label: [run.predictions() for run in group] for label, group in by_label(finished).items()}
    data_name = runs[0].config["data"]["name"]
    page = Page(
        folder=folder,
        title=f"{' against '.join(dict.fromkeys(run.model for run in runs))} on {data_name}",
        subtitle=f"{len(runs)} runs, {len(finished)} of them finished. Written {datetime.now():%Y-%m-%d %H:%M}.",
    )
    data = images_of(runs[0]) if look_inside else None

    add_results(page, runs, predictions)
    add_mcnemar(page, best, predictions)
    add_runs(page, everything, repeats)
    add_curves(page, runs)
    if "ViT" in {group[0].model for group in best.values()} and "CNN" in {group[0].model for group in best.values()}:
        add_claims(page, best)
    add_sweep(page, [run for run in finished if run.model == "ViT"])
    if best:
        of_best = {label: predictions[label] for label in best}
        add_errors(page, of_best, data)
        add_calibration(page, of_best)
    add_data(page, runs, data)
    if data:
        add_inside(page, best, data)
    elif look_inside:
        page.section("Inside the networks", "Left out: the images are not here (the log says why).")
    return page.write()


def best_groups(finished: list[Run]) -> dict[str, list[Run]]:
    """For each network the label with the best mean validation accuracy: what the closer looks are about."""
    chosen: dict[str, list[Run]] = {}
    for label, group in by_label(finished).items():
        others = [other for other in chosen if chosen[other][0].model == group[0].model]
        if not others or mean_of(group, "val/acc") > mean_of(chosen[others[0]], "val/acc"):
            for other in others:
                del chosen[other]
            chosen[label] = group
    return chosen


def mean_of(group: list[Run], key: str) -> float:
    return float(np.mean([run.result[key] for run in group if run.result]))


def images_of(run: Run) -> Dataset | None:
    """The images that the run saw, or ``None`` where they are not here any more."""
    try:
        data: Dataset = instantiate(OmegaConf.create(run.config["data"]))
    except (Refused, InstantiationException) as error:
        log.warning("The images are not here: %s", one_line(error))
        return None
    if run.result and data.fingerprint != run.result["data"]["fingerprint"]:
        log.warning("The images are not those of %s any more.", run.folder)
        return None
    return data


def add_curves(page: Page, runs: list[Run]) -> None:
    flops = {}
    for label, group in by_label(runs).items():
        known = [run.result["flops_per_image"] for run in group if run.result]
        flops[label] = known[0] if known else flops_of(group[0])
    drawn = curves.all_curves(runs, flops)
    if not any(drawn.values()):
        return
    page.section(
        "Curves", "The buttons change the x axis; drag to zoom, double-click to zoom out, click on a name to hide it."
    )
    page.plot("curves", curves.interactive(drawn), "Mean over seeds; the band is one standard deviation either way.")
    curves.save_static(drawn, page.folder)
    curves.write_csv(drawn, page.folder / "curves.csv")


def flops_of(run: Run) -> int:
    data = run.config["data"]
    image = torch.zeros(1, data["num_channels"], data["image_size"], data["image_size"])
    return flops_per_image(build_network(OmegaConf.create(run.config["model"])), image)


def add_claims(page: Page, best: dict[str, list[Run]]) -> None:
    page.section(
        "What the deck observed", "Each observation put to these runs; a verdict is about them, not about the deck."
    )
    by_model = {group[0].model: group for group in best.values()}
    verdicts = {True: "yes", False: "no", None: "cannot tell"}
    rows = [
        [claim.observation, verdicts[claim.holds], claim.found, claim.rule]
        for claim in check_claims(by_model["ViT"], by_model["CNN"])
    ]
    page.table("observations", ["observation", "here too?", "found", "rule of the verdict"], rows)


def add_sweep(page: Page, runs: list[Run]) -> None:
    """Heat maps, where the ViT's runs differ in two numbers."""
    names = swept(runs)
    numbers = [name for name in names if all(isinstance(settings_of(run)[name], (int, float)) for run in runs)]
    if len(names) < 2:
        return
    if len(names) > 2 or numbers != names:
        page.section("Sweep", f"No heat map: it needs two swept numbers, but these runs differ in {', '.join(names)}.")
        return
    page.section("Sweep", f"The ViT over {names[0]} and {names[1]}, mean over seeds.")
    page.picture("sweep", figures.sweep_maps(runs, *names), "Validation accuracy, training time and parameters.")


def add_errors(page: Page, predictions: Predictions, data: Dataset | None) -> None:
    page.section("Errors", f"Test images, best setting of each network: {', '.join(predictions)}.")
    first = next(iter(predictions.values()))[0]
    labels = first["test_labels"]
    names = data.classes if data else [str(label) for label in range(first["test_logits"].shape[1])]
    if len(names) <= figures.MOST_CLASSES:
        rights = {label: [right(arrays) for arrays in group] for label, group in predictions.items()}
        page.picture(
            "per_class", figures.per_class(names, rights, labels), "Accuracy of each class; bars: one deviation."
        )
    guesses = {label: group[0]["test_logits"].argmax(axis=1) for label, group in predictions.items()}
    caption = "Confusion matrices of one seed, per cent of each true class."
    page.picture("confusion", figures.confusions(names, guesses, labels), caption)
    if data and len(guesses) == 2:
        (a, guess_a), (b, guess_b) = guesses.items()
        for winner, loser, won in (
            (a, b, (guess_a == labels) & (guess_b != labels)),
            (b, a, (guess_b == labels) & (guess_a != labels)),
        ):
            chosen = np.flatnonzero(won)[:MOST_IMAGES]
            if len(chosen):
                images = from_unit(data.test.images[torch.from_numpy(chosen)] / 255)
                shown = ", ".join(names[label] for label in labels[chosen][:8])
                caption = f"Only {winner} is right, {loser} is not: {won.sum():,} test images, among them {shown}."
                page.picture(f"only_{winner.split()[0].lower()}", tile(images, columns=12), caption, enlarged=2)


def add_calibration(page: Page, predictions: Predictions) -> None:
    page.section(
        "Calibration",
        "Is 80 % sure right in 80 % of cases? Temperature scaling divides the logits by a number fitted on validation; "
        "none is given where a seed gets every validation image right, since then the colder the better without end.",
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
    first_seeds = {label: group[0] for label, group in predictions.items()}
    caption = "Test images of one seed; the size of a dot is its share of them, the dashed line is perfect calibration."
    page.picture("reliability", figures.calibration(first_seeds), caption)


def add_data(page: Page, runs: list[Run], data: Dataset | None) -> None:
    page.section("Images and networks")
    if data:
        counts = f"{len(data.train):,} training, {len(data.val):,} validation and {len(data.test):,} test images"
        page.text(f"{data.name} ({data.source}): {counts}, fingerprint {data.fingerprint}.")
        rows = min(10, len(data.classes))
        chosen = [(data.train.labels == label).nonzero()[:10, 0] for label in range(rows)]
        ten = [torch.nn.functional.pad(each, (0, 10 - len(each)), value=int(each[0])) for each in chosen]
        samples = from_unit(data.train.images[torch.cat(ten)] / 255)
        page.picture(
            "samples", tile(samples, columns=10), f"Ten of each class: {', '.join(data.classes[:rows])}.", enlarged=2
        )
        vit = next((run for run in runs if run.model == "ViT"), None)
        if vit:
            p = vit.config["model"]["patch_size"]
            image = data.train.images[:1] / 255
            patches = from_unit(rearrange(image, "1 c (h p1) (w p2) -> (h w) c p1 p2", p1=p, p2=p))
            side = image.shape[-1] // p
            caption = f"One image, and its {side**2} patches of {patches[0].size} numbers: what the ViT reads."
            cut = tile([enlarge(patch, 8) for patch in patches], columns=side, gap=4)
            page.picture("patches", cut, caption)
    for model in dict.fromkeys(run.model for run in runs):
        run = next(run for run in runs if run.model == model)
        settings = run.config["data"]
        try:
            network = build_network(OmegaConf.create(run.config["model"]))
        except Refused as error:
            page.text(f"{run.label} is left out: {error}")
            continue
        batch = run.config["recipe"]["batch_size"]
        images = torch.zeros(batch, settings["num_channels"], settings["image_size"], settings["image_size"])
        layers = layers_of(network, images)
        rows_ = [
            [layer.name, layer.kind, f"{layer.params:,}", str(layer.in_sizes or "–"), str(layer.out_sizes or "–")]
            for layer in layers
        ]
        page.heading(f"{run.label}: {layers[0].params:,} parameters, {layers[0].params * 4 / 1e6:.3f} MB")
        page.table(f"sizes_{model.lower()}", ["name", "type", "parameters", "in sizes", "out sizes"], rows_)


def add_inside(page: Page, best: dict[str, list[Run]], data: Dataset) -> None:
    page.section("Inside the networks", "One seed of the best setting of each; validation images.")
    for label, group in best.items():
        try:
            run: TrainedRun = load_run(group[0].folder)
        except Refused as error:
            page.text(f"{label} is left out: {error}")
            continue
        page.heading(label)
        name = group[0].model.lower()
        if (filters := inside.filters(run)) is not None:
            page.picture(f"filters_{name}", filters, "What the first layer looks for; grey is 0.")
        if group[0].model == "ViT":
            caption = "An image, CLS's attention by each head of the last layer, and on the right attention rollout."
            page.picture("attention", inside.attention(run, data), caption)
            page.picture("attention_distance", inside.distances(run, data), "How far each head looks, by layer.")
            caption = "How alike the position embeddings are: each small map shows one position against all."
            page.picture("positions", inside.positions(run), caption)


__all__ = ["build"]
