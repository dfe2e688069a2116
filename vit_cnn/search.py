"""Look for good settings with Optuna: ``vit-cnn search experiment=search data=digits --trials 20``.

What is searched stands in ``hydra.sweeper.params`` of an experiment, or on the command line. Each trial is a training
in a run folder of its own. One that falls behind is stopped as by Ctrl-C; the validation images alone decide, and no
trial looks at the test images. The same command goes on, also in several processes at once.
"""

import argparse
import contextlib
import logging
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra import compose, initialize_config_dir
from rich.text import Text

from vit_cnn import config
from vit_cnn.config.space import read_space, settings_of
from vit_cnn.console import console
from vit_cnn.errors import Refused, Stopped, exit_with_code, one_line
from vit_cnn.run.lock import locked
from vit_cnn.run.reading import read_rows

if TYPE_CHECKING:
    from optuna import Study, Trial

SECONDS = 0.5  # between two looks at the metrics of a trial


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn search",
        epilog="example: vit-cnn search experiment=search data=digits recipe.epochs=5 --trials 8",
        description="Look for good settings by validation accuracy; start it several times to share the work",
    )
    parser.add_argument(
        "overrides", metavar="OVERRIDE", nargs="+", help="whatever a training takes, and what to search"
    )
    parser.add_argument("--trials", type=int, default=20, help="in all, with those of earlier commands (20)")
    parser.add_argument("--folder", type=Path, default=Path("runs/search"), help="of the study (runs/search)")
    arguments = parser.parse_intermixed_args()
    try:
        import optuna
    except ImportError as error:
        raise Refused("search needs Optuna: pip install optuna") from error
    from vit_cnn.report.search import write_search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        fixed, space = read_space(arguments.overrides)
        study = open_study(arguments.folder, {"overrides": fixed, "space": {key: str(space[key]) for key in space}})
        with contextlib.ExitStack() as lock:
            while trial := next_trial(study, space, arguments.folder, arguments.trials, lock):
                run_trial(study, trial, fixed, arguments.folder / f"trial-{trial.number:04}")
                lock.close()
        write_search(study, fixed, arguments.folder)


def open_study(folder: Path, about: dict[str, Any]) -> "Study":
    """The study in ``folder``, in a file that several processes may write.

    Raises:
        Refused: it searches something else.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        study = optuna.create_study(
            study_name="search",
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.jsonl"))),
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(constant_liar=True),  # trials that go on elsewhere are not tried again
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        )
        if study.user_attrs.get("about", about) != about:
            raise Refused(f"{folder} holds a search with other settings: choose another --folder, or remove it")
        study.set_user_attr("about", about)
    return study


def next_trial(
    study: "Study", space: dict[str, Any], folder: Path, wanted: int, lock: contextlib.ExitStack
) -> "Trial | None":
    """A trial that was broken off, else a new one, locked; ``None`` where there are as many as ``wanted``."""
    from optuna.trial import Trial, TrialState

    def lock_of(number: int) -> Any:
        return locked(folder / f".trial-{number:04}.lock", folder=folder / f"trial-{number:04}")

    with FileLock(folder / ".lock"):
        for old in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            with contextlib.suppress(Refused):  # another process trains it
                lock.enter_context(lock_of(old.number))
                return Trial(study, old._trial_id)
        if len(study.trials) >= wanted:
            return None
        trial = study.ask(space)
        lock.enter_context(lock_of(trial.number))
        return trial


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
    about = [f"name={run_dir.name}", f"wandb.group={run_dir.parent.name}", "test=false"]
    pruned = threading.Event()
    try:
        with logged(run_dir / "train.log"), watched(trial, known_steps(study, trial), run_dir, pruned):
            train(config.check(compose("config", overrides=[*fixed, *settings, *about])), run_dir)
    except Stopped as error:
        is_whole = "test=true" in error.command  # only the look at the test images is left
        if not (is_whole or pruned.is_set()):
            raise Stopped(
                "Stopped; the same command goes on.", shlex.join(["vit-cnn search", *sys.argv[1:]])
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
        reported = known
        while not is_over.wait(SECONDS):
            accuracies = validation_accuracies(run_dir)
            for step, accuracy in enumerate(accuracies[reported:], start=reported + 1):
                trial.report(accuracy, step)
            if len(accuracies) > reported and trial.should_prune():
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


if __name__ == "__main__":
    exit_with_code(main)
