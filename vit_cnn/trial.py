"""One trial of a search: a training whose validation accuracy is watched, and that is stopped where it falls behind."""

import contextlib
import logging
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose
from rich.text import Text

from vit_cnn import config
from vit_cnn.config.paste import in_hydra_grammar
from vit_cnn.config.space import settings_of
from vit_cnn.console import console
from vit_cnn.errors import Stopped, StoppedBeforeTest, one_line
from vit_cnn.run.reading import read_rows

if TYPE_CHECKING:
    from optuna import Study, Trial

SECONDS = 0.5  # between two looks at the metrics of a trial


def run_trial(study: "Study", trial: "Trial", fixed: list[str], run_dir: Path) -> None:
    """Train with the settings of ``trial``, and tell ``study`` what came of it.

    Raises:
        Stopped: Ctrl-C or SIGTERM; the same command goes on.
    """
    from optuna.trial import TrialState

    from vit_cnn.training.loop import train

    settings = settings_of(trial.params)
    console.print(Text(f"Trial {trial.number}: {' '.join(settings)}"), soft_wrap=True)
    run_dir.mkdir(exist_ok=True)
    about = [f"name={run_dir.name}", f"wandb.group={in_hydra_grammar(run_dir.parent.name)}", "test=false"]
    pruned = threading.Event()
    try:
        with logged(run_dir / "train.log"), watched(trial, known_steps(study, trial), run_dir, pruned):
            train(config.check(compose("config", overrides=[*fixed, *settings, *about])), run_dir)
    except Stopped as error:
        is_whole = isinstance(error, StoppedBeforeTest)
        if not (is_whole or pruned.is_set()):
            raise Stopped(
                "Stopped; the same command goes on.", shlex.join(["python", "-m", "vit_cnn.search", *sys.argv[1:]])
            ) from error
        best = max(validation_accuracies(run_dir))
        study.tell(trial, best if is_whole else None, TrialState.COMPLETE if is_whole else TrialState.PRUNED)
        console.print(f"Trial {trial.number}: {'' if is_whole else 'pruned, '}validation accuracy {best:.2%}")
    except Exception as error:  # whatever it is, other settings may do without
        study.tell(trial, state=TrialState.FAIL)
        (run_dir / "traceback.txt").write_text(traceback.format_exc())
        console.print(Text(f"Trial {trial.number} failed: {one_line(error)}", "red"))


def validation_accuracies(run_dir: Path) -> list[float]:
    return [row["val/acc"] for row in read_rows(run_dir) if "val/acc" in row]


def known_steps(study: "Study", trial: "Trial") -> int:
    """How many validation accuracies the study has of a trial that goes on."""
    return len(study.get_trials(deepcopy=False)[trial.number].intermediate_values)


@contextlib.contextmanager
def watched(trial: "Trial", known: int, run_dir: Path, pruned: threading.Event) -> Iterator[None]:
    """Report the validation accuracies of the training within the block, and stop it where Optuna says so."""
    is_over = threading.Event()

    def watch() -> None:
        reported, is_behind = known, False
        while not is_over.wait(SECONDS):
            accuracies = validation_accuracies(run_dir)
            for step, accuracy in enumerate(accuracies[reported:], start=reported + 1):
                trial.report(accuracy, step)
            is_behind = is_behind or (len(accuracies) > reported and trial.should_prune())
            if is_behind and signal.getsignal(signal.SIGTERM) is not answer:  # the loop has begun, and will hear it
                pruned.set()
                signal.raise_signal(signal.SIGTERM)  # which the loop answers as it does Ctrl-C
                return
            reported = max(reported, len(accuracies))  # a run that goes on may drop some, to train them again

    def answer(*_: object) -> None:
        if not pruned.is_set():  # else it is ours, and came after the end of the loop
            raise KeyboardInterrupt("Stopped; the same command goes on.")

    before = signal.signal(signal.SIGTERM, answer)
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """What is logged within the block goes to ``path``, as it does in a training by Hydra."""
    root = logging.getLogger()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
