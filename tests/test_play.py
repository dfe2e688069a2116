"""The page to play with: what the networks say of an image, and the page in a browser."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY, call, composed, run
from PIL import Image

from vit_cnn.errors import Refused
from vit_cnn.export.folder import write_export
from vit_cnn.play import __main__ as play
from vit_cnn.play.answers import answer
from vit_cnn.play.changes import Changes
from vit_cnn.play.gallery import Shown
from vit_cnn.play.looks import LAST
from vit_cnn.play.stage import Stage, stage_of
from vit_cnn.run.looks import count_looks
from vit_cnn.training.loop import train

ROOT = Path(__file__).parent.parent

BROKEN = {
    "renamed.png": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "empty.jpg": b"",
    "huge.png": b"\x89PNG\r\n\x1a\n",  # 60,000 × 60,000 pixels; made whole below
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


BROKEN["huge.png"] += chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
BROKEN["huge.png"] += chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT and a CNN, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    run(str(folder / "vit"))
    (folder / "cnn").mkdir()
    options = ["data=digits", "data.max_images=160", "recipe.batch_size=30", "recipe.epochs=1", "trainer=cpu"]
    train(composed("model=cnn", *options), folder / "cnn")
    return folder


def on_stage(*folders: Path, split: str = "val") -> Stage:
    return stage_of(list(folders), split=split, device="cpu", trust="")


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
    stage = on_stage(Path("runs"))
    assert stage.contenders[0].found.about.startswith("still in training after epoch 2 of 2, best validation ")
    assert stage.gallery and not stage.gallery.right
    with pytest.raises(Refused, match="vit has no predictions yet"):
        stage.gallery.next_of((True, False), None)
    assert 'class="network"' in stage.view(stage.first(), LAST, Changes())
    (young / "best.pt").unlink()
    with pytest.raises(Refused, match="vit has no weights yet: it is running"):
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


# --- the page in a browser

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def address(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The page of the runs in $PLAY_RUNS, a folder, or else of the tests' own; it talks to no other machine."""
    pytest.importorskip("gradio", reason="no Gradio here: pip install gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    from vit_cnn.play.serve import serve

    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    asked: list[str] = []
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **options: asked.append(host) or look_up(host, *more, **options)
    )
    shutil.copytree(os.environ.get("PLAY_RUNS", runs), "runs")
    blocks, address = serve(on_stage(Path("runs")), port=None, open_browser=False)
    yield address
    blocks.close(verbose=False)
    assert {host if isinstance(host, str) else host.decode() for host in asked if host} <= {"127.0.0.1", "localhost"}


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium here to open the page in")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The opened page; in the end, nothing was asked of another machine, and nothing went wrong in the page."""
    page = browser.new_page(viewport={"width": 1280, "height": 920})
    page.set_default_timeout(120_000)  # milliseconds; a busy machine may take long
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_selector(".network ol")
    yield page
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:", "about:"))]
    assert not wrong


def seen(page: Any) -> list[str]:
    """The pictures: the image as it is and as the networks see it, and where each of them looks."""
    return page.eval_on_selector_all("#answers img", "images => images.map(image => image.src)")


def wait_for_link(page: Any, link: str) -> list[str]:
    """The pictures once the page shows what ``link`` says; a drag may pass other views on its way."""
    page.wait_for_selector(f'#answers a[href="{link}"]')
    return seen(page)


def test_answers_follow_while_a_slider_is_dragged(page: Any) -> None:
    first = seen(page)
    assert first[0] == first[1]
    assert len(set(first)) == 3
    knob = page.locator("#noise input[type=range]").bounding_box()
    page.mouse.move(knob["x"] + 2, knob["y"] + knob["height"] / 2)
    page.mouse.down()
    page.mouse.move(knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2, steps=3)
    page.wait_for_function("before => document.querySelectorAll('#answers img')[1].src !== before", arg=first[1])
    page.mouse.move(knob["x"] + knob["width"] + 9, knob["y"] + knob["height"] / 2, steps=3)
    noisy = wait_for_link(page, "?image=0&noise=50")  # while the button is down
    page.mouse.up()
    assert noisy[0] == first[0]
    assert len({*noisy, *first}) == 6  # all but the image as it is are others
    page.locator("#shuffle label", has_text="8").click()
    shuffled = wait_for_link(page, "?image=0&shuffle=8&noise=50")
    page.get_by_role("button", name="Other squares and noise").click()
    assert wait_for_link(page, "?image=0&shuffle=8&noise=50&draw=1")[1] != shuffled[1]
    page.get_by_role("button", name="Undo all changes").click()
    assert wait_for_link(page, "?image=0") == first


def test_images_of_the_data_set_and_a_link(page: Any, address: str) -> None:
    first = seen(page)
    page.get_by_role("button", name="Next").click()
    assert wait_for_link(page, "?image=1")[0] != first[0]
    page.locator("#hide input[type=number]").fill("12")
    hidden = wait_for_link(page, "?image=1&hide=12")
    page.get_by_role("link", name="link to this view").click()
    page.wait_for_selector(".network ol")
    assert page.url == f"{address}?image=1&hide=12"
    page.wait_for_function("document.querySelector('#hide input[type=number]').value === '12'")
    assert seen(page) == hidden
    page.goto(f"{address}?image=many")
    page.wait_for_selector("text=must be a number from 0 to")
    page.goto(f"{address}?image=1")
    page.wait_for_selector(".network ol")
    button = page.locator("button:enabled", has_text="Only").first
    wins_first = "ViT" in button.inner_text()
    button.click()
    page.wait_for_function("!document.querySelector('#answers').innerText.includes('image 1.')")
    verdicts = page.locator(".network em").all_inner_texts()
    assert verdicts == (["right", "wrong"] if wins_first else ["wrong", "right"])


def test_ones_own_image_and_files_that_are_none(page: Any) -> None:
    page.get_by_role("tab", name="Your image").click()
    first = seen(page)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)).save("mine.png")
    for name, content in BROKEN.items():
        Path(name).write_bytes(content)
        page.locator("#upload input[type=file]").set_input_files(name)
        page.wait_for_selector(f".notice >> text={name}: the image cannot be read")
        assert seen(page) == first
        page.wait_for_selector("#upload input[type=file]", state="attached")
    page.locator("#upload input[type=file]").set_input_files("mine.png")
    page.wait_for_selector("figcaption >> text=mine.png")
    assert not page.locator(".notice").count()
    assert seen(page)[0] != first[0]
    assert not page.locator(".network em").count()  # nobody knows what is right


def test_a_drawing(page: Any) -> None:
    first = seen(page)
    page.get_by_role("tab", name="Draw").click()
    box = page.locator("#draw canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.7, steps=4)
    page.wait_for_selector("figcaption >> text=your drawing")  # while the pen is down
    assert seen(page)[0] != first[0]
    page.mouse.up()
    assert not page.get_by_role("link", name="link to this view").count()


def test_on_a_phone_and_the_picture_of_the_page(page: Any) -> None:
    overhang = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overhang) == 0
    a, b = (page.locator(".network").nth(number).bounding_box() for number in (0, 1))
    assert a["y"] == b["y"] and a["x"] + a["width"] <= b["x"]
    if picture := os.environ.get("PLAY_PICTURE"):  # for the README
        page.goto(page.url + os.environ.get("PLAY_VIEW", ""))
        page.wait_for_selector(".network ol")
        page.screenshot(path=picture)
    page.set_viewport_size({"width": 400, "height": 860})
    page.locator("#noise").scroll_into_view_if_needed()
    assert page.evaluate(overhang) == 0
    a, b = (page.locator(".network").nth(number).bounding_box() for number in (0, 1))
    assert a["x"] == b["x"] and a["y"] + a["height"] <= b["y"]
    assert a["y"] >= 0 and b["y"] + b["height"] < 860 * 0.6  # both in sight, with room for sliders
