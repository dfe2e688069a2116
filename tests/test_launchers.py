"""Sweeps whose jobs run in other processes: on every core, or on a cluster. What a sweep promises holds there too."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock
from helpers import TINY
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from vit_cnn.report import jobs
from vit_cnn.run.files import read_json

Command = Callable[..., tuple[int, str]]

SWEEP_DIR = Path("runs/sweep")
SMALL = [option for option in TINY if not option.startswith(("model.patch_size", "seed"))]
SWEEP = ["-m", *SMALL, f"hydra.sweep.dir={SWEEP_DIR}"]
LONG = ["recipe.epochs=20", "trainer.log_every=100"]  # to be killed in the middle


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "write_report", lambda folders, sweep_dir: None)


def send(number: signal.Signals, folder: str) -> int:
    """Send a signal to the process of a job, once that has trained an epoch; returns its id."""
    path = SWEEP_DIR / folder / "metrics.jsonl"
    until = time.monotonic() + 240
    while not (path.exists() and "val/acc" in path.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    process = pid(folder)
    os.kill(process, number)
    return process


def in_order(folder: str) -> bool:
    """Whether no step was trained and told twice."""
    rows = [json.loads(line) for line in (SWEEP_DIR / folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows if "val/acc" in row]
    return epochs == list(range(1, 21))


def pid(folder: str) -> int:
    return int(read_json(SWEEP_DIR / folder / "status.json")["pid"])


def outcomes() -> dict[str, str]:
    return {job.folder.name: job.outcome for job in jobs.read_jobs(SWEEP_DIR)}


def test_on_every_core_a_failing_job_stays_alone_and_the_table_comes_at_the_end() -> None:
    options = [*SWEEP, "hydra/launcher=cores", "hydra.launcher.n_jobs=2", "model.patch_size=5,8,16"]
    env = {
        key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"
    }  # set by vit_cnn, in this process
    done = subprocess.run([sys.executable, "-m", "vit_cnn.train", *options], capture_output=True, text=True, env=env)
    assert done.returncode == 1, done.stderr
    assert outcomes() == {
        "model.patch_size-5": "failed", "model.patch_size-8": "finished", "model.patch_size-16": "finished"
    }  # fmt: skip
    assert "Job 2 of 3: model.patch_size=8, finished" in done.stdout
    assert re.search(r"model\.patch_size=16 +1 +[\d.]+% +[\d.]+%", done.stdout)
    assert "Report: runs/sweep/report/report.html" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: 1 of 3 jobs did not finish")
    assert "validation accuracy" not in done.stdout  # of several jobs at once, it could not be told whose
    assert "validation accuracy" in (SWEEP_DIR / "model.patch_size-8" / "train.log").read_text()


def test_on_every_core_a_killed_job_loses_nothing_and_the_same_jobs_go_on(command: Command, no_report: None) -> None:
    grid = [*SWEEP, "model.patch_size=16", "seed=1,2", *LONG]
    with ThreadPoolExecutor() as meanwhile:
        sent = meanwhile.submit(send, signal.SIGKILL, "seed-1")
        code, printed = command(*grid, "hydra/launcher=cores", "hydra.launcher.n_jobs=2")
    assert sent.result()
    assert code == 1, printed
    assert outcomes()["seed-1"] == "broken off"  # joblib ends the others with it
    assert "The launcher lost a job (TerminatedWorkerError" in printed
    again = shlex.split(printed.split("To go on with those that did not finish:\n")[1].splitlines()[0])
    assert again[3:-2] == grid
    code, printed = command(*grid)
    assert code == 0, printed
    assert set(outcomes().values()) <= {"finished", "skipped"}
    assert read_json(SWEEP_DIR / "seed-1" / "result.json")["continued"]
    assert in_order("seed-1")
    assert in_order("seed-2")


def test_a_cluster_job_that_is_preempted_goes_on_and_one_that_is_killed_does_not_end_the_others(
    command: Command, no_report: None
) -> None:
    """Submitit's local executor: the processes and signals of a cluster, without the cluster."""
    killed, preempted = "model.patch_size-16", "model.patch_size-8"
    with ThreadPoolExecutor() as meanwhile:
        sent = meanwhile.submit(send, signal.SIGKILL, killed)
        first = meanwhile.submit(send, signal.SIGUSR2, preempted)  # as Slurm does before the time is over
        code, printed = command(*SWEEP, "hydra/launcher=submitit_local", "model.patch_size=5,16,8", *LONG)
    assert sent.result() and first.result()
    assert code == 1, printed
    assert outcomes() == {"model.patch_size-5": "failed", killed: "broken off", preempted: "finished"}
    assert "UncompletedJobError" in printed
    assert "1 of 3 jobs finished" in printed
    assert pid(preempted) != first.result()
    assert any("Stopping" in file.read_text() for file in (SWEEP_DIR / ".submitit").glob("*/*_log.err"))
    assert in_order(preempted)


FAKE_SLURM = {
    "sbatch": """#!/bin/bash
cp "$1" sbatch.sh
for task in 0 1; do
  SLURM_JOB_ID=7 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task SLURM_CPUS_PER_TASK=1 bash "$1" > /dev/null 2>&1 &
done
echo "Submitted batch job 7"
""",
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do case $1 in --output|--error) shift 2 ;; *) shift ;; esac; done
exec "$@"
""",
    "sacct": "#!/bin/bash\necho 'JobID|State|NodeList'\n",
    "scontrol": "#!/bin/bash\n",
}


def test_what_slurm_is_asked_for(
    command: Command, no_report: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in FAKE_SLURM.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    code, printed = command(*SWEEP, "hydra/launcher=slurm", "hydra.launcher.partition=short", "model.patch_size=5,16")
    assert outcomes() == {"model.patch_size-5": "failed", "model.patch_size-16": "finished"}, printed
    assert code == 1
    text = Path("sbatch.sh").read_text()
    wanted = ["requeue", "signal=USR2@120", "time=240", "cpus-per-task=8", "partition=short", "array=0-1%2"]
    for each in wanted:
        assert f"#SBATCH --{each}\n" in text
    assert text.index("export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK") < text.index("\nsrun ")


def test_two_sweeps_at_once_in_one_folder_are_refused(command: Command) -> None:
    (SWEEP_DIR / jobs.NOTES).mkdir(parents=True)
    for name, what in (("lock", "runs/sweep"), ("seed-1.lock", "runs/sweep/seed-1")):
        with FileLock(SWEEP_DIR / jobs.NOTES / name):
            code, printed = command(*SWEEP, "model.patch_size=16", "seed=1,2")
        assert code == 2
        assert printed.splitlines()[-1].startswith(f"error: {what} is in use by another process")


@pytest.mark.parametrize(
    "launcher, package", [("cores", "hydra-joblib-launcher"), ("slurm", "hydra-submitit-launcher")]
)
def test_a_launcher_whose_package_is_missing_says_what_to_install(
    launcher: str, package: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    Plugins.instance()  # whose launchers are in the store from then on
    for name in ("joblib", "submitit_slurm"):
        monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{name}.yaml")
    code, printed = command(*SWEEP, f"hydra/launcher={launcher}")
    assert code == 2
    assert printed.splitlines()[-1] == f"error: This hydra/launcher needs {package}: pip install {package}"


def test_a_sweep_without_the_end_of_its_runs_is_refused(command: Command) -> None:
    code, printed = command(*SWEEP, "seed=1,2", "test=false")
    assert code == 2
    assert printed.splitlines()[-1].startswith("error: test=false is for one run")
    assert not SWEEP_DIR.exists()


def test_a_cluster_that_is_not_here_is_told_in_a_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, printed = command(*SWEEP, "hydra/launcher=slurm", "seed=1,2")
    assert code == 2
    assert 'error: The launcher started no job: RuntimeError: Could not detect "srun"' in printed.splitlines()[-1]
