"""What W&B gets to see besides curves, and that drawing it changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, composed, metrics, run, wandb_history, weights
from torch import nn

from vit_cnn.models import CNN, ViT, attention_maps
from vit_cnn.run import media, pictures

SWITCHES = ["inputs", "attention", "filters", "confusion", "per_class", "mistakes"]
KEYS = {
    "inputs": "inputs",
    "attention": "attention",
    "filters": "filters",
    "confusion": "val/confusion",
    "per_class": "val/per_class",
    "mistakes": "val/mistakes",
}


def media_steps() -> dict[str, list[int]]:
    """At which steps each picture was logged."""
    found: dict[str, list[int]] = {}
    for line in wandb_history():
        for switch, key in KEYS.items():
            if f"{key}._type" in line or f"{key}_table._type" in line:
                found.setdefault(switch, []).append(int(line["_step"]))
    return found


def test_an_offline_run_holds_pictures_and_tables() -> None:
    run("run", "wandb.mode=offline", "recipe.epochs=5")  # of 5 steps each
    steps = media_steps()
    assert steps["inputs"] == [0]
    assert steps["attention"] == steps["filters"] == [5, 10, 20, 25]  # epochs 1, 2, 4 and the last
    assert steps["confusion"] == steps["per_class"] == steps["mistakes"] == [25]
    files = [path.name for path in Path("wandb").rglob("*.png")]
    assert any(name.startswith("attention_20") for name in files), files


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_has_a_switch(switch: str) -> None:
    run("run", "wandb.mode=offline", "max_steps=1", f"wandb.media.{switch}=false")
    assert media_steps().keys() == set(SWITCHES) - {switch}


def test_the_run_stays_the_same() -> None:
    run("with", "wandb.mode=offline")
    run("without", "wandb.mode=disabled")
    assert metrics("with") == metrics("without")
    ours, theirs = weights("with"), weights("without")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_picture_that_cannot_be_drawn_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no picture")

    monkeypatch.setattr(media, "tile", broken)
    assert run("run", "wandb.mode=offline")["status"] == "finished"
    assert "A picture for W&B is left out: no picture" in caplog.text
    assert "W&B failed" not in caplog.text  # its curves go on


def test_mistakes_are_the_most_confident_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[Any]] = []
    original = media.Media.mistakes

    def spy(self: media.Media, *arguments: torch.Tensor) -> dict[str, Any]:
        drawn = original(self, *arguments)
        shown.extend(drawn["val/mistakes"].data)
        return drawn

    monkeypatch.setattr(media.Media, "mistakes", spy)
    run("run", "wandb.mode=offline", "max_steps=1")
    assert shown
    assert all(truth != prediction for _, truth, prediction, _ in shown)
    confidences = [row[3] for row in shown]
    assert confidences == sorted(confidences, reverse=True)


def test_the_norm_of_the_parameters_and_the_memory_are_recorded() -> None:
    run("run")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "param_norm" in line][-1]
    squares = sum(tensor.double().square().sum() for tensor in weights("run").values())
    assert last["param_norm"] == pytest.approx(squares.sqrt().item(), rel=1e-4)
    assert last["memory_bytes"] > 1e8


def vit(*, image_size: int = 8) -> ViT:
    return ViT(
        image_size=image_size, num_channels=3, num_classes=2, patch_size=4, embed_dim=8, hidden_dim=8, num_heads=2,
        num_layers=3, dropout=0.0, stochastic_depth=0.0, patch_dropout=0.0, embedding_std=1.0, mimetic=False,
    )  # fmt: skip


def test_rollout_follows_attention_through_the_layers() -> None:
    maps = torch.zeros(1, 2, 1, 5, 5)
    maps[:, 0] = maps[:, 1] = torch.eye(5)
    maps[0, 0, 0, 2] = torch.tensor([0, 0, 0, 1.0, 0])  # in layer 1, token 2 looks at token 3 …
    maps[0, 1, 0, 0] = torch.tensor([0, 0, 1.0, 0, 0])  # … and in layer 2, CLS at token 2
    # Half of each step is the residual connection: CLS gets 1/2 of token 2, half of which is token 3 by then.
    assert attention_maps.rollout(maps).tolist() == [[[0.0, 0.25], [0.25, 0.0]]]
    maps = vit().attention_maps(torch.randn(2, 3, 8, 8))
    assert attention_maps.rollout(maps).shape == (2, 2, 2)
    assert (attention_maps.rollout(maps).sum(dim=(1, 2)) < 1).all()  # the rest stayed with CLS
    assert attention_maps.cls_attention(maps).shape == (2, 2, 2, 2)


def test_pictures() -> None:
    images = torch.rand(3, 1, 4, 4)
    mean, std = torch.tensor([0.3]), torch.tensor([0.2])
    restored = pictures.from_normalised((images - 0.3) / 0.2, mean, std)
    assert all((restored[0][:, :, c] == (images[0, 0] * 255).round().numpy()).all() for c in range(3))
    tiled = pictures.tile(restored, columns=2, gap=1)
    assert tiled.shape == (9, 9, 3)
    assert (tiled[5:, 5:] == 255).all()
    assert pictures.enlarge(tiled, 3).shape == (27, 27, 3)
    assert pictures.with_headings(tiled, ["a", "b"]).shape == (9 + pictures.HEADING, 9, 3)
    assert pictures.with_headings(tiled, ["a", "b"])[: pictures.HEADING].min() < 255


@pytest.mark.parametrize("brightness", [0.0, 1.0])
def test_attention_is_seen_on_dark_and_on_bright_pictures(brightness: float) -> None:
    (picture,) = pictures.from_unit(torch.full((1, 3, 8, 8), brightness))
    lit = pictures.spotlight(picture, torch.tensor([[0.0, 0.0], [0.0, 1.0]])).astype(int)
    assert lit[7, 7].max() - lit[0, 0].max() > 120


def test_first_layer_filters() -> None:
    assert len(pictures.first_layer_filters(vit()) or []) == 8
    filters = pictures.first_layer_filters(CNN(image_size=8, num_channels=3, num_classes=2))
    assert filters is not None
    assert (len(filters), filters[0].shape) == (32, (3, 3, 3))
    assert pictures.first_layer_filters(nn.Sequential(nn.Flatten(), nn.Linear(12, 2))) is None


def test_switches_are_checked() -> None:
    with pytest.raises(Exception, match=r"wandb\.media\.filters"):
        composed(*TINY, "wandb.media.filters=sometimes")
