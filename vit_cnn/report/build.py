"""From runs to a page: the sections in their order."""

import csv
import logging
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from omegaconf import OmegaConf

from vit_cnn.arrays import Array
from vit_cnn.config.network import build_network
from vit_cnn.console import console
from vit_cnn.data import Dataset
from vit_cnn.errors import Refused, shown
from vit_cnn.models.size import flops_per_image, flops_per_update
from vit_cnn.report import curves, figures
from vit_cnn.report.claims import check_claims
from vit_cnn.report.colours import colours_of
from vit_cnn.report.conclusion import conclude
from vit_cnn.report.groups import by_label, check_same_data, label_runs, once_per_seed, settings_of, swept
from vit_cnn.report.mistakes import add_calibration, add_errors
from vit_cnn.report.networks import add_data, add_inside
from vit_cnn.report.page import NAME, Page
from vit_cnn.report.probes import add_probes
from vit_cnn.report.repeat import add_groups
from vit_cnn.report.results import add_mcnemar, add_results, add_runs, step_flops
from vit_cnn.run.reading import Run
from vit_cnn.run.trained import load_images

log = logging.getLogger(__name__)


@rc_context({"text.parse_math": False})  # a class may be called $
def build(
    runs: list[Run],
    folder: Path,
    *,
    look_inside: bool = True,
    replace: bool = False,
    any_machine: bool = False,
    probes: Path | None = None,
    trust: str = "",
) -> Path:
    """Write ``report.html`` with its figures and tables into ``folder``.

    Args:
        look_inside: into the networks too, which takes their weights and the images.
        replace: also a report of other runs.
        any_machine: seeds on different machines belong together; the table of costs then has no times.
        probes: folder with what probes have found, of which a section shows what is about these runs.
        trust: as in ``find_runs``.

    Raises:
        Refused: the runs cannot be compared, or ``folder`` holds a report of other runs; nothing is written.
    """
    check_same_data(runs)
    everything = label_runs(runs, machines=not any_machine)
    runs, repeats = once_per_seed(everything)
    finished = [run for run in runs if run.result]
    best = best_groups(finished)
    predictions = {label: [run.predictions() for run in group] for label, group in by_label(finished).items()}
    check_same_labels(finished, [arrays for group in predictions.values() for arrays in group])
    if not replace:
        check_same_report(everything, folder)
    runs = sorted(runs, key=lambda run: run.label not in best)  # so that these get the colour of their network
    colours = colours_of(list(by_label(runs)))
    data_name = runs[0].config["data"]["name"]
    page = Page(
        folder=folder,
        title=f"{' against '.join(dict.fromkeys(run.model for run in runs))} on {data_name}",
        subtitle=f"{len(runs)} runs, {len(finished)} of them finished. Written {datetime.now():%Y-%m-%d %H:%M}.",
        conclusion=conclude(runs, best, predictions),
    )
    data = images_of(runs[0]) if look_inside else None

    add_groups(page, runs)
    page.section("Results")
    if finished:
        add_results(page, finished, predictions)
        add_mcnemar(page, best, predictions)
    add_runs(page, everything, repeats)
    add_curves(page, runs, colours)
    if {"ViT", "CNN"} <= {group[0].model for group in best.values()}:
        add_claims(page, best)
    add_sweep(page, [run for run in finished if run.model == "ViT"], machines=not any_machine)
    if best:
        of_best = {label: predictions[label] for label in best}
        add_errors(page, of_best, data, colours)
        add_calibration(page, of_best, colours)
    add_data(page, runs, data)
    if data and best:
        add_inside(page, best, data, colours, trust=trust)
    elif look_inside and not data:
        page.section("Inside the networks", "Left out: the images are not here (the log says why).")
    if probes:
        add_probes(page, everything, probes)
    return page.write()


def check_same_labels(runs: list[Run], predictions: list[dict[str, Array]]) -> None:
    """The fingerprint says that the images are the same; the predictions have to be of these.

    Raises:
        Refused: the labels differ.
    """
    for arrays in predictions[1:]:
        if any(not np.array_equal(arrays[key], predictions[0][key]) for key in ("val_labels", "test_labels")):
            names = ", ".join(shown(run.folder) for run in runs)
            raise Refused(f"cannot compare {names}: the labels in their predictions.npz differ")


def check_same_report(runs: list[Run], folder: Path) -> None:
    """A report may replace one of the same runs, or of some of them; it says so.

    Raises:
        Refused: the one that is there is about other runs.
    """
    page = folder / NAME
    if not page.exists():
        return
    before: list[str] = []
    if (folder / "runs.csv").exists():
        with open(folder / "runs.csv", newline="", encoding="utf-8") as file:
            before = [row.get("folder", "") for row in csv.DictReader(file)]
    here = {shown(run.folder.resolve()) for run in runs}
    others = [each for each in before if shown(Path(each).resolve()) not in here]
    written = f"{datetime.fromtimestamp(page.stat().st_mtime):%Y-%m-%d %H:%M}"
    if others or not before:
        about = f"about other runs ({others[0]})" if others else "not a report that is known here"
        raise Refused(f"{page}, of {written}, is {about}: choose another folder with --out, or add --replace")
    console.print(f"This replaces the report of {written}.")


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
    return float(np.mean([run.figures[key] for run in group]))


def images_of(run: Run) -> Dataset | None:
    """The images that the run saw, or ``None`` where they are not here any more."""
    try:
        return load_images(run)
    except Refused as error:
        log.warning("%s", error)
        return None


def add_curves(page: Page, runs: list[Run], colours: dict[str, str]) -> None:
    flops = {}
    for label, group in by_label(runs).items():
        known = [step_flops(run.result) for run in group if run.result]
        try:
            flops[label] = known[0] if known else flops_of(group[0])
        except Refused as error:  # its network cannot be built here
            log.warning("%s is left out of the curves: %s", label, error)
    drawn = curves.all_curves([run for run in runs if run.label in flops], flops)
    if not any(drawn.values()):
        return
    page.section(
        "Curves", "The buttons change the x axis; drag to zoom, double-click to zoom out, click on a name to hide it."
    )
    caption = "Mean over seeds; the band is one standard deviation either way."
    page.plot("curves", curves.interactive(drawn, colours), caption)
    curves.save_static(drawn, page.folder, colours)
    curves.write_csv(drawn, page.folder / "curves.csv")


def flops_of(run: Run) -> int:
    """Of one step of a training that has not finished."""
    data = run.config["data"]
    image = torch.zeros(1, data["num_channels"], data["image_size"], data["image_size"])
    network, recipe = build_network(OmegaConf.create(run.config["model"])), run.config["recipe"]
    forward = flops_per_image(network, image, in_training=True)
    return 3 * forward * recipe["batch_size"] + flops_per_update(network, recipe["optimizer"]["name"])


def add_claims(page: Page, best: dict[str, list[Run]]) -> None:
    by_model = {group[0].model: group for group in best.values()}
    text = "Each observation put to these runs; a verdict is about them, not about the deck."
    if not by_model["ViT"][0].is_cifar10:
        text += " The deck's images were others: CIFAR-10."
    if min(len(by_model["ViT"]), len(by_model["CNN"])) == 1:
        text += " With a single seed of a network, another seed may turn it round."
    page.section("What the deck observed", text)
    verdicts = {True: "yes", False: "no", None: "open"}
    rows = [
        [claim.observation, verdicts[claim.holds], claim.found, claim.rule]
        for claim in check_claims(by_model["ViT"], by_model["CNN"])
    ]
    page.table("observations", ["observation", "here too?", "found", "rule of the verdict"], rows)


def add_sweep(page: Page, runs: list[Run], *, machines: bool) -> None:
    """Heat maps, where the ViT's runs differ in two numbers."""
    names = swept(runs, machines=machines)
    numbers = [name for name in names if all(isinstance(settings_of(run).get(name), (int, float)) for run in runs)]
    if len(names) < 2:
        return
    if len(names) > 2 or numbers != names:
        page.section("Sweep", f"No heat map: it needs two swept numbers, but these runs differ in {', '.join(names)}.")
        return
    page.section("Sweep", f"The ViT over {names[0]} and {names[1]}, mean over seeds.")
    page.picture("sweep", *figures.sweep_maps(runs, *names), caption="Validation accuracy, training time, parameters.")
