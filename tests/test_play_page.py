"""The page to play with, in a browser: what is shown follows what is done."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playing import BROKEN, on_stage, train_both

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_both(tmp_path_factory.mktemp("runs"))


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
    page.get_by_role("tab", name="Data set").click()
    page.get_by_role("button", name="Next").click()
    page.wait_for_selector("figcaption >> text=image 0")


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
