"""The jobs of a sweep: none stops the others, a finished one is skipped, and one that was broken off goes on.

A job is named by what is swept. Jobs may run in other processes: each leaves a note in the folder of the sweep, and the
end of the sweep is told from the notes and from the run folders alone.
"""

import contextlib
import logging
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.text import Text

from vit_cnn.config.grid import constant_keys, jobs_of, overrides_of, without
from vit_cnn.config.schema import NO_FIGURE, SPEED_ALONE, flat
from vit_cnn.config.trust import EVERYTHING
from vit_cnn.console import console, share_console_with_logging
from vit_cnn.errors import FAILED, Refused, Stopped, is_expected, one_line, tell
from vit_cnn.processes.together import here
from vit_cnn.report.jobs import NOTES, count_finished, count_jobs, read_jobs, summarise
from vit_cnn.run.config import read_config
from vit_cnn.run.files import remove_torn, write_json
from vit_cnn.run.lock import locked, only_writer

log = logging.getLogger(__name__)

CHANGES_NOTHING = (*NO_FIGURE, *SPEED_ALONE, "data.cache", "data.skip_bad")  # beginnings of keys


def run_job(run_dir: Path, start: Callable[[], DictConfig]) -> None:
    """Run one job in its folder; a failure is kept there, with its traceback, and told at the end of the sweep.

    Args:
        start: checks the config and returns it.

    Raises:
        KeyboardInterrupt: the whole sweep is to stop.
    """
    from vit_cnn.training.loop import train

    hydra = HydraConfig.get()
    is_parallel = hydra.runtime.choices["hydra/launcher"] != "basic"
    if is_parallel:
        say_little()
    share_console_with_logging()
    sweep_dir, number = Path(hydra.sweep.dir), hydra.job.num + 1
    swept = without(hydra.job.config.override_dirname.exclude_keys, hydra.overrides.task)
    is_ours = False  # nothing is written over what another command made, or makes now

    def note(outcome: str, message: str = "") -> None:
        about = {"folder": str(run_dir), "swept": swept, "outcome": outcome, "message": message, "is_ours": is_ours}
        write_json(sweep_dir / NOTES / f"{number:05}.json", about)

    name = f"Job {number} of {count_jobs(sweep_dir)}: {' '.join(swept)}"
    try:
        # One that a killed command left behind, on this machine or in a cluster's queue, may be at it still.
        with locked(sweep_dir / NOTES / f"{run_dir.name}.lock", folder=run_dir), only_writer(run_dir):
            is_ours = not (run_dir / ".hydra" / "config.yaml").exists()
            note("broken off")  # holds if nothing comes after it
            cfg = start()
            if not is_ours:
                check_same_settings(cfg, run_dir)
                is_ours = True
            if (run_dir / "result.json").exists():
                log.info("%s, finished before: skipped", name)
                note("skipped")
                return
            log.info(name)
            train(cfg, run_dir)
            note("finished")
            if is_parallel:
                log.info("%s, finished", name)
    except Stopped as error:
        raise KeyboardInterrupt from error  # Hydra would take another exception for the end of this job alone
    except Exception as error:  # whatever it is, the other jobs have nothing to do with it
        message = one_line(error)
        note("failed", message)
        if not is_ours:  # a log line would be written into the train.log there
            console.print(Text(f"{name} failed: {message}", "red"))
        else:
            log.error("%s failed: %s", name, message)
            (run_dir / "traceback.txt").write_text(traceback.format_exc())
            write_json(run_dir / "status.json", {"status": "failed", "message": message})


def say_little() -> None:
    """Where jobs run side by side, the terminal gets the beginning and the end of each; its train.log has the rest."""
    console.quiet = True
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.addFilter(logging.Filter(__name__))


def check_same_settings(cfg: DictConfig, run_dir: Path) -> None:
    """A job goes on only in a folder of its own settings.

    Raises:
        Refused: they differ in something that can change the result.
    """
    theirs, ours = what_matters(read_config(run_dir, trust=EVERYTHING)), what_matters(cfg)
    for key in sorted(theirs | ours):
        if theirs.get(key) != ours.get(key):
            raise Refused(
                f"{run_dir} holds a run with other settings ({key} is {theirs.get(key)} there and {ours.get(key)} "
                "here): choose another hydra.sweep.dir, or remove it"
            )


def what_matters(cfg: Any) -> dict[str, Any]:
    """What of a config can change the result: not how it is logged, nor where the images' cache lies."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg))
    plain["data"]["root"] = str(Path(plain["data"].get("root") or "").expanduser().resolve())
    return {key: value for key, value in flat(plain).items() if not key.startswith(CHANGES_NOTHING)}


class Sweep(Callback):
    """Hydra calls it before the first and after the last job, in the process that the command started.

    What it keeps belongs to the class, since Hydra makes the instance.
    """

    dir: Path | None = None  # of the sweep that goes on in this process
    command = ""  # that goes on with it
    lock = contextlib.ExitStack()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Forget the jobs of an earlier command, count those of this one, and see to it how they are named."""
        sweep_dir = Path(config.hydra.sweep.dir)
        words = sys.argv[1:]
        if "${" in str(config.hydra.sweep._get_node("dir")._value()):  # with the time: another one in the next command
            words = [*words, f"hydra.sweep.dir={sweep_dir}"]
        params = config.hydra.sweeper.params
        overrides = overrides_of(params, list(config.hydra.overrides.task))
        try:
            if here.number > 1:
                raise Refused(
                    "-m, or an experiment that sweeps, starts many runs; torchrun shares the batches of one: start one"
                )
            if not config.test:
                raise Refused("test=false is for one run: a sweep has results to compare; leave it out")
            jobs = len(jobs_of(overrides))
            claim(sweep_dir)
        except Exception as error:  # which Hydra would turn into a warning
            if is_expected(error):
                sys.exit(tell(error))
            raise
        Sweep.dir, Sweep.command = sweep_dir, f"python -m vit_cnn.train {shlex.join(words)}"
        write_json(sweep_dir / NOTES / "plan.json", {"jobs": jobs})
        # Hydra composes the config of each job anew, from these and from what is swept.
        keys = ",".join(f"'{key}'" for key in constant_keys(params, overrides))
        config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{keys}]")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        console.quiet = False
        try:
            summarise(Path(config.hydra.sweep.dir), Sweep.command)
        except Exception as error:  # which Hydra would turn into a warning and the exit code 0
            if is_expected(error):
                sys.exit(tell(error))
            traceback.print_exc()
            sys.exit(FAILED)


def claim(sweep_dir: Path) -> None:
    """Keep other sweeps out of the folder until the end of this one, and forget the notes of earlier ones.

    Raises:
        Refused: a sweep goes on there, or a job that outlived its sweep.
    """
    notes = sweep_dir / NOTES
    notes.mkdir(parents=True, exist_ok=True)
    Sweep.lock.enter_context(locked(notes / "lock", folder=sweep_dir))
    for file in notes.glob("*.lock"):
        with locked(file, folder=sweep_dir / file.stem):
            file.unlink()
    remove_torn(notes)
    for file in notes.glob("*.json"):
        file.unlink()


def end() -> None:
    """No sweep goes on in this process any more."""
    Sweep.dir = None
    Sweep.lock.close()


def stopped() -> Stopped | None:
    """What to say where a sweep was interrupted; ``None`` where none goes on."""
    if Sweep.dir is None:
        return None
    finished = f"{count_finished(Sweep.dir)} of {count_jobs(Sweep.dir)} jobs finished"
    return Stopped(f"Stopped; {finished}.", Sweep.command)


def tell_lost(error: Exception) -> None:
    """A launcher raises where the process of a job was killed: tell the end of the sweep all the same.

    Raises:
        Failed: with the table and the report of what there is.
        Refused: the launcher did not start a job.
    """
    if Sweep.dir is None or is_expected(error):
        return
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "submitit" in frame.f_globals["__name__"]:  # it ends with the first job that is lost: the others go on
            for job in frame.f_locals.get("jobs", ()):
                job.wait()
    about = f"{type(error).__name__}: {one_line(error)}"
    if not read_jobs(Sweep.dir):
        raise Refused(f"The launcher started no job: {about}") from error
    console.quiet = False
    console.print(Text(f"The launcher lost a job ({about}).", "red"), soft_wrap=True)
    summarise(Sweep.dir, Sweep.command)
