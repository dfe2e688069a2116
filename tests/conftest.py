"""What the tests share: a network and a data set small enough to train in a second, and the command line in-process."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "disabled")  # a test that looks at W&B asks for it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests fork, which threads do not survive
os.environ.pop("HYDRA_FULL_ERROR", None)

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from vit_cnn import train
from vit_cnn.errors import exit_with_code
from vit_cnn.report import curves


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test runs in a folder of its own, with its own cache and W&B folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a process started in the background
    handlers = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers = handlers  # without the one that Hydra pointed at this test's train.log
    for name, module in list(sys.modules.items()):  # another test may have a module of this name
        if str(getattr(module, "__file__", None)).startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # or it goes on in the first test's folder


@pytest.fixture
def static_curves() -> None:
    """For a test that looks at the pictures of the curves; in all others, reports do without: they take seconds."""


@pytest.fixture(autouse=True)
def without_static_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "static_curves" not in request.fixturenames:
        monkeypatch.setattr(curves, "save_static", lambda *_: None)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run ``python -m vit_cnn.train`` in this process: exit code and what it printed."""

    def call(*overrides: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        GlobalHydra.instance().clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a new process, also after a stop
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            exit_with_code(train.main)
        printed = capfd.readouterr()
        return int(end.value.code or 0), printed.out + printed.err

    return call


@pytest.fixture
def image_tree(tmp_path: Path) -> Path:
    """A folder of real image files: two classes told apart by colour, 20 training and 6 test images each."""
    generator = np.random.default_rng(0)
    for split, images in (("train", 20), ("test", 6)):
        for name, colour in (("blue sky", (40, 80, 200)), ("grün", (60, 160, 50))):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = np.clip(np.array(colour) + generator.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"
