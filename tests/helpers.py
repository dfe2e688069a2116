"""A run small enough for a second, and what it left behind."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vit_cnn.config import composed
from vit_cnn.config.schema import Recipe
from vit_cnn.errors import exit_with_code
from vit_cnn.training import loop
from vit_cnn.training.augment import Augmentation, Batch
from vit_cnn.training.batches import Batches

# What differs between equal runs.
TIMES = {"seconds", "images_per_second", "flops_per_second", "share_of_peak", "memory_bytes"}

TINY = [
    "data=digits", "data.max_images=160", "recipe.epochs=2", "recipe.batch_size=30", "trainer=cpu",
    "trainer.log_every=2", "model.patch_size=8", "model.embed_dim=32", "model.hidden_dim=32", "model.num_heads=2",
    "model.num_layers=2", "recipe.optimizer.lr=3e-3", "seed=3",
]  # fmt: skip


def run(folder: str, *overrides: str) -> dict[str, Any]:
    Path(folder).mkdir(exist_ok=True)
    return loop.train(composed(*TINY, *overrides), Path(folder))


def augmentation_of(*overrides: str, seed: int = 3) -> Augmentation:
    """The augmentation of a command line, over a few digits."""
    cfg = composed("data=digits", "data.max_images=160", "recipe.batch_size=30", "trainer=cpu", *overrides)
    recipe = cast(Recipe, OmegaConf.to_object(cfg.recipe))
    return Augmentation(recipe, data=instantiate(cfg.data), seed=seed)


def one_batch(augmentation: Augmentation, chosen: torch.Tensor, *, epoch: int = 0, batch: int = 0) -> Batch:
    """The training images at these positions, as they are in a batch or as if they were."""
    return next(Batches(augmentation).make([(batch, chosen)], epoch=epoch))


def metrics(folder: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def weights(folder: str, name: str = "last.pt") -> dict[str, torch.Tensor]:
    return torch.load(Path(folder) / name, weights_only=True)["model"]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, *, times: int = 1, number: int = signal.SIGINT) -> None:
    """Send this process SIGINT, or another signal, ``times`` times while it does training step ``step``."""
    learning_rate = loop.learning_rate

    def interrupting(done: int, **options: Any) -> float:
        for _ in range(times if done + 1 == step else 0):
            signal.raise_signal(number)
        return learning_rate(done, **options)

    monkeypatch.setattr(loop, "learning_rate", interrupting)


def wandb_records(folder: Path) -> list[dict[str, Any]]:
    """What an offline run holds, read back by W&B's own tool."""
    call = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(call, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["history"] for record in records if record["type"] == "history"]


def wandb_history() -> list[dict[str, Any]]:
    """What was logged, by step, in the only offline run here."""
    (folder,) = Path("wandb").glob("offline-run-*")
    return [entry["item"] for entry in history(wandb_records(folder))]


def call(
    main: Callable[[], None], arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Run a command in this process: exit code and what it printed."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        exit_with_code(main)
    printed = capfd.readouterr()
    return int(end.value.code or 0), printed.out + printed.err
