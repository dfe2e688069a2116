"""Sweeps: no job stops another, what has finished is skipped, and a killed sweep goes on."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import TINY, call, composed, metrics, stop_at, wandb_records, weights
from hydra import initialize_config_dir
from hydra._internal.core_plugins import basic_launcher
from hydra.utils import instantiate

from vit_cnn import config, estimate, sweep
from vit_cnn.console import console
from vit_cnn.errors import Failed
from vit_cnn.estimate import jobs_in
from vit_cnn.report import jobs

Command = Callable[..., tuple[int, str]]

SMALL = [option for option in TINY if not option.startswith("model.patch_size")]
SWEEP = ["experiment=patch_dropout", *SMALL, "recipe=deck", "recipe.epochs=2", "recipe.batch_size=30"]


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what happens before it: drawing one takes seconds."""
    monkeypatch.setattr(jobs, "write_report", lambda folders, sweep_dir: None)


def folders() -> dict[str, Path]:
    """Job folders by the settings that are swept."""
    found = {}
    for path in Path("runs/sweeps/patch_dropout").glob("*/.hydra/config.yaml"):
        model = yaml.safe_load(path.read_text())["model"]
        found[f"{model['patch_size']} {model['dropout']:g}"] = path.parent.parent
    return found


def test_a_sweep_goes_over_the_grid_and_then_skips_what_has_finished(command: Command) -> None:
    grid = ["model.patch_size=8,16", "model.dropout=0,0.1"]
    code, printed = command(*SWEEP, *grid)
    assert code == 0, printed
    assert folders().keys() == {"8 0", "8 0.1", "16 0", "16 0.1"}
    # Of what is swept and nothing else; without = and , which resume= could not name.
    names = {f"model.dropout-{dropout}_model.patch_size-{size}" for size in (8, 16) for dropout in ("0", "0.1")}
    assert {folder.name for folder in folders().values()} == names
    assert "Job 2 of 4: model.patch_size=8 model.dropout=0.1\n" in printed
    assert "data=digits" not in printed
    assert "4 of 4 jobs finished; folders in runs/sweeps/patch_dropout\n" in printed
    assert "Report: runs/sweeps/patch_dropout/report/report.html" in printed
    assert Path("runs/sweeps/patch_dropout/report/sweep.png").exists()
    before = {name: (folder / "result.json").stat().st_mtime_ns for name, folder in folders().items()}
    shutil.rmtree(folders()["16 0"])
    code, printed = command(*SWEEP, *grid)
    assert code == 0
    assert printed.count("finished before: skipped") == 3
    assert "4 of 4 jobs finished, 3 of them before" in printed
    after = {name: (folder / "result.json").stat().st_mtime_ns for name, folder in folders().items()}
    assert {name for name in after if after[name] != before[name]} == {"16 0"}


def test_a_failing_job_is_kept_with_its_traceback_and_the_others_go_on(command: Command, no_report: None) -> None:
    code, printed = command(*SWEEP, "model.patch_size=5,8", "model.dropout=0,2")
    assert code == 1
    assert "3 of 4 jobs did not finish" in printed
    assert "patch_size=5 does not divide image_size=32" in printed
    failed = [path.parent for path in Path("runs/sweeps/patch_dropout").glob("*/traceback.txt")]
    assert len(failed) == 3
    for folder in failed:
        assert json.loads((folder / "status.json").read_text())["status"] == "failed"
        assert "Traceback" in (folder / "traceback.txt").read_text()
    assert folders().keys() == {"8 0"}
    code, printed = command(
        *SWEEP, "model.patch_size=5,8", "model.dropout=0,2"
    )  # and again, they fail and it is skipped
    assert code == 1
    assert printed.count("finished before: skipped") == 1
    # A table of what there is, and a line for each that failed.
    assert re.search(r"model\.patch_size=8 model\.dropout=0 +1 +[\d.]+% +[\d.]+%", printed)
    assert "model.patch_size=5 model.dropout=0 failed: model: patch_size=5 does not divide" in printed


def test_another_config_in_the_same_folder_is_refused(command: Command, no_report: None) -> None:
    one = ["model.patch_size=8", "model.dropout=0"]
    assert command(*SWEEP, *one)[0] == 0
    folder = Path("runs/sweeps/patch_dropout/model.dropout-0_model.patch_size-8")
    status = (folder / "status.json").read_text()
    code, _ = command(*SWEEP, *one, "recipe.optimizer.lr=1")
    assert code == 1
    (job,) = jobs.read_jobs(Path("runs/sweeps/patch_dropout"))
    assert "holds a run with other settings (recipe.optimizer.lr is 0.003 there and 1.0 here)" in job.message
    assert (folder / "status.json").read_text() == status
    assert not (folder / "traceback.txt").exists()
    assert (job.outcome, job.is_ours) == ("failed", False)  # and so it is not in the report


def test_what_changes_no_result_does_not_keep_a_job_from_its_folder(command: Command, no_report: None) -> None:
    one = ["data=digits", "model.patch_size=8", "model.dropout=0", "hydra.sweep.subdir=job"]
    assert command(*SWEEP, *one)[0] == 0
    others = ["trainer.log_every=3", "trainer.keep_freed_memory=false", "wandb.tags=[again]", "layers=true"]
    code, printed = command(*SWEEP, *one, *others)
    assert code == 0, printed
    assert "skipped" in printed
    here, there = (composed("data=folder", f"data.root={root}", "data.image_size=16", "data.num_classes=2",
                            f"data.cache={cache}", "trainer=cpu", "model.patch_size=4")
                   for root, cache in (("images", "c"), (Path("images").absolute(), "/elsewhere")))  # fmt: skip
    assert sweep.what_matters(here) == sweep.what_matters(there)
    there.seed = 5
    assert sweep.what_matters(here) != sweep.what_matters(there)


def test_stopping_ends_the_sweep_and_the_same_command_goes_on(
    command: Command, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ["model.patch_size=8,16", "model.dropout=0.1"]
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        code, printed = command(*SWEEP, *grid)
    assert code == 3, printed
    assert folders().keys() == {"8 0.1"}
    again = printed.splitlines()[-1]
    assert printed.splitlines()[-2] == "Stopped; 0 of 2 jobs finished. To go on:"
    assert shlex.split(again) == ["python", "-m", "vit_cnn.train", *SWEEP, *grid]
    code, printed = command(*shlex.split(again)[3:])
    assert code == 0, printed
    assert folders().keys() == {"8 0.1", "16 0.1"}
    together = folders()["8 0.1"].rename("together")
    shutil.rmtree("runs")
    assert command(*SWEEP, "model.patch_size=8", "model.dropout=0.1")[0] == 0
    assert metrics(str(together)) == metrics(str(folders()["8 0.1"]))


def test_ctrl_c_between_jobs_says_what_is_finished_and_what_goes_on(
    command: Command, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ["-m", *TINY, "recipe.epochs=1", "seed=0,1,2"]
    asked = []

    def interrupted(overrides: list[str]) -> list[str]:
        asked.append(overrides)
        if len(asked) == 2:
            signal.raise_signal(signal.SIGINT)
        return overrides

    with monkeypatch.context() as patch:
        patch.setattr(basic_launcher, "filter_overrides", interrupted)  # between two jobs
        code, printed = command(*grid)
    assert code == 3, printed
    assert printed.splitlines()[-2] == "Stopped; 1 of 3 jobs finished. To go on:"
    (sweep_dir,) = Path("runs/sweeps").iterdir()
    again = shlex.split(printed.splitlines()[-1])[3:]
    assert again == [*grid, f"hydra.sweep.dir={sweep_dir}"]  # or it would be another sweep, named by its time
    code, printed = command(*again)
    assert code == 0, printed
    assert "3 of 3 jobs finished, 1 of them before" in printed
    assert {path.parent.name for path in sweep_dir.glob("*/result.json")} == {"seed-0", "seed-1", "seed-2"}
    assert re.search(r"^ *– +3 +[\d.]+% ± [\d.]+ +[\d.]+% ± [\d.]+ *$", printed, re.MULTILINE)


def test_the_table_at_the_end_has_mean_and_deviation_over_seeds(capfd: pytest.CaptureFixture[str]) -> None:
    def job(swept: list[str], accuracy: float | None) -> jobs.Job:
        result = accuracy and {"val/acc": accuracy, "test/acc": accuracy / 2}
        return jobs.Job(Path("x"), swept, "finished", "", True, result or None)

    found = [job(["model=cnn", f"seed={seed}"], accuracy) for seed, accuracy in enumerate((0.5, 0.6, 0.7))]
    found += [job(["model=vit", "seed=0"], 0.4), job(["model=vit", "seed=1"], None), job(["model=mlp", "seed=0"], None)]
    console.print(jobs.table_of(found))
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert "model=cnn 3 60.00% ± 10.00 30.00% ± 5.00" in lines  # over n - 1
    assert "model=vit 1 40.00% 20.00%" in lines
    assert "model=mlp 0" in lines


def test_after_sigkill_the_same_command_goes_on(command: Command, no_report: None) -> None:
    grid = ["model.patch_size=8,16", "model.dropout=0,0.1"]
    started = [sys.executable, "-m", "vit_cnn.train", *SWEEP, *grid]
    process = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(folders()) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, printed = command(*SWEEP, *grid)
    assert code == 0, printed
    assert "skipped" in printed
    assert len(list(Path("runs").rglob("result.json"))) == 4
    killed = {name: weights(str(folder)) for name, folder in folders().items()}
    shutil.rmtree("runs")
    assert command(*SWEEP, *grid)[0] == 0
    for name, folder in folders().items():
        assert all(killed[name][key].equal(value) for key, value in weights(str(folder)).items()), name


def test_the_end_is_told_from_what_jobs_left_behind(command: Command, no_report: None) -> None:
    """As where jobs run in other processes, one of which was killed."""
    assert command(*SWEEP, "model.patch_size=8,16", "model.dropout=0")[0] == 0
    sweep_dir = Path("runs/sweeps/patch_dropout")
    first, second = jobs.read_jobs(sweep_dir)
    assert (first.outcome, second.outcome) == ("finished", "finished")
    assert 0 <= first.result["val/acc"] <= 1
    note = next(iter(sorted((sweep_dir / jobs.NOTES).iterdir())))
    note.write_text(json.dumps(json.loads(note.read_text()) | {"outcome": "broken off"}))
    with pytest.raises(Failed, match="1 of 2 jobs did not finish"):
        jobs.summarise(sweep_dir, "the same command")


def test_a_report_that_fails_is_not_taken_for_success(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "write_report", lambda folders, sweep_dir: 1 / 0)
    code, printed = command(*SWEEP, "model.patch_size=16", "model.dropout=0")
    assert code == 1
    assert "ZeroDivisionError" in printed


def test_each_job_is_a_wandb_run_of_its_own_in_one_group(command: Command, no_report: None) -> None:
    code, _ = command(*SWEEP, "model.patch_size=8,16", "model.dropout=0", "wandb.mode=offline", "max_steps=1")
    assert code == 0
    runs = []
    for folder in Path("wandb").glob("offline-run-*"):
        runs += [record["run"] for record in wandb_records(folder) if record["type"] == "run"]
    assert len({each["run_id"] for each in runs}) == 2
    assert {each["run_group"] for each in runs} == {"patch_dropout"}
    assert {each["display_name"].split("-deck")[0] for each in runs} == {"vit-patch8-dropout0", "vit-patch16-dropout0"}


def test_both_networks_are_paired_seed_by_seed(command: Command, no_report: None) -> None:
    small = [option for option in SMALL if not option.startswith(("model.", "seed"))]
    code, printed = command("experiment=vit_vs_cnn", *small, "max_steps=1", "seed=0,1", "data.max_images=60")
    assert code == 0, printed
    names = {path.parent.name for path in Path("runs/sweeps/vit_vs_cnn").glob("*/result.json")}
    assert names == {"model-vit_seed-0", "model-vit_seed-1", "model-cnn_seed-0", "model-cnn_seed-1"}


def test_where_other_runs_lie_in_the_folder_a_report_of_all_is_told(command: Command, no_report: None) -> None:
    few = ["-m", *SMALL, "max_steps=1", "model.patch_size=16", "hydra.sweep.dir=sweep"]
    assert "Other runs" not in command(*few, "model.dropout=0,0.1")[1]
    assert "A report of all: python -m vit_cnn.report sweep" in command(*few, "model.dropout=0.2")[1]


def test_the_estimate_sees_the_same_jobs(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, printed = call(estimate.main, [*SWEEP, "model.patch_size=8,16"], monkeypatch, capfd)
    assert code == 0, printed
    assert len(re.findall(r"^ *model.patch_size=8 model.dropout=[\d.]+ +2 ", printed, re.MULTILINE)) == 3
    assert len(re.findall(r"^ *model.patch_size=16 model.dropout=[\d.]+ +2 ", printed, re.MULTILINE)) == 3
    assert "minutes of work on" in printed
    timed: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(estimate, "measure", lambda cfg: timed.append(cfg.recipe.optimizer.name) or (1.0, 1.0))
        assert call(estimate.main, [*SMALL, "recipe.optimizer.name=adamw,muon,sgd"], patch, capfd)[0] == 0
        data = instantiate(composed(*SMALL).data)
        images = 2 * len(data.val) + len(data.train) + len(data.val) + len(data.test)  # evaluated: two epochs, the end
        assert estimate.estimate([*SMALL, "seed=1,2,3"]) == 3 * (2 * (len(data.train) // 30) + images)
        timed.pop()
    assert timed == ["adamw", "muon", "sgd"]  # of which each takes a time of its own
    few = [*SMALL, "data.max_images=160", "recipe.batch_size=30", "recipe.epochs=1000000", "model.patch_size=8"]
    code, printed = call(estimate.main, [*few, "max_steps=5"], monkeypatch, capfd)
    assert code == 0, printed
    assert "minutes of work on" in printed  # and not the hours of a million evaluations
    code, printed = call(estimate.main, ["data=digits", "resume=run"], monkeypatch, capfd)
    assert (code, "resume= goes on with one run, and estimate is for new ones" in printed) == (2, True)
    code, printed = call(estimate.main, ["data=digits", "recipe.epochs=x"], monkeypatch, capfd)
    assert code == 2
    assert "recipe.epochs" in printed


def test_jobs_of_a_plain_command() -> None:
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        assert list(jobs_in(["data=digits"]).values()) == [["data=digits"]]
        assert len(jobs_in(["experiment=vit_vs_cnn"])) == 6
        assert jobs_in(["model=vit,cnn", "recipe.schedule.milestones=[1,2]"]) == {
            "model=vit": ["model=vit", "recipe.schedule.milestones=[1,2]"],
            "model=cnn": ["model=cnn", "recipe.schedule.milestones=[1,2]"],
        }
        # What an experiment sweeps names its jobs, also where there is one value of it.
        assert list(jobs_in(["experiment=vit_vs_cnn", "model=cnn", "data=digits", "seed=1,2"])) == [
            "seed=1 model=cnn", "seed=2 model=cnn"
        ]  # fmt: skip
