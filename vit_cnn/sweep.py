"""The jobs of a sweep: none stops the others, a finished one is skipped, and one that was broken off goes on."""

import dataclasses
import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.table import Table
from rich.text import Text

from vit_cnn.display import console
from vit_cnn.errors import Failed, Refused, Stopped, one_line

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """One job that ran in this process.

    Attributes:
        outcome: finished, skipped (it had finished before) or failed.
        found: validation and test accuracy, or why it failed.
    """

    folder: Path
    outcome: str
    found: str


JOBS: list[Job] = []


def run_job(run_dir: Path, start: Callable[[], DictConfig]) -> None:
    """Run one job in its folder; a failure is kept there, with its traceback, and told at the end of the sweep.

    Args:
        start: checks the config and returns it.

    Raises:
        Stopped: the whole sweep is to stop.
    """
    from vit_cnn.checkpoint import read_json, write_json
    from vit_cnn.loop import train

    log.info("Job %d: %s", HydraConfig.get().job.num + 1, run_dir)
    try:
        cfg = start()
        outcome = "skipped" if has_finished(cfg, run_dir) else "finished"
        result = read_json(run_dir / "result.json") if outcome == "skipped" else train(cfg, run_dir)
        found = f"validation {result['val/acc']:.2%}, test {result['test/acc']:.2%}"
        JOBS.append(Job(run_dir, outcome, found))
    except Stopped:
        raise
    except Exception as error:  # whatever it is, the other jobs have nothing to do with it
        message = one_line(error)
        log.error("%s failed: %s", run_dir, message)
        (run_dir / "traceback.txt").write_text(traceback.format_exc())
        write_json(run_dir / "status.json", {"status": "failed", "message": message})
        JOBS.append(Job(run_dir, "failed", message))


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


def summarise() -> None:
    """Print the jobs of the sweep that has ended, if one has, and write their report.

    Raises:
        Failed: one failed.
    """
    if not JOBS:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("job", "outcome", "result"):
        table.add_column(heading, overflow="fold")
    for job in JOBS:
        style = "red" if job.outcome == "failed" else ""
        table.add_row(Text(str(job.folder)), Text(job.outcome, style), Text(job.found, style))
    console.print(table)
    write_report([job.folder for job in JOBS if (job.folder / ".hydra" / "config.yaml").exists()])
    if failed := [job for job in JOBS if job.outcome == "failed"]:
        raise Failed(f"{len(failed)} of {len(JOBS)} jobs failed; the traceback of each is in its folder")


def write_report(folders: list[Path]) -> None:
    try:
        from vit_cnn.report.build import build
        from vit_cnn.report.runs import find_runs

        if folders:
            console.print(f"Report: {build(find_runs(folders), folders[0].parent / 'report')}")
    except (Refused, ImportError) as error:  # a sweep over data sets; a machine without plotting libraries
        console.print(Text(f"No report: {error}"))
