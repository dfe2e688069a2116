"""One training over several processes is the training of one: its figures, its files, and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import composed, metrics, weights

from vit_cnn.training.loop import train

HERE = Path(__file__).parent

SMALL = [
    "data=digits", "data.max_images=170", "recipe=strong", "recipe.batch_size=24", "recipe.epochs=5",
    "recipe.schedule.warmup_epochs=1", "trainer=cpu", "trainer.log_every=1", "seed=3",
    "max_steps=30", "recipe.optimizer.lr=3e-3",
]  # fmt: skip
VIT = [
    *SMALL, "model=vit", "model.patch_size=8", "model.embed_dim=32", "model.hidden_dim=32", "model.num_heads=2",
    "model.num_layers=2", "model.dropout=0", "model.stochastic_depth=0",
]  # fmt: skip
CNN = [*SMALL, "model=cnn", "data.image_size=8"]


def torchrun(*words: str, processes: int = 2, options: list[str] | None = None, **environment: str) -> Any:
    """Run a command in several processes on this machine."""
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*call, *(options or []), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}:{HERE}"} | environment,
    )


def curve(folder: str, key: str) -> list[float]:
    return [line[key] for line in metrics(folder) if key in line]


def test_two_processes_train_what_one_trains() -> None:
    """The same losses at each of 30 steps, with all that the strong recipe does to images; the same weights after."""
    cases = {
        "vit": VIT,
        "cnn": CNN,
        "alone": [*CNN, "trainer.sync_batchnorm=false"],
        "averaged": [*VIT, "recipe.ema_decay=0.9", "recipe.grad_clip=0.5", "recipe.augment.flip=alternating"],
    }
    for name, overrides in cases.items():
        for folder in (Path("one", name), Path("two", name)):
            folder.mkdir(parents=True)
        Path("two", name, "overrides.json").write_text(json.dumps(overrides))
    ended = torchrun(str(HERE / "several.py"), *(f"two/{name}" for name in cases))
    assert ended.returncode == 0, ended.stderr
    assert not [path for path in Path("of_others").rglob("*") if path.is_file()]

    apart = {}
    for name, overrides in cases.items():
        one, two = f"one/{name}", f"two/{name}"
        result = train(composed(*overrides), Path(one))
        assert result["steps"] == 30
        assert result["processes"] == 1
        apart[name] = max(
            abs(ours - theirs) / theirs
            for key in ("train/loss", "grad_norm", "val/loss")
            for ours, theirs in zip(curve(two, key), curve(one, key), strict=True)
        )
        assert json.loads(Path(two, "result.json").read_text())["processes"] == 2
    print(apart)
    assert max(apart["vit"], apart["cnn"], apart["averaged"]) < 1e-3, apart
    assert apart["alone"] > 1e-2, "batch norm over a share must be noticed"
