"""A run as a folder for others: it answers as the run does, needs nothing else, and is read with suspicion."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, call, composed, stop_at
from PIL import Image
from safetensors.torch import load_file, save_file

from vit_cnn import predict
from vit_cnn.errors import Refused, Stopped
from vit_cnn.export import __main__ as export
from vit_cnn.export import measure, programs
from vit_cnn.run.trained import load_run
from vit_cnn.training.loop import train

Command = Callable[..., tuple[int, str]]
CNN = ["model=cnn", "data=digits", "data.image_size=8", "data.max_images=60", "recipe.batch_size=30", "max_steps=3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT and a CNN, trained a little, and the ViT exported in every format."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {"vit": TINY, "cnn": CNN}.items():
        (folder / name).mkdir()
        train(composed(*options), folder / name)
    return folder


@pytest.fixture
def exporting(runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, where the runs lie in ``vit`` and ``cnn``."""
    for name in ("vit", "cnn"):
        shutil.copytree(runs / name, name)
    return lambda *arguments: call(export.main, list(arguments), monkeypatch, capfd)


def recorded(run: str) -> dict[str, Any]:
    return dict(np.load(f"{run}/predictions.npz"))


def test_every_format_answers_as_the_network(exporting: Command) -> None:
    code, printed = exporting("vit", "--format", "onnx", "torch", "--attention", "--out", "out")
    assert code == 0, printed
    names = {path.name for path in Path("out").iterdir()}
    programs = {"model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.pt2"}
    assert names == programs | {"model.safetensors", "config.json", "README.md"}
    assert all(name in printed for name in programs)
    sizes = {name: (Path("out") / name).stat().st_size for name in names}
    assert sizes["model.onnx"] > sizes["model.fp16.onnx"] > 0
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []  # nothing temporary stays

    images = np.random.default_rng(0).integers(0, 256, (250, 3, 32, 32), dtype=np.uint8)
    run = load_run("vit")
    pixels = (torch.from_numpy(images).float() / 255 - run.mean[:, None, None]) / run.std[:, None, None]
    expected, maps = run.model(pixels).numpy(), run.model.attention_maps(pixels).numpy()
    np.savez("images.npz", images=images)
    # In a process of its own, with onnxruntime and numpy alone.
    code = """
import sys, numpy, onnxruntime
images = numpy.load("images.npz")["images"]
session = onnxruntime.InferenceSession("out/model.onnx")
answers = {}
for size in (1, 3, 250):
    answers[f"{size}/logits"], answers[f"{size}/maps"] = session.run(None, {"images": images[:size]})
assert "torch" not in sys.modules and "vit_cnn" not in sys.modules
numpy.savez("answers.npz", **answers)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""})
    answers = np.load("answers.npz")
    logits, attention = torch.export.load("out/model.pt2").module()(torch.from_numpy(images[:3]))
    np.testing.assert_allclose(logits, expected[:3], atol=1e-5)
    np.testing.assert_allclose(attention, maps[:3], atol=1e-5)
    for size in (1, 3, 250):
        np.testing.assert_allclose(answers[f"{size}/logits"], expected[:size], atol=1e-5)
        np.testing.assert_allclose(answers[f"{size}/maps"], maps[:size], atol=1e-5)


def test_an_export_is_read_like_a_run(
    exporting: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("vit", "cnn"):
        assert exporting(name, "--out", f"{name}-out")[0] == 0
        there = load_run(name)
        shutil.rmtree(name)  # it is not needed
        here = load_run(f"{name}-out")
        images = torch.randn(2, 3, here.image_size, here.image_size)
        assert torch.equal(there.model(images), here.model(images))
        assert (there.classes, there.fit) == (here.classes, here.fit)
        assert torch.equal(there.mean, here.mean)
        assert torch.equal(there.std, here.std)
    Image.new("RGB", (40, 30), "white").save("photo.png")
    code, printed = call(predict.main, ["vit-out", "photo.png", "--attention", "maps.png"], monkeypatch, capfd)
    assert code == 0, printed
    assert Path("maps.png").exists()


def test_half_precision_takes_half_the_space(exporting: Command) -> None:
    assert exporting("cnn", "--out", "whole")[0] == 0
    code, printed = exporting("cnn", "--precision", "fp16", "--out", "half")
    assert code == 0
    assert "fp16" in printed
    sizes = [(Path(name) / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)
    kinds = {tensor.dtype for tensor in load_file("half/model.safetensors").values()}
    assert kinds == {torch.float16, torch.int64}
    images = torch.randn(2, 3, 8, 8)
    np.testing.assert_allclose(load_run("half").model(images), load_run("whole").model(images), atol=1e-2)


def test_the_card_says_what_the_result_says(exporting: Command) -> None:
    hub = pytest.importorskip("huggingface_hub")
    assert exporting("vit", "--out", "out")[0] == 0
    result = json.loads(Path("vit/result.json").read_text())
    card = hub.ModelCard.load("out/README.md")
    (accuracy,) = [each for each in card.data.eval_results if each.metric_type == "accuracy"]
    assert accuracy.metric_value == result["test/acc"]
    assert accuracy.dataset_name == "Digits"
    for text in (f"{result['params']:,} parameters", result["data"]["fingerprint"], "hf upload", "10 classes"):
        assert text in card.text
    assert "optimizer.lr: `0.003`" in card.text
    changed = ", with changes" if result["git"]["dirty"] else ""
    assert f"commit {result['git']['sha']}{changed}.\n" in card.text
    assert "--trust" not in card.text
    assert not any(line.startswith(("{%", "{{")) for line in card.text.splitlines())
    config = json.loads(Path("out/config.json").read_text())
    assert config["model"]["patch_size"] == 8
    assert config["classes"] == [str(digit) for digit in range(10)]


def test_the_card_of_a_network_of_ones_own_says_where_its_code_is(
    exporting: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_of_mine.py").write_text("from vit_cnn.models import CNN\nclass Mine(CNN): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = Path("cnn/.hydra/config.yaml")
    config.write_text(config.read_text().replace("vit_cnn.models.CNN", "nets_of_mine.Mine"))
    assert exporting("cnn", "--trust", "nets_of_mine", "--out", "out")[0] == 0
    card = Path("out/README.md").read_text()
    assert "the network's own code, `nets_of_mine`, has to be there too" in card
    assert "photo.jpg --trust nets_of_mine\n" in card
    assert 'load_run("FOLDER", trust="nets_of_mine")' in card


def test_a_file_that_answers_otherwise_is_refused(exporting: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "answers_of", lambda path, trust: lambda images: torch.zeros(len(images), 10))
    code, printed = exporting("cnn", "--out", "out")
    assert code == 2
    assert "model.safetensors: its logits differ from the network's" in printed
    assert not Path("out").exists()
    assert not list(Path().glob(".out*"))


def test_batches_have_the_sizes_that_are_promised() -> None:
    asked: list[int] = []

    def answers(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return torch.zeros(len(images), 2)

    logits, _ = measure.logits_in_batches(answers, torch.zeros(7, 3, 8, 8, dtype=torch.uint8))
    assert {1, 3, 250} <= set(asked)
    assert len(logits) >= 7


def test_interrupted_leaves_nothing(exporting: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    from vit_cnn.export import folder

    monkeypatch.setattr(folder, "write_torch", interrupted)
    before = sorted(Path().iterdir())
    assert exporting("cnn", "--format", "torch", "--out", "out")[0] == 130
    assert sorted(Path().iterdir()) == before


def test_refusals(exporting: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    assert exporting("cnn", "--out", "exported")[0] == 0
    before = sorted(Path().iterdir())
    for arguments, message in {
        ("nowhere", "--out", "out"): "nowhere is not a run folder",
        ("cnn", "--out", "full"): "full exists already",
        ("exported", "--out", "out"): "exported is an export folder already",
        ("cnn", "--attention", "--format", "torch", "--out", "out"): "a CNN has no attention maps",
        ("vit", "--attention", "--out", "out"): "add --format onnx or torch",
    }.items():
        code, printed = exporting(*arguments)
        assert code == 2, arguments
        assert message in printed, arguments
        assert "Traceback" not in printed
    find = export.importlib.util.find_spec
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if "onnx" in name else find(name))
    code, printed = exporting("cnn", "--format", "onnx", "--out", "out")
    assert code == 2
    assert "pip install onnx onnxscript onnxruntime" in printed
    assert sorted(Path().iterdir()) == before


def test_a_run_that_has_not_finished_is_refused(monkeypatch: pytest.MonkeyPatch, exporting: Command) -> None:
    Path("stopped").mkdir()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 2)
        train(composed(*CNN), Path("stopped"))
    code, printed = exporting("stopped", "--out", "out")
    assert code == 2
    assert "stopped is stopped: a run can be exported once it has finished" in printed


def edited(name: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = Path(name, "config.json")
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_foreign_and_half_folders(exporting: Command) -> None:
    assert exporting("cnn", "--out", "good")[0] == 0
    weights = load_file("good/model.safetensors")

    def broken(change: Callable[[], object], message: str) -> None:
        shutil.copytree("good", "bad")
        change()
        with pytest.raises(Refused, match=message) as refused:
            load_run("bad")
        assert "\n" not in str(refused.value)
        shutil.rmtree("bad")

    broken(lambda: Path("bad/model.safetensors").unlink(), "half an export folder: it has no model.safetensors")
    broken(lambda: Path("bad/config.json").unlink(), "half an export folder: it has no config.json")
    broken(lambda: Path("bad/config.json").write_text("{"), "config.json cannot be read")
    broken(lambda: Path("bad/config.json").write_text('{"model_type": "vit"}'), "is not of an export folder")
    content = Path("good/model.safetensors").read_bytes()
    broken(lambda: Path("bad/model.safetensors").write_bytes(content[:-100]), "is damaged")
    broken(lambda: Path("bad/model.safetensors").write_bytes(b"PK\x03\x04" + content), "is damaged")
    broken(lambda: save_file({"weight": torch.zeros(2)}, "bad/model.safetensors"), "does not fit the network")
    other = {**weights, "features.0.weight": torch.zeros(32, 1, 3, 3)}
    broken(lambda: save_file(other, "bad/model.safetensors"), r"features.0.weight is \[32, 1, 3, 3\]")
    for key, value, message in (
        ("classes", ["a", "b"], "names 2 classes, but the network answers with"),
        ("image_size", 16, "takes no images"),
        ("image_size", "big", "image_size"),
        ("num_channels", 2, "num_channels is 2"),
        ("std", [0.0, 1.0, 1.0], "std is"),
        ("mean", [float("nan"), 1.0, 1.0], "mean is"),
        ("mean", [0.0], "mean is"),
        ("fit", "${oc.env:HOME}", "interpolation"),
        ("model", {"_target_": "os.system", "command": "touch pwned"}, "is not called unasked"),
        ("model", {}, "model is"),
        ("unknown", 1, "unknown is not a key"),
    ):
        broken(lambda key=key, value=value: edited("bad", lambda values: values.update({key: value})), message)
    assert not Path("pwned").exists()
    assert load_run("good").classes


def test_programs_do_not_depend_on_the_processor() -> None:
    from vit_cnn.models.linear import Linear

    before = Linear.as_convolution
    with programs.plain("torch"):
        assert not Linear.as_convolution
    assert Linear.as_convolution == before


def test_a_network_that_cannot_be_exported_is_refused_in_a_line(
    exporting: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("Data dependent control flow\nand a page of text")

    monkeypatch.setattr(torch.export, "export", fails)
    code, printed = exporting("cnn", "--format", "torch", "--out", "some/where/out")
    assert code == 2
    assert "error: --format torch: the network cannot be exported: Data dependent control flow\n" in printed
    assert "a page of text" not in printed
    assert not Path("some").exists()
