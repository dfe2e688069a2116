"""The first steps on a GPU, as far as a CPU can take them."""

import re

import pytest
import torch
from helpers import call

from vit_cnn.bench import first_minutes

SMALL = ["trainer=cpu", "data.max_images=100", "recipe.batch_size=10"]


def test_environment_and_plain_steps(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, printed = call(first_minutes.main, ["environment"], monkeypatch, capfd)
    assert code == 0, printed
    assert "cuDNN's attention: off" in printed
    assert "import vit_cnn.training.loop: works" in printed
    code, printed = call(first_minutes.main, ["plain", *SMALL], monkeypatch, capfd)
    assert code == 0, printed
    assert printed.count("losses") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_profile_says_what_a_step_takes(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(first_minutes, "NETWORKS", ("vit",))
    monkeypatch.setattr(first_minutes, "PROFILED", 2)
    few = ["max_steps=12", "model.patch_size=16", "model.num_layers=1"]
    code, printed = call(first_minutes.main, ["profile", *SMALL, *few], monkeypatch, capfd)
    assert code == 0, printed
    assert "ms a step" in printed
    assert "aten::" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_what_strong_adds_to_a_step(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(first_minutes, "NETWORKS", ("vit",))
    monkeypatch.setattr(first_minutes, "BLOCK", 2)
    few = ["model.patch_size=16", "model.num_layers=1"]
    code, printed = call(first_minutes.main, ["augmentation", *SMALL, *few], monkeypatch, capfd)
    assert code == 0, printed
    assert re.search(r"vit: [\d.]+ ms a step, with strong's augmentation and EMA [\d.]+: [+-][\d.]+%", printed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_capture_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, printed = call(first_minutes.main, ["captured", *SMALL], monkeypatch, capfd)
    assert code == 2
    assert "trainer.cuda_graph=true needs trainer=gpu" in printed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("step", ["plain", "captured"])
def test_cuda_steps(step: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)  # given back after the step has set it
    code, printed = call(first_minutes.main, [step], monkeypatch, capfd)
    assert code == 0, printed
