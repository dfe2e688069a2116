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
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.table import Table
from rich.text import Text

from vit_cnn.console import console
from vit_cnn.errors import FAILED, Failed, Refused, Stopped, is_expected, one_line, tell

log = logging.getLogger(__name__)

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

    def note(outcome: str, message: str = "") -> None:
        about = {"folder": str(run_dir), "outcome": outcome, "message": message}
        write_json(notes / f"{job:05}.json", about)

    log.info("Job %d: %s", job + 1, run_dir)
    note("broken off")  # holds if nothing comes after it
    try:
        cfg = start()
        if has_finished(cfg, run_dir):
            note("skipped")
            return
        train(cfg, run_dir)
        note("finished")
    except Stopped:
        raise
    except Exception as error:  # whatever it is, the other jobs have nothing to do with it
        message = one_line(error)
        log.error("%s failed: %s", run_dir, message)
        (run_dir / "traceback.txt").write_text(traceback.format_exc())
        write_json(run_dir / "status.json", {"status": "failed", "message": message})
        note("failed", message)


def has_finished(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether ``run_dir`` holds the result of this very config.

    Raises:
        Refused: it holds a run of another config.
    """
    before = run_dir / ".hydra" / "config.yaml"
    if not before.exists():
        return False
    theirs, ours = OmegaConf.to_container(OmegaConf.load(before)), OmegaConf.to_container(cfg)
    if theirs != ours:
        raise Refused(f"{run_dir} holds a run with other settings: choose another hydra.sweep.dir, or remove it")
    return (run_dir / "result.json").exists()


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
    """

    folder: Path
    outcome: str
    found: str


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
        jobs.append(Job(folder, note["outcome"], found))
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
    write_report([job.folder for job in jobs if (job.folder / ".hydra" / "config.yaml").exists()], sweep_dir)
    if failed := [job for job in jobs if job.outcome not in ("finished", "skipped")]:
        raise Failed(f"{len(failed)} of {len(jobs)} jobs failed; the traceback of each is in its folder")


def write_report(folders: list[Path], sweep_dir: Path) -> None:
    try:
        from vit_cnn.report.build import build
        from vit_cnn.run.reading import find_runs

        if folders:
            console.print(f"Report: {build(find_runs(folders), sweep_dir / 'report')}")
    except (Refused, ImportError) as error:  # a sweep over data sets; a machine without plotting libraries
        console.print(Text(f"No report: {error}"))
