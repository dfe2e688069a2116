"""What became of the jobs of a sweep: read from the notes that they left, and told in a table over seeds."""

import dataclasses
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from vit_cnn.config.trust import EVERYTHING
from vit_cnn.console import console
from vit_cnn.errors import Failed, Refused
from vit_cnn.report.groups import spread
from vit_cnn.run.files import read_json
from vit_cnn.run.result import read_result

NOTES = ".jobs"  # folder of the notes, in that of the sweep; each names a run folder, and what is not to be seen there


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of the command that has ended.

    Attributes:
        swept: the overrides that tell it from other jobs.
        outcome: finished, skipped (it had finished before), failed or broken off.
        message: why it failed.
        is_ours: whether its folder is of this sweep's settings.
        result: what ``result.json`` holds; ``None`` where it has not finished.
    """

    folder: Path
    swept: list[str]
    outcome: str
    message: str
    is_ours: bool
    result: dict[str, Any] | None


def read_jobs(sweep_dir: Path) -> list[Job]:
    """The jobs that left a note in ``sweep_dir``, in their order."""
    jobs = []
    for path in sorted((sweep_dir / NOTES).glob("[0-9]*.json")):
        note = read_json(path)
        is_done = note["outcome"] in ("finished", "skipped")
        result = read_result(Path(note["folder"])) if is_done else None
        jobs.append(Job(**note | {"folder": Path(note["folder"])}, result=result))
    return jobs


def count_jobs(sweep_dir: Path) -> int:
    """The jobs that the command has, ended or not."""
    jobs: int = read_json(sweep_dir / NOTES / "plan.json")["jobs"]
    return jobs


def count_finished(sweep_dir: Path) -> int:
    return sum(job.result is not None for job in read_jobs(sweep_dir))


def summarise(sweep_dir: Path, command: str) -> None:
    """Print what became of the jobs, seeds of the same settings in one row, and write their report.

    Args:
        command: goes on with those that did not finish.

    Raises:
        Failed: one failed or was broken off.
    """
    jobs, total = read_jobs(sweep_dir), count_jobs(sweep_dir)
    failed = [job for job in jobs if job.result is None]
    finished = len(jobs) - len(failed)
    console.print(table_of(jobs))
    console.print("Accuracy of the best epoch's weights; mean ± standard deviation (n − 1) over seeds.")
    for job in failed:
        console.print(Text(f"{' '.join(job.swept)} {job.outcome}: {job.message or 'it was killed'}", "red"))
    if len(jobs) < total:
        console.print(Text(f"{total - len(jobs)} jobs did not begin", "red"))
    begun = [job.folder for job in jobs if job.is_ours and (job.folder / ".hydra" / "config.yaml").exists()]
    skipped = sum(job.outcome == "skipped" for job in jobs)
    before = f", {skipped} of them before" if skipped else ""
    console.print(Text(f"{finished} of {total} jobs finished{before}; folders in {sweep_dir}"))
    write_report(begun, sweep_dir)
    if {path.parent.parent for path in sweep_dir.glob("*/.hydra/config.yaml")} - set(begun):
        console.print(Text(f"Other runs lie there, too. A report of all: python -m vit_cnn.report {sweep_dir}"))
    if finished < total:
        console.print(Text(f"To go on with those that did not finish:\n  {command}"), soft_wrap=True)
        lost = f"{total - finished} of {total} jobs did not finish"
        raise Failed(f"{lost}; where one failed, traceback.txt in its folder says why")


def table_of(jobs: list[Job]) -> Table:
    """Accuracies of the finished jobs: mean ± sample standard deviation over seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        settings = " ".join(each for each in job.swept if not each.startswith("seed="))
        groups.setdefault(settings, [])
        if job.result:
            groups[settings].append(job.result)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("settings", overflow="fold")
    for heading in ("seeds", "validation", "test"):
        table.add_column(heading, justify="right", no_wrap=True)
    for settings, results in groups.items():
        found = [spread([result[key] for result in results], "{:.2%}") for key in ("val/acc", "test/acc") if results]
        table.add_row(Text(settings or "–"), str(len(results)), *found)
    return table


def write_report(folders: list[Path], sweep_dir: Path) -> None:
    try:
        from vit_cnn.report.build import build
        from vit_cnn.run.reading import find_runs

        if folders:
            runs = find_runs(folders, trust=EVERYTHING)  # of configs that are this command's own
            console.print(f"Report: {build(runs, sweep_dir / 'report', replace=True, trust=EVERYTHING)}")
    except Refused as error:  # a sweep over data sets
        console.print(Text(f"No report: {error}"))
