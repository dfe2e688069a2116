"""The jobs of a sweep: none stops the others, a finished one is skipped, and one that was broken off goes on.

Jobs may run in other processes. Each leaves a note in the folder of the sweep, and the end of the sweep is told from
the notes and from the run folders alone.
"""

import dataclasses
import logging
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.table import Table
from rich.text import Text

from vit_cnn.config.schema import flat
from vit_cnn.console import console
from vit_cnn.errors import FAILED, Failed, Refused, Stopped, is_expected, one_line, tell

log = logging.getLogger(__name__)

# Beginnings of keys. Device, memory format and compiling change nothing but the speed, up to rounding.
CHANGES_NOTHING = (
    "data.cache", "data.skip_bad", "experiment", "layers", "name", "resume", "wandb",
    "trainer.device", "trainer.compile", "trainer.cuda_graph",
    "trainer.channels_last", "trainer.keep_freed_memory", "trainer.log_every",
)  # fmt: skip
NOTES = ".jobs"  # folder of the notes, in that of the sweep; each names a run folder, and what is not to be seen there


def run_job(run_dir: Path, start: Callable[[], DictConfig]) -> None:
    """Run one job in its folder; a failure is kept there, with its traceback, and told at the end of the sweep.

    Args:
        start: checks the config and returns it.

    Raises:
        Stopped: the whole sweep is to stop.
    """
    from vit_cnn.run.files import write_json
    from vit_cnn.training.loop import train

    job = HydraConfig.get().job.num
    notes = Path(HydraConfig.get().sweep.dir) / NOTES
    notes.mkdir(exist_ok=True)
    is_ours = not (run_dir / ".hydra" / "config.yaml").exists()  # nothing is written over what another command made

    def note(outcome: str, message: str = "") -> None:
        about = {"folder": str(run_dir), "outcome": outcome, "message": message, "is_ours": is_ours}
        write_json(notes / f"{job:05}.json", about)

    log.info("Job %d: %s", job + 1, run_dir)
    note("broken off")  # holds if nothing comes after it
    try:
        cfg = start()
        if not is_ours:
            check_same_settings(cfg, run_dir)
            is_ours = True
        if (run_dir / "result.json").exists():
            note("skipped")
            return
        train(cfg, run_dir)
        note("finished")
    except Stopped:
        raise
    except Exception as error:  # whatever it is, the other jobs have nothing to do with it
        message = one_line(error)
        log.error("%s failed: %s", run_dir, message)
        note("failed", message)
        if is_ours:
            (run_dir / "traceback.txt").write_text(traceback.format_exc())
            write_json(run_dir / "status.json", {"status": "failed", "message": message})


def check_same_settings(cfg: DictConfig, run_dir: Path) -> None:
    """A job goes on only in a folder of its own settings.

    Raises:
        Refused: they differ in something that can change the result.
    """
    theirs, ours = what_matters(OmegaConf.load(run_dir / ".hydra" / "config.yaml")), what_matters(cfg)
    for key in sorted(theirs | ours):
        if theirs.get(key) != ours.get(key):
            raise Refused(
                f"{run_dir} holds a run with other settings ({key} is {theirs.get(key)} there and {ours.get(key)} "
                "here): choose another hydra.sweep.dir, or remove it"
            )


def what_matters(cfg: Any) -> dict[str, Any]:
    """What of a config can change the result: not how it is logged, nor where the images' cache lies."""
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg))
    plain["data"]["root"] = str(Path(plain["data"].get("root", "")).expanduser().resolve())
    return {key: value for key, value in flat(plain).items() if not key.startswith(CHANGES_NOTHING)}


class Sweep(Callback):
    """Hydra calls it before the first and after the last job, in the process that the command started."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Forget the jobs of an earlier command."""
        shutil.rmtree(Path(config.hydra.sweep.dir) / NOTES, ignore_errors=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        try:
            summarise(Path(config.hydra.sweep.dir))
        except Exception as error:  # which Hydra would turn into a warning and the exit code 0
            if is_expected(error):
                sys.exit(tell(error))
            traceback.print_exc()
            sys.exit(FAILED)


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of the command that has ended.

    Attributes:
        outcome: finished, skipped (it had finished before), failed or broken off.
        found: validation and test accuracy, or why there are none.
        is_ours: whether its folder is of this sweep's settings.
    """

    folder: Path
    outcome: str
    found: str
    is_ours: bool


def read_jobs(sweep_dir: Path) -> list[Job]:
    """The jobs that left a note in ``sweep_dir``, in their order."""
    from vit_cnn.run.files import read_json

    jobs = []
    for path in sorted((sweep_dir / NOTES).glob("*.json")):
        note = read_json(path)
        folder, found = Path(note["folder"]), note["message"]
        if note["outcome"] in ("finished", "skipped"):
            result = read_json(folder / "result.json")
            found = f"validation {result['val/acc']:.2%}, test {result['test/acc']:.2%}"
        jobs.append(Job(folder, note["outcome"], found, note["is_ours"]))
    return jobs


def summarise(sweep_dir: Path) -> None:
    """Print what became of the jobs, and write their report.

    Raises:
        Failed: one failed or was broken off.
    """
    jobs = read_jobs(sweep_dir)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("job", "outcome", "result"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        style = "" if job.outcome in ("finished", "skipped") else "red"
        table.add_row(Text(str(job.folder)), Text(job.outcome, style), Text(job.found, style))
    console.print(table)
    begun = [job.folder for job in jobs if job.is_ours and (job.folder / ".hydra" / "config.yaml").exists()]
    write_report(begun, sweep_dir)
    if failed := [job for job in jobs if job.outcome not in ("finished", "skipped")]:
        raise Failed(f"{len(failed)} of {len(jobs)} jobs failed; the traceback of each is in its folder")


def write_report(folders: list[Path], sweep_dir: Path) -> None:
    try:
        from vit_cnn.report.build import build
        from vit_cnn.run.reading import find_runs

        if folders:
            page = build(find_runs(folders), sweep_dir / "report", replace=True)
            console.print(f"Report: {page}")
    except (Refused, ImportError) as error:  # a sweep over data sets; a machine without plotting libraries
        console.print(Text(f"No report: {error}"))
