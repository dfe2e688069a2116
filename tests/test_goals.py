"""The command that measures the goals for a GPU, tried on a CPU with other goals."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import call

from vit_cnn.bench import goals
from vit_cnn.bench.goals import reached


def lines(*accuracies: float) -> list[dict[str, float]]:
    """Epochs of two seconds, the first with ten more to start."""
    return [{"seconds": 12.0 + 2 * epoch, "val/acc": accuracy} for epoch, accuracy in enumerate(accuracies)]


def test_the_start_is_told_apart() -> None:
    assert reached(lines(0.2, 0.8, 0.9), None, 7, True) == {"measured": 6.0, "met": True, "start_s": 10.0}
    assert reached(lines(0.2, 0.8, 0.9), 0.77, 3, True) == {"measured": 4.0, "met": False, "start_s": 10.0}
    assert reached(lines(0.2, 0.8), 0.95, 7, True) == {"measured": "best 80.0%", "met": False, "start_s": 10.0}


def test_what_was_stopped_early_has_not_met_its_goal() -> None:
    assert reached(lines(0.2, 0.8, 0.9), None, 100, False) == {"measured": "3 epochs in the time", "met": False}
    assert reached([], 0.5, 100, False) == {"measured": "0 epochs in the time", "met": False}


def test_it_measures_a_goal_and_the_usual_loop(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = ["model=vit", "recipe=deck", "model.patch_size=16", "model.num_layers=1", "recipe.epochs=2"]
    monkeypatch.setitem(goals.GOALS, "deck_vit", goals.Goal("ViT, two epochs", overrides, None, 60, 100))
    arguments = ["data=digits", "data.max_images=60", "recipe.batch_size=16", "trainer=cpu", "trainer.compile=false"]
    arguments += ["trainer.cuda_graph=false", "trainer.log_every=null"]
    code, printed = call(goals.main, ["deck_vit", "--out", "out", *arguments], monkeypatch, capfd)
    assert code == 0, printed
    first, rate = csv.DictReader(open("out/goal_deck_vit.csv"))
    assert (first["what"], first["goal"], first["met"]) == ("ViT, two epochs, s", "≤ 60", "True")
    assert float(first["measured"]) > 0
    assert float(rate["measured"]) > 0
    assert "DataLoader loop" in rate["what"]
    assert "Digits" in first["machine"]


def test_a_run_that_does_not_stop_when_asked_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that compiles."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: popen([sys.executable, "-c", deaf]))
    monkeypatch.setattr(goals, "PATIENCE", 0.2)
    started = time.monotonic()
    assert goals.trained([], tmp_path / "run", limit=0.5) == []
    assert time.monotonic() - started < 30


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, printed = call(goals.main, ["vit_77", "data=digits"], monkeypatch, capfd)
    assert code == 2
    assert "finds no GPU" in printed
