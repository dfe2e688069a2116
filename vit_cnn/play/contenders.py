"""The runs on the page: which of those given, their networks, and what they have reached, in words."""

import dataclasses
import logging
from pathlib import Path

from vit_cnn.errors import Refused
from vit_cnn.report.colours import colours_of
from vit_cnn.report.groups import check_same_data, label_runs
from vit_cnn.run.reading import Run, find_runs
from vit_cnn.run.trained import TrainedRun, load_run

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A network on the page.

    Attributes:
        name: what tells it from the other.
        colour: as in a report.
        about: what its run has reached.
    """

    name: str
    colour: str
    about: str
    run: Run
    network: TrainedRun


def contenders(paths: list[Path], *, device: str, trust: str) -> list[Contender]:
    """The first ViT and the first CNN among the runs, or else the first two, or the only one.

    Raises:
        Refused: none has weights yet, or the two were trained on other images.
    """
    runs = find_runs(paths, trust=trust)
    ready = [run for run in runs if (run.folder / "best.pt").exists()]
    for run in runs:
        if run not in ready:
            reason = f"{run.folder} has no weights yet: it is {run.status}, and best.pt comes with its first epoch"
            if not ready:
                raise Refused(reason)
            log.warning("%s; it is left out.", reason)
    firsts = [next((run for run in ready if run.model == model), None) for model in ("ViT", "CNN")]
    chosen = [run for run in firsts if run] if all(firsts) else ready[:2]
    for run in ready:
        if run not in chosen:
            log.warning("%s is left out: the page has room for two networks.", run.folder)
    check_same_data(chosen)
    labelled = label_runs(chosen)
    same_name = len({run.label for run in labelled}) < len(labelled)
    names = [f"{run.label} ({run.folder.name})" if same_name else run.label for run in labelled]
    colours = colours_of(names)
    return [
        Contender(name, colours[name], about(run), run, load_run(run.folder, device=device, trust=trust))
        for name, run in zip(names, labelled, strict=True)
    ]


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
