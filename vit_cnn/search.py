"""Look for good settings with Optuna: ``vit-cnn search experiment=search data=digits --trials 20``.

What is searched stands in ``hydra.sweeper.params`` of an experiment, or on the command line. Each trial is a training
in a run folder of its own. One that falls behind is stopped as by Ctrl-C; the validation images alone decide, and no
trial looks at the test images. The same command goes on, also in several processes at once.
"""

import argparse
import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra import initialize_config_dir

from vit_cnn import config
from vit_cnn.config.space import read_space
from vit_cnn.errors import Refused, exit_with_code
from vit_cnn.run.lock import locked
from vit_cnn.trial import run_trial

if TYPE_CHECKING:
    from optuna import Study, Trial


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn search",
        epilog="example: vit-cnn search experiment=search data=digits recipe.epochs=5 --trials 8",
        description="Look for good settings by validation accuracy; start it several times to share the work",
    )
    parser.add_argument(
        "overrides", metavar="OVERRIDE", nargs="+", help="whatever a training takes, and what to search"
    )
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="a folder of YAML files of your own")
    parser.add_argument("--trials", type=int, default=20, help="in all, with those of earlier commands (20)")
    parser.add_argument(
        "--pruner",
        choices=["median", "halving"],
        default="median",
        help="stops a trial that is below the median of those before it (median), or not among the better half of them "
        "after 1, 2, 4, 8 … epochs (halving)",
    )
    parser.add_argument(
        "--prune-from",
        metavar="EPOCH",
        type=int,
        default=1,
        help="the first after which a trial may be stopped (1); 3 makes halving look after 3, 6, 12 … epochs. Choose a "
        "later one where augmentation, warm-up or ema_decay are searched: they put a trial behind or ahead at first",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/search"), help="of the study (runs/search)")
    arguments = parser.parse_intermixed_args()
    if arguments.prune_from < 1:
        raise Refused(f"--prune-from {arguments.prune_from}: epochs are counted from 1")
    try:
        import optuna
    except ImportError as error:
        raise Refused("search needs Optuna: pip install optuna") from error
    from vit_cnn.report.search import write_search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        fixed, space = read_space([*arguments.overrides, *config.searchpath(arguments.config_dir, arguments.overrides)])
        about = {"overrides": fixed, "space": {key: str(space[key]) for key in space}}
        study = open_study(arguments.folder, about, arguments.pruner, arguments.prune_from)
        with contextlib.ExitStack() as lock:
            while trial := next_trial(study, space, arguments.folder, arguments.trials, lock):
                run_trial(study, trial, fixed, arguments.folder / f"trial-{trial.number:04}")
                lock.close()
        write_search(study, fixed, arguments.folder)


def open_study(folder: Path, about: dict[str, Any], pruner: str, prune_from: int) -> "Study":
    """The study in ``folder``, in a file that several processes may write.

    ``halving``: Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020, https://arxiv.org/abs/1810.05934.

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
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=prune_from, reduction_factor=2)
            if pruner == "halving"
            else optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=prune_from),
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


if __name__ == "__main__":
    exit_with_code(main)
