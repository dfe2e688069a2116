"""CIFAR-10 (JPEG), where VIT_CNN_DATA names the folder that holds it."""

import os
from pathlib import Path

import pytest
import torch
from helpers import composed
from hydra.utils import instantiate

from vit_cnn.data import Dataset
from vit_cnn.run.trained import load_run
from vit_cnn.training.loop import train

SHIPPED = Path(__file__).parent.parent / "experiments" / "deck" / "cnn"
IMAGES = Path(os.environ.get("VIT_CNN_DATA", "data")).absolute() / "cifar10-jpeg"
pytestmark = pytest.mark.skipif(
    not (IMAGES / "train").is_dir(), reason="VIT_CNN_DATA names no folder with cifar10-jpeg/{train,test}/<class>/*.jpg"
)


def test_all_images_are_read_split_and_trained_on() -> None:
    root = f"data.root={IMAGES}"
    data: Dataset = instantiate(composed("data=cifar10_jpeg", root, "trainer=cpu").data)
    assert (data.name, len(data.classes)) == ("CIFAR-10 (JPEG)", 10)
    assert (len(data.train), len(data.val), len(data.test)) == (45_000, 5_000, 10_000)
    assert torch.bincount(data.train.labels).tolist() == [4500] * 10
    # CIFAR-10's well-known statistics; JPEG moves them by less than this.
    torch.testing.assert_close(data.mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01, rtol=0)
    torch.testing.assert_close(data.std, torch.tensor([0.2470, 0.2435, 0.2616]), atol=0.01, rtol=0)

    Path("run").mkdir()
    cfg = composed("model=cnn", "data=cifar10_jpeg", root, "data.max_images=500", "recipe=modern", "recipe.epochs=3",
                   "recipe.batch_size=25", "recipe.schedule.warmup_epochs=1", "trainer=cpu")  # fmt: skip
    result = train(cfg, Path("run"))
    assert result["data"]["name"] == "CIFAR-10 (JPEG)"
    assert result["test/acc"] > 0.25  # ten classes, 500 images: far from good, and far from chance


@torch.no_grad()
def test_the_shipped_cnn_knows_images_that_it_was_not_trained_on() -> None:
    run = load_run(SHIPPED)
    files = [file for name in run.classes for file in sorted((IMAGES / "test" / name).iterdir())[:20]]
    guesses = run.model(run.preprocess([str(file) for file in files])).argmax(dim=1)
    right = sum(run.classes[guess] == file.parent.name for guess, file in zip(guesses, files, strict=True))
    assert right > 150  # of 200; 87.8 % on all test images before their compression
