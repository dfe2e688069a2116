"""The page to play with: what the networks say of an image, and the command."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import TINY, call, composed
from PIL import Image
from playing import BROKEN, on_stage, train_both

from vit_cnn.errors import Refused
from vit_cnn.export.folder import write_export
from vit_cnn.play import __main__ as play
from vit_cnn.play.answers import answer
from vit_cnn.play.changes import Changes
from vit_cnn.play.gallery import Shown
from vit_cnn.play.looks import LAST
from vit_cnn.play.stage import Stage
from vit_cnn.run.lock import only_writer
from vit_cnn.run.looks import count_looks
from vit_cnn.training.loop import train

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_both(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def stage(runs: Path) -> Stage:
    return on_stage(runs)


# --- which runs, which images


def test_the_first_vit_and_the_first_cnn(runs: Path, stage: Stage) -> None:
    assert [each.name for each in on_stage(runs / "cnn", runs / "vit").contenders] == ["ViT", "CNN"]
    assert stage.contenders[0].colour != stage.contenders[1].colour
    result = json.loads((runs / "vit" / "result.json").read_text())
    assert stage.contenders[0].found.about == f"2 epochs, test accuracy {result['test/acc']:.1%}"
    shutil.copytree(runs / "vit", "vit again")
    alike = on_stage(runs / "vit", Path("vit again")).contenders
    assert [each.name for each in alike] == ["ViT (vit)", "ViT (vit again)"]
    assert len({each.colour for each in alike}) == 2
    (alone,) = on_stage(runs / "cnn").contenders
    assert alone.name == "CNN"


def test_images_that_one_network_gets_right(stage: Stage) -> None:
    assert stage.gallery
    for wanted in ((True, False), (False, True), (False, False), (True, True)):
        places = stage.gallery.matching(wanted)
        if not len(places):
            with pytest.raises(Refused, match="no such image"):
                stage.gallery.next_of(wanted, None)
            continue
        shown = stage.gallery.next_of(wanted, None)
        answers = [answer(each.network, shown.pixels, way=LAST) for each in stage.contenders]
        assert tuple(each.label == shown.label for each in answers) == wanted
        assert stage.gallery.next_of(wanted, int(places[-1])).place == places[0]  # after the last the first
    assert len(stage.gallery.matching((True, False))) + len(stage.gallery.matching((False, True))) > 0


def test_one_network_alone(runs: Path) -> None:
    alone = on_stage(runs / "cnn")
    assert alone.ways == {}
    assert list(alone.verdicts) == ["Right", "Wrong"]
    assert alone.view(alone.first(), LAST, Changes()).count('class="network"') == 1


SHIPPED = [ROOT / "experiments" / "deck" / name for name in ("vit", "cnn")]


def test_the_shipped_networks_answer_without_any_training(image_tree: Path) -> None:
    stage = on_stage(SHIPPED[0].parent)
    assert [each.name for each in stage.contenders] == ["ViT", "CNN"]
    assert stage.contenders[0].found.about == "180 epochs, test accuracy 76.0%"
    assert stage.contenders[0].found.data == "CIFAR-10 (lossless)"
    assert stage.gallery is None
    assert "an export holds no images" in stage.why_not
    assert "no image yet" in stage.view(stage.first(), LAST, Changes())
    mine = stage.uploaded(image_tree / "test" / "grün" / "0.png")
    assert stage.view(mine, LAST, Changes(right=2)).count("airplane") >= 2


def test_an_export_beside_a_run(runs: Path) -> None:
    with pytest.raises(Refused, match="know other classes"):
        on_stage(SHIPPED[0], runs / "cnn")
    write_export(runs / "vit", Path("exported"), formats=["safetensors"], precision="fp32", attention=False, trust="")
    shutil.copytree("exported", runs / "exported")
    assert all(each.found.run for each in on_stage(runs).contenders)  # a folder with runs is one of runs
    shutil.rmtree(runs / "exported")
    stage = on_stage(runs / "cnn", Path("exported"))
    assert [each.name for each in stage.contenders] == ["ViT", "CNN"]
    assert stage.gallery and not stage.gallery.right
    assert "exported holds no predictions" in stage.gallery.why_not


def test_looks_at_test_images_are_counted(runs: Path) -> None:
    shutil.copytree(runs, "runs")
    folder = Path("runs/cnn")
    before = count_looks(folder)
    on_stage(folder)
    assert count_looks(folder) == before
    assert "test image 0" in (on_stage(folder, split="test")).first().name
    assert before is not None and count_looks(folder) == before + 1


def test_a_run_that_is_still_in_training(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(runs, "runs")
    young = Path("runs/vit")
    for name in ("result.json", "predictions.npz"):
        (young / name).unlink()
    (young / "status.json").write_text(json.dumps({"status": "running", "pid": os.getpid()}))
    with only_writer(young):
        stage = on_stage(Path("runs"))
    assert stage.contenders[0].found.about.startswith("still in training after epoch 2 of 2, best validation ")
    assert stage.gallery and not stage.gallery.right
    with pytest.raises(Refused, match="vit has no predictions yet"):
        stage.gallery.next_of((True, False), None)
    assert 'class="network"' in stage.view(stage.first(), LAST, Changes())
    (young / "best.pt").unlink()
    with only_writer(young), pytest.raises(Refused, match="vit has no weights yet: it is running"):
        on_stage(young)
    assert [each.name for each in on_stage(Path("runs")).contenders] == ["CNN"]
    assert "no weights yet" in caplog.text


def test_a_run_whose_images_are_gone(image_tree: Path) -> None:
    Path("run").mkdir()
    options = ["data=folder", f"data.root={image_tree}", "recipe.batch_size=18", "max_steps=1"]
    train(composed(*TINY, *options), Path("run"))
    image = (image_tree / "test" / "grün" / "0.png").read_bytes()
    shutil.rmtree(image_tree)
    stage = on_stage(Path("run"))
    assert stage.gallery is None
    assert "its images are not here" in stage.why_not
    assert "no image yet" in stage.view(stage.first(), LAST, Changes(noise=10))
    Path("mine.png").write_bytes(image)
    assert "mine.png" in stage.view(stage.uploaded(Path("mine.png")), LAST, Changes())
    with pytest.raises(Refused, match="its images are not here"):
        stage.opened({"image": "0"})


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_are_no_images(name: str, stage: Stage) -> None:
    Path(name).write_bytes(BROKEN[name])
    with pytest.raises(Refused, match=rf"^{name}: the image cannot be read as an image: .+") as refused:
        stage.uploaded(Path(name))
    assert len(str(refused.value).splitlines()) == 1


def test_a_drawing_is_turned_about_where_the_images_are_light_on_dark(stage: Stage) -> None:
    assert stage.is_dark
    paper = Image.new("RGB", (280, 280), "white")
    paper.paste("black", (120, 20, 160, 260))
    paper.save(file := io.BytesIO(), "PNG")
    drawing = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    light, dark = (stage.drawn(drawing, light_on_dark=way).pixels.float() for way in (True, False))
    assert (light + dark == 255).all()
    assert light[..., 16, 16].min() > 250
    assert light[..., 16, 2].max() < 5


def test_a_link_opens_what_was_seen(stage: Stage) -> None:
    assert stage.gallery
    shown, way, changes = stage.opened({"image": "3", "way": "2.1", "hide": "8"})
    assert (shown.place, way, changes) == (3, "2.1", Changes(hide=8))
    assert 'href="?image=3&amp;hide=8&amp;way=2.1"' in stage.view(shown, way, changes)
    assert stage.opened({})[0].place == 0
    for link, said in (
        ({"image": "-1"}, "image=-1 must be a number from 0 to"),
        ({"image": str(len(stage.gallery.images))}, "must be a number"),
        ({"way": "9.9"}, "way=9.9 must be one of last, rollout, 2.1"),
    ):
        with pytest.raises(Refused, match=said):
            stage.opened(link)


def test_names_of_classes_are_text_and_many_classes_are_cut(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stage.contenders[0]
    classes = ["<script>alert(1)</script>", *first.network.classes[1:]]
    first = dataclasses.replace(first, network=dataclasses.replace(first.network, classes=classes))
    stage = dataclasses.replace(stage, contenders=[first, stage.contenders[1]])
    page = stage.view(Shown(stage.first().pixels, "<b>", label=0), LAST, Changes(), notice="<i>")
    assert "<script" not in page and "<b>" not in page and "<i>" not in page
    assert page.count("<li") == 2 * 10
    assert "link to this view" not in page  # of an image that is not of the data set
    monkeypatch.setattr("vit_cnn.play.show.FEW", 9)
    assert stage.view(stage.first(), LAST, Changes()).count("<li") == 2 * 6


# --- the command


@pytest.fixture
def playing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    return lambda *arguments: call(play.main, list(arguments), monkeypatch, capfd)


def test_refusals(runs: Path, playing: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("nothing").mkdir()
    monkeypatch.setattr(play, "NEEDED", ("numpy",))
    for arguments, said in {
        ("nothing",): "nothing holds no run",
        (str(runs), "--split", "train"): "--split train must be val or test",
        (str(runs), "--port", "0"): "--port 0 must be from 1 to 65535",
        (str(runs), "--device", "cuda:99"): "cuda:99",
    }.items():
        code, printed = playing(*arguments)
        assert code == 2, printed
        assert said in printed
        assert "Traceback" not in printed
    monkeypatch.setattr(play, "NEEDED", ("numpy", "gradioo"))
    code, printed = playing(str(runs))
    assert (code, printed) == (2, "error: play needs gradioo: pip install gradioo\n")


def test_the_command_serves_a_page_until_ctrl_c(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="no Gradio here: pip install gradio")
    Path("temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "COLUMNS": "200"}
    del environment["HYDRA_FULL_ERROR"]
    command = [sys.executable, "-m", "vit_cnn.play", str(runs), "--no-browser"]
    serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    try:
        assert serving.stdout
        said = serving.stdout.readline()
        address = re.search(r"The page is at (http://127\.0\.0\.1:(\d+)/) until you press Ctrl-C", said)
        assert address, said
        with urllib.request.urlopen(address[1]) as answered:
            assert answered.headers["content-security-policy"].startswith("default-src 'self' ")
        assert list(Path("temporary").glob("vit-cnn-play-*"))
        port = ["--port", address[2]]
        second = subprocess.run([*command, *port], capture_output=True, text=True, env=environment, cwd=ROOT)
        assert (second.returncode, second.stderr) == (2, f"error: --port {address[2]} is in use\n")
        serving.send_signal(signal.SIGINT)
        assert serving.wait(timeout=60) == 0
    finally:
        serving.kill()
        serving.communicate()
    assert not list(Path("temporary").glob("vit-cnn-play-*"))  # what was dropped on the page is gone
