"""What can be done with a trained run: measure it again, put it beside others."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, call, composed, run
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vit_cnn import compare, evaluate
from vit_cnn.data.batches import normalise
from vit_cnn.errors import Refused
from vit_cnn.run.config import find_images
from vit_cnn.run.trained import load_config, load_run
from vit_cnn.training.loop import train


@pytest.mark.parametrize("model", ["vit", "cnn", "vit, a part of the images"])
def test_evaluate_reproduces_the_result(
    model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if model == "vit":
        result = run("run")
    elif "part" in model:  # each of whose training images an epoch shows several times
        result = run("run", "data.train_share=0.4")
    else:
        Path("run").mkdir()
        tiny = ["data=digits", "data.max_images=60", "recipe.batch_size=30", "trainer=cpu", "max_steps=2"]
        result = train(composed("model=cnn", *tiny), Path("run"))
    for split in ("train", "val", "test"):
        code, printed = call(evaluate.main, ["run=run", f"split={split}"], monkeypatch, capfd)
        assert code == 0, printed
        for key in ("acc", "loss"):
            assert printed.count(f"{result[f'{split}/{key}']:.6f}") >= 2, printed


@pytest.mark.parametrize("name", ["lr=0.1", "007", "a #2"])
def test_a_folder_of_any_name(name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run(name, "max_steps=1")
    code, printed = call(evaluate.main, [name, "split=val"], monkeypatch, capfd)
    assert code == 0, printed


def test_flipping_has_a_column_of_its_own(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    result = run("run")
    code, printed = call(evaluate.main, ["run=run", "split=val", "flip=true"], monkeypatch, capfd)
    assert code == 0, printed
    assert printed.count(f"{result['val/loss']:.6f}") == 2
    data = instantiate(composed(*TINY).data)
    model = load_run("run").model
    images = normalise(data.val.images, data.mean, data.std)
    logits = (model(images) + model(images.flip(-1))) / 2
    (_, flipped, _) = re.findall(r"\d\.\d{6}", printed.split("loss")[1])
    assert float(flipped) == pytest.approx(F.cross_entropy(logits, data.val.labels).item(), abs=2e-6)
    assert not Path("run/test_looks.jsonl").read_text().count("evaluate")


def test_a_run_of_a_gpu_can_be_used_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run("run", "max_steps=1")
    cfg = OmegaConf.load("run/.hydra/config.yaml")
    cfg.trainer.update({"device": "cuda", "precision": "amp", "cuda_graph": True, "compile": True})
    OmegaConf.save(cfg, "run/.hydra/config.yaml")
    moved = load_config(Path("run"), device="cpu").trainer
    cfg.trainer.device = "cuda:1"  # and here there is one at most
    OmegaConf.save(cfg, "run/.hydra/config.yaml")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert load_config(Path("run"), device="auto").trainer.device == "cpu"
    with pytest.raises(Refused, match="no images were given"):
        load_run("run").preprocess([])
    assert (moved.device, moved.precision, moved.cuda_graph, moved.compile) == ("cpu", "fp32", False, False)
    code, printed = call(evaluate.main, ["run=run", "device=cpu"], monkeypatch, capfd)
    assert code == 0, printed


def test_the_images_of_a_run_may_lie_elsewhere_on_another_machine(
    image_tree: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run folder names the place where they were; they are found by that folder's name in $VIT_CNN_DATA."""
    Path("run").mkdir()
    train(composed(*TINY, "data=folder", f"data.root={image_tree}", "recipe.batch_size=18", "max_steps=1"), Path("run"))
    Path("moved").mkdir()
    image_tree.rename(Path("moved", image_tree.name))
    code, printed = call(evaluate.main, ["run=run", "split=val"], monkeypatch, capfd)
    assert (code, "there is no such folder" in printed) == (2, True)
    monkeypatch.setenv("VIT_CNN_DATA", "moved")
    code, printed = call(evaluate.main, ["run=run", "split=val"], monkeypatch, capfd)
    assert code == 0, printed
    (stand_in := Path("others", image_tree.name)).mkdir(parents=True)
    monkeypatch.setenv("VIT_CNN_DATA", "others")  # a folder of that name with other images
    for name in ("train", "test"):
        Path("moved", image_tree.name, name).rename(stand_in / name)
    next(stand_in.glob("train/*/0.png")).unlink()
    code, printed = call(evaluate.main, ["run=run", "split=val"], monkeypatch, capfd)
    assert (code, "was trained on other images" in printed) == (2, True)


@pytest.mark.parametrize(("arguments", "message"), [
    (["run=nowhere"], "nowhere is not a run folder"),
    (["run=run", "split=dev"], "split=dev must be one of train, val, test"),
    (["run=run", "spilt=val"], "spilt is not a key: did you mean split?"),
    (["split=val"], "run is missing"),
])  # fmt: skip
def test_evaluate_refuses(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, printed = call(evaluate.main, arguments, monkeypatch, capfd)
    assert code == 2
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_compare(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    results = [run("a", "max_steps=2"), run("b", "max_steps=2", "seed=9")]
    code, printed = call(compare.main, ["a", "b"], monkeypatch, capfd)
    assert code == 0
    for result in results:
        assert f"{result['test/loss']:.4f}" in printed
    Path("b/result.json").unlink()
    code, printed = call(compare.main, ["a", "b"], monkeypatch, capfd)
    assert code == 2
    assert "b has no result.json" in printed
    Path("a/result.json").write_text(json.dumps(results[0])[:-20])
    code, printed = call(compare.main, ["."], monkeypatch, capfd)
    assert (code, printed) == (2, "error: . has no result.json: a folder of runs; vit-cnn report . shows them all\n")
    code, printed = call(compare.main, ["a"], monkeypatch, capfd)
    assert code == 2
    assert "a/result.json cannot be read" in printed


def test_one_run_at_a_time(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(evaluate.main, ["a", "b"], monkeypatch, capfd) == (2, "error: evaluate takes one run folder\n")


def test_an_archive_is_looked_for_in_the_variable_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_CNN_DATA", str(tmp_path))
    (tmp_path / "photos").mkdir()
    for name, found in (("cifar", tmp_path), ("folder", tmp_path / "photos")):
        data = {"_target_": f"vit_cnn.data.{name}", "root": "/nowhere/photos"}
        find_images(data)
        assert data["root"] == str(found)
