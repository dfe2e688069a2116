"""Your own images, from the command line and from Python."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, call, composed
from PIL import Image

from vit_cnn import predict
from vit_cnn.errors import Refused
from vit_cnn.predict import load_run
from vit_cnn.run.pictures import HEADING
from vit_cnn.training.loop import train

Predict = Callable[..., tuple[int, str]]


@pytest.fixture
def predicting(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Predict:
    return lambda *arguments: call(predict.main, list(arguments), monkeypatch, capfd)


@pytest.fixture
def trained(image_tree: Path) -> Path:
    """A ViT that tells blue from green."""
    Path("run").mkdir()
    options = [
        "data=folder",
        f"data.root={image_tree}",
        "recipe.epochs=20",
        "recipe.batch_size=18",
        "data.max_images=null",
    ]
    train(composed(*TINY, *options), Path("run"))
    return image_tree


def test_three_lines_of_python_give_what_the_run_recorded(trained: Path) -> None:
    run = load_run("run")
    files = sorted((trained / "test" / "blue sky").glob("*.png")) + sorted((trained / "test" / "grün").glob("*.png"))
    logits = run.model(run.preprocess(files))
    assert run.classes == ["blue sky", "grün"]
    recorded = np.load("run/predictions.npz")
    np.testing.assert_allclose(logits.numpy(), recorded["test_logits"], rtol=1e-4, atol=1e-5)
    assert (logits.argmax(dim=1).numpy() == recorded["test_labels"]).mean() > 0.9
    assert run.preprocess([files[0].read_bytes()]).equal(run.preprocess([str(files[0])]))


def test_any_size_and_mode(trained: Path, predicting: Predict) -> None:
    Image.new("RGBA", (300, 200), (40, 80, 200, 255)).save("wide.webp")
    Image.new("L", (5, 70)).save("tall.gif")
    code, printed = predicting("run", "wide.webp", "tall.gif", "--json", "--attention", "out.png")
    assert (code, Path("out.png").exists()) == (0, True)
    answers = json.loads(printed)
    assert [answer["image"] for answer in answers] == ["wide.webp", "tall.gif"]
    assert answers[0]["top"][0]["class"] == "blue sky"
    assert sum(top["probability"] for top in answers[0]["top"]) == pytest.approx(1, abs=1e-4)


def test_table_names_images_classes_and_probabilities(trained: Path, predicting: Predict) -> None:
    code, printed = predicting("run", "images/test/grün/0.png", "--top", "1")
    assert code == 0
    assert "grün/0.png" in printed
    assert "%" in printed
    assert printed.count("blue sky") == 0


def test_files_folders_globs_and_standard_input(
    trained: Path, predicting: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{trained}/test/grün/1.png\n\n{trained}/test/grün/2.png\n"))
    folder, pattern = f"{trained}/test/grün", f"{trained}/test/**/0.png"
    code, printed = predicting("run", folder, pattern, "-", f"{folder}/5.png", "--json")
    assert code == 0
    names = [Path(answer["image"]).name for answer in json.loads(printed)]
    assert names == [*(f"{n}.png" for n in range(6)), "0.png", "0.png", "1.png", "2.png", "5.png"]


def test_bad_files_are_reported_and_the_rest_answered(trained: Path, predicting: Predict) -> None:
    Path("broken.jpg").write_bytes(b"nothing")
    Path("empty.png").touch()
    good = str(trained / "test" / "grün" / "0.png")
    code, printed = predicting("run", "broken.jpg", good, "empty.png", "missing.png", "--json")
    assert code == 1
    assert "error: 3 of 4 images cannot be read" in printed
    answers = json.loads(printed[: printed.rindex("]") + 1])
    assert "not an image that Pillow knows" in answers[0]["error"]
    assert answers[1]["top"]
    assert "empty" in answers[2]["error"]
    assert "No such file" in answers[3]["error"]
    code, printed = predicting("run", "broken.jpg", good)
    assert code == 1
    assert "0.png" in printed


def test_more_images_than_a_batch(trained: Path, predicting: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(trained / "test")
    whole = predicting("run", folder, "--json")
    monkeypatch.setattr(predict, "BATCH_SIZE", 5)
    parts = predicting("run", folder, "--json")
    assert len(json.loads(whole[1])) == 12
    for ours, theirs in zip(json.loads(whole[1]), json.loads(parts[1]), strict=True):
        assert ours["image"] == theirs["image"]
        assert ours["top"][0]["probability"] == pytest.approx(theirs["top"][0]["probability"], abs=1e-5)


def test_attention_is_drawn(trained: Path, predicting: Predict) -> None:
    code, printed = predicting("run", str(trained / "test" / "grün"), "--attention", "out.png")
    assert code == 0
    assert "out.png" in printed
    with Image.open("out.png") as picture:
        assert picture.size == (3 * 224 + 2 * 8, 6 * 224 + 5 * 8 + HEADING)
        pixels = np.asarray(picture).astype(int)[HEADING:]
    image, last = pixels[:224, :224], pixels[:224, 232:456]
    assert np.abs(image - last).mean() > 20  # attention lies over it


def test_refusals(trained: Path, predicting: Predict, tmp_path: Path) -> None:
    image = str(trained / "test" / "grün" / "0.png")
    for arguments, message in {
        ("nowhere", image): "nowhere is not a run folder",
        ("run", image, "--top", "0"): "--top 0 must be at least 1",
        ("run", str(tmp_path / "cache")): "holds no images",
        ("run", image, "--device", "cuda:99"): "finds no GPU" if not torch.cuda.is_available() else "CUDA devices",
        ("run", image, "--device", "gpu"): "trainer.device=gpu must be cpu, cuda, cuda:<index> or mps",
        ("run", image, "--device", "cuda:999"): "trainer.device=cuda:999 must be cpu, cuda",
        ("run", image, "--attention", "no/such/folder.png"): "--attention no/such/folder.png cannot be written",
    }.items():
        code, printed = predicting(*arguments)
        assert code in (1, 2), arguments
        assert message in printed, arguments
        assert "Traceback" not in printed
    Path("cnn").mkdir()
    train(
        composed("model=cnn", "data=digits", "data.max_images=60", "recipe.batch_size=30", "max_steps=1"), Path("cnn")
    )
    code, printed = predicting("cnn", image, "--attention", "out.png")
    assert code == 2
    assert "a CNN has no attention maps" in printed
    assert predicting("cnn", image)[0] == 0
    with pytest.raises(Refused, match=r"cnn/best\.pt does not exist"):
        Path("cnn/best.pt").unlink()
        load_run("cnn")
