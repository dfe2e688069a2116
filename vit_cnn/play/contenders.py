"""The networks on the page: which of the runs and exports given, and what they have reached, in words."""

import dataclasses
import logging
from pathlib import Path

from vit_cnn.config.target import network_name
from vit_cnn.errors import Refused
from vit_cnn.report.colours import colours_of
from vit_cnn.report.groups import check_same_data, label_runs
from vit_cnn.run.exported import is_export, read_about
from vit_cnn.run.reading import Run, find_runs
from vit_cnn.run.trained import TrainedRun, load_run

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Found:
    """A run or an export that can be shown.

    Attributes:
        model: the network's kind.
        label: what tells it from the others.
        about: what it has reached.
        data: name of the images that it was trained on.
        run: ``None`` of an export, which holds neither images nor predictions.
    """

    folder: Path
    model: str
    label: str
    about: str
    data: str
    run: Run | None


@dataclasses.dataclass(frozen=True)
class Contender:
    """A network on the page.

    Attributes:
        name: what tells it from the other.
        colour: as in a report.
    """

    name: str
    colour: str
    found: Found
    network: TrainedRun


def contenders(paths: list[Path], *, device: str, trust: str) -> list[Contender]:
    """The first ViT and the first CNN among the runs and exports, or else the first two, or the only one.

    Raises:
        Refused: none has weights yet, or the two were trained on other images, or know other classes.
    """
    exports = {path: exports_in(path) for path in paths}
    others = [path for path in paths if not exports[path]]
    ready = [of_export(folder, trust) for folders in exports.values() for folder in folders]
    ready += [of_run(run) for run in with_weights(find_runs(others, trust=trust))] if others else []
    firsts = [next((found for found in ready if found.model == model), None) for model in ("ViT", "CNN")]
    chosen = [found for found in firsts if found] if all(firsts) else ready[:2]
    for found in ready:
        if found not in chosen:
            log.warning("%s is left out: the page has room for two networks.", found.folder)
    runs = [found.run for found in chosen if found.run]
    if runs:
        check_same_data(runs)
        labels = {run.folder: run.label for run in label_runs(runs)}
        chosen = [dataclasses.replace(found, label=labels.get(found.folder, found.label)) for found in chosen]
    networks = [load_run(found.folder, device=device, trust=trust) for found in chosen]
    for found, network in zip(chosen, networks, strict=True):
        if takes(network) != takes(networks[0]):
            raise Refused(f"{chosen[0].folder} and {found.folder} know other classes, or take images of other sizes")
    same_name = len({found.label for found in chosen}) < len(chosen)
    names = [f"{found.label} ({found.folder.name})" if same_name else found.label for found in chosen]
    colours = colours_of(names)
    return [
        Contender(name, colours[name], found, network)
        for name, found, network in zip(names, chosen, networks, strict=True)
    ]


def exports_in(path: Path) -> list[Path]:
    """The folder itself, or those in a folder without runs."""
    if is_export(path):
        return [path]
    has_runs = any(path.rglob(".hydra/config.yaml"))
    return [] if has_runs else sorted(folder for folder in path.glob("*") if is_export(folder))


def with_weights(runs: list[Run]) -> list[Run]:
    ready = [run for run in runs if (run.folder / "best.pt").exists()]
    for run in runs:
        if run not in ready:
            reason = f"{run.folder} has no weights yet: it is {run.status}, and best.pt comes with its first epoch"
            if not ready:
                raise Refused(reason)
            log.warning("%s; it is left out.", reason)
    return ready


def takes(network: TrainedRun) -> tuple[object, ...]:
    return network.classes, network.image_size, network.num_channels


def of_export(folder: Path, trust: str) -> Found:
    export = read_about(folder, trust=trust)
    model, trained = network_name(export.model), export.trained
    reached = [f"{trained['epochs']:g} epochs"] if isinstance(trained.get("epochs"), float) else []
    reached += [f"test accuracy {trained['test/acc']:.1%}"] if isinstance(trained.get("test/acc"), float) else []
    return Found(folder, model, model, ", ".join(reached), str(export.data.get("name", "unknown images")), None)


def of_run(run: Run) -> Found:
    return Found(run.folder, run.model, run.model, about(run), run.config["data"]["name"], run)


def about(run: Run) -> str:
    if run.result:
        epochs = run.result["epochs"]
        return f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}, test accuracy {run.result['test/acc']:.1%}"
    standing = "still in training" if run.status == "running" else run.status
    rows = run.series("val/acc")
    if not rows:
        return standing
    best = max(row["val/acc"] for row in rows)
    return (
        f"{standing} after epoch {rows[-1]['epoch']:g} of {run.config['recipe']['epochs']}, best validation {best:.1%}"
    )
