"""A search: trials are ordinary runs, the validation images alone decide, and it can be broken off and shared."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers import TINY, call, metrics, stop_at
from hydra import initialize_config_dir
from optuna.storages.journal import JournalFileBackend

from vit_cnn import config, search, trial
from vit_cnn.report.search import experiment, plots
from vit_cnn.run.reading import read_rows

FOLDER = Path("runs/search")
FEW = [option for option in TINY if not option.startswith(("recipe.optimizer.lr", "seed"))]
SPACE = ["recipe.optimizer.lr=tag(log,interval(1e-4,1e-2))", "model.dropout=0,0.1"]

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    return lambda *arguments: call(search.main, list(arguments), monkeypatch, capfd)


def states() -> list[str]:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(FOLDER / "study.jsonl")))
    return [trial.state.name for trial in optuna.load_study(study_name="search", storage=storage).trials]


def test_trials_are_runs_that_leave_the_test_images_alone_and_the_best_can_be_run_as_it_is(
    say: Say, command: Say, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, printed = say(*FEW, *SPACE, "--trials", "3")
    assert code == 0, printed
    assert states() == ["COMPLETE"] * 3
    best = {}
    for number in range(3):
        folder = FOLDER / f"trial-{number:04}"
        best[folder] = max(row["val/acc"] for row in read_rows(folder) if "val/acc" in row)
        assert (folder / "best.pt").exists()
        assert "epoch 2/2" in (folder / "train.log").read_text()
        assert not (folder / "test_looks.jsonl").exists()
        assert not (folder / "result.json").exists()
    winner = max(best, key=lambda folder: best[folder])
    assert "Slice Plot" in (FOLDER / "search.html").read_text()
    text = (FOLDER / "experiment" / "best.yaml").read_text()
    assert f"{best[winner]:.2%} validation accuracy" in text
    again = printed.splitlines()[-1].split()
    assert again == ["python", "-m", "vit_cnn.train", "--config-dir", "runs/search", "experiment=best"]
    code, printed = command(*again[3:], "trainer=cpu", "trainer.log_every=2", "hydra.run.dir=again")
    assert code == 0, printed
    assert metrics("again") == metrics(str(winner))
    # The look at the test images is taken when somebody asks for it.
    code, printed = command(f"resume={winner}")
    assert code == 3
    assert printed.splitlines()[-1].endswith(f"resume={winner} test=true")
    assert command(f"resume={winner}", "test=true")[0] == 0
    assert json.loads((winner / "result.json").read_text())["test_looks"] == 1


def test_a_network_of_ones_own_is_searched_and_its_best_can_be_run(say: Say, command: Say) -> None:
    Path("my_conf/model").mkdir(parents=True)
    Path("my_conf/model/mine.yaml").write_text("defaults:\n  - vit\n")
    few = ["model=mine", *FEW, "max_steps=2", "model.dropout=0,0.1"]
    code, printed = say("--config-dir", "my_conf", *few, "--trials", "1")
    assert code == 0, printed
    again = shlex.split(printed.splitlines()[-1])
    code, printed = command(*again[3:], "trainer=cpu", "trainer.log_every=2", "hydra.run.dir=again")
    assert code == 0, printed
    networks = ["model=timm", "model.model_name=test_resnet", "+model.drop_rate=0,0.1"]
    code, printed = say(*networks, *few[1:7], "max_steps=2", "--trials", "1", "--folder", "timm")
    assert code == 0, printed
    assert "Trial 0: +model.drop_rate=0" in printed
    Path("my_conf/model/cnn.yaml").touch()
    code, printed = say("--config-dir", "my_conf", "model=cnn", *few[1:])
    assert (code, printed) == (
        2,
        "error: my_conf/model/cnn.yaml is hidden by conf/model/cnn.yaml: give it another name\n",
    )
    code, printed = say("--config-dir", "nowhere", *few)
    assert (code, printed) == (2, "error: --config-dir nowhere is not a folder\n")


def test_a_trial_that_falls_behind_is_pruned(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pruner(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            assert trial.last_step in range(1, 100000)
            return trial.number == 1

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: Pruner())
    monkeypatch.setattr(trial, "SECONDS", 0.001)
    code, printed = say(*FEW, "recipe.epochs=40", "model.dropout=0,0.1", "--trials", "2")
    assert code == 0, printed
    assert states() == ["COMPLETE", "PRUNED"]
    assert len(trial.validation_accuracies(FOLDER / "trial-0001")) < 40
    assert json.loads((FOLDER / "trial-0001" / "status.json").read_text())["status"] == "stopped"


def test_a_trial_is_pruned_once_its_loop_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that goes on may be behind already while its images load, when no loop is there to stop."""
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    monkeypatch.setattr(trial, "validation_accuracies", lambda run_dir: [0.1])
    study = optuna.create_study(direction="maximize")
    behind = study.ask()
    monkeypatch.setattr(behind, "should_prune", lambda: True)
    pruned, heard = threading.Event(), threading.Event()
    with trial.watched(behind, 0, tmp_path, pruned):
        time.sleep(0.2)
        assert not pruned.is_set()
        signal.signal(signal.SIGTERM, lambda *_: heard.set())  # as the loop does
        for _ in range(500):  # handlers run between two lines of the main thread
            time.sleep(0 if heard.is_set() else 0.01)
    assert pruned.is_set() and heard.is_set()


def test_halving_stops_a_trial_that_is_not_among_the_better_half(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    class InTurn(optuna.samplers.RandomSampler):
        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return distribution.choices[trial.number]

    monkeypatch.setattr(optuna.samplers, "TPESampler", lambda **_: InTurn())
    monkeypatch.setattr(trial, "SECONDS", 0.001)
    arguments = [*FEW, "recipe.epochs=40", "recipe.optimizer.lr=3e-3,1e-9", "--trials", "2"]
    code, printed = say(*arguments, "--pruner", "halving")
    assert code == 0, printed
    assert states() == ["COMPLETE", "PRUNED"]
    assert len(trial.validation_accuracies(FOLDER / "trial-0001")) < 40
    code, printed = say(*arguments, "--pruner", "best")
    assert code == 2
    assert "halving" in printed


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_no_trial_is_stopped_before_the_epoch_that_is_asked_for(pruner: str, tmp_path: Path) -> None:
    for prune_from in (1, 3):
        study = search.open_study(tmp_path / str(prune_from), {}, pruner, prune_from)
        for _ in range(5):
            good = study.ask()
            for epoch in range(1, 5):
                good.report(0.9, epoch)
                assert not good.should_prune()
            study.tell(good, 0.9)
        bad = study.ask()
        for epoch in range(1, prune_from):
            bad.report(0.1, epoch)
            assert not bad.should_prune()
        bad.report(0.1, prune_from)
        assert bad.should_prune()


def test_a_first_epoch_that_there_is_not(say: Say) -> None:
    code, printed = say(*FEW, *SPACE, "--prune-from", "0")
    assert code == 2
    assert "error: --prune-from 0: epochs are counted from 1" in printed


def test_a_search_that_is_stopped_goes_on_where_it_was(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        code, printed = say(*FEW, *SPACE, "--trials", "1")
    assert code == 3, printed
    assert "Stopped; the same command goes on." in printed
    assert states() == ["RUNNING"]
    begun = metrics(str(FOLDER / "trial-0000"))
    code, printed = say(*FEW, *SPACE, "--trials", "1")
    assert code == 0, printed
    assert states() == ["COMPLETE"]
    assert metrics(str(FOLDER / "trial-0000"))[: len(begun)] == begun


def test_a_trial_that_fails_is_kept_apart(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sampler(optuna.samplers.TPESampler):  # the same draws every time, so that some fail and some do not
        def __init__(self, **options: bool) -> None:
            super().__init__(seed=0, **options)

    monkeypatch.setattr(optuna.samplers, "TPESampler", Sampler)
    code, printed = say(
        *FEW, "model.patch_size=8", "recipe.optimizer.lr=1e-3,1e30", "recipe.grad_clip=null", "--trials", "6"
    )
    assert code == 0, printed
    assert "failed: " in printed
    assert set(states()) == {"COMPLETE", "FAIL"}


def test_two_processes_share_a_study(say: Say) -> None:
    arguments = [*FEW, *SPACE, "recipe.epochs=20", "--trials", "3"]
    env = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    call = [sys.executable, "-m", "vit_cnn.search", *arguments]
    other = subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env=env)
    while not (FOLDER / "trial-0000" / "metrics.jsonl").exists():
        assert other.poll() is None
        time.sleep(0.02)
    code, printed = say(*arguments)
    assert code == 0, printed
    theirs, _ = other.communicate()
    assert other.returncode == 0
    begun = [{int(number) for number in re.findall(r"^Trial (\d+): \S+=", text, re.M)} for text in (theirs, printed)]
    assert 0 in begun[0] and begun[1]  # whoever is quicker has trial 1
    assert begun[0] | begun[1] == {0, 1, 2} and not begun[0] & begun[1]
    assert states() == ["COMPLETE"] * 3


def test_a_killed_search_loses_nothing(say: Say) -> None:
    arguments = [*FEW, *SPACE, "recipe.epochs=30", "--trials", "1"]
    process = subprocess.Popen([sys.executable, "-m", "vit_cnn.search", *arguments], stdout=subprocess.DEVNULL)
    while not trial.validation_accuracies(FOLDER / "trial-0000"):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, printed = say(*arguments)
    assert code == 0, printed
    assert "Trial 0" in printed
    assert states() == ["COMPLETE"]


def test_the_page_shows_what_matters() -> None:
    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: -((trial.suggest_float("recipe.optimizer.lr", 0, 1) - 0.5) ** 2), n_trials=30)
    page = plots(study)
    for title in ("Optimization History Plot", "Slice Plot", "Hyperparameter Importances"):
        assert title in page


@pytest.mark.parametrize("wrong, message", [
    (["model.dropout=0.1"], "nothing to search"),
    (["recipe.optimizer.lr=tag(log,interval(0,1))"], "recipe.optimizer.lr=tag(log,interval(0,1)): `low > 0`"),
    (["recipe.optimizer.lr=tag(exp,interval(0,1))"], "exp is not a tag; there are int, log"),
    (["recipe.optimizer.lr=interval(1,0)"], "recipe.optimizer.lr=interval(1,0): `low <= high`"),
    (["recipe.optimizer.rate=interval(0,1)"], "recipe.optimizer.rate is not a key"),
    (["model.dropout=interval(0,2)"], "dropout"),
])  # fmt: skip
def test_a_bad_space_is_refused_in_a_line(wrong: list[str], message: str, say: Say) -> None:
    code, printed = say(*FEW, *wrong)
    assert code == 2
    assert len(printed.splitlines()) == 1
    assert message in printed
    assert not FOLDER.exists()


def test_a_sweep_cannot_go_over_what_is_searched(command: Say) -> None:
    code, printed = command("-m", *FEW, *SPACE)
    assert code == 2
    assert printed.splitlines()[-1].startswith("error: ")
    assert "warn" not in printed


def test_a_folder_may_be_called_whatever_a_file_system_allows(say: Say) -> None:
    code, printed = say(*FEW, *SPACE, "max_steps=2", "--trials", "1", "--folder", "runs/lr=1, (2)")
    assert (code, "Trial 0: validation accuracy" in printed) == (0, True), printed


def test_the_best_settings_have_all_that_changes_figures() -> None:
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        trainer = ["trainer=cpu", "trainer.precision=bf16", "trainer.log_every=9"]
        found = experiment(["data=digits", "init=first", *trainer])
    assert (found["init"], found["trainer"]) == ("first", {"precision": "bf16"})


@pytest.mark.parametrize(("override", "message"), [
    ("seed=0,1", "the seed is not searched, or the luckiest would win"),
    ("resume=run", "resume= goes on with one run, and a search makes new ones"),
])  # fmt: skip
def test_what_cannot_be_searched(override: str, message: str, say: Say) -> None:
    code, printed = say(*[each for each in FEW if not each.startswith("seed")], *SPACE, override, "--trials", "1")
    assert (code, message in printed) == (2, True), printed


def test_a_folder_called_test_is_stopped_as_any_other(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 2)
    code, printed = say(*FEW, *SPACE, "--trials", "1", "--folder", "runs/test=true")
    assert (code, "Stopped; the same command goes on." in printed) == (3, True), printed


def test_another_search_in_the_same_folder_is_refused(say: Say) -> None:
    assert say(*FEW, *SPACE, "--trials", "1", "max_steps=1")[0] == 0
    code, printed = say(*FEW, *SPACE, "--trials", "1", "max_steps=2")
    assert code == 2
    assert "runs/search holds a search with other settings" in printed


def test_optuna_that_is_missing_says_what_to_install(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, printed = say("experiment=search")
    assert (code, printed) == (2, "error: search needs Optuna: pip install optuna\n")
