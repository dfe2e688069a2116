"""Measure a trained network: ``python -m vit_cnn.evaluate run=runs/… split=test``.

Uses the best weights, on clean images, as the end of a training run does, and reproduces its ``result.json``.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf
from rich import box
from rich.table import Table
from torch import Tensor, nn

from vit_cnn import checkpoint, config
from vit_cnn.data import Dataset, Split, normalise
from vit_cnn.display import console
from vit_cnn.errors import Refused, exit_with_code

# Of images in evaluation: larger ones are slower on a CPU, smaller ones on a GPU; fixed ones give the same bits.
BATCH_SIZE = {"cpu": 250, "cuda": 1000, "mps": 250}


def precision_of(trainer: config.Trainer) -> str:
    """``trainer.precision``, with ``amp`` resolved to what the GPU has."""
    if trainer.precision == "amp":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return trainer.precision


def autocast_for(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision as a context that can be entered again and again; does nothing for fp32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


@torch.no_grad()
def logits_of(
    model: nn.Module, split: Split, data: Dataset, autocast: contextlib.AbstractContextManager[object]
) -> Tensor:
    """Logits float32 [n, classes] for the clean images of a split, on their device."""
    was_training = model.training
    model.eval()
    logits = []
    for images in split.images.split(BATCH_SIZE[split.images.device.type]):
        with autocast:
            logits.append(model(normalise(images, data.mean, data.std)).float())
    model.train(was_training)
    return torch.cat(logits)


def score(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy (a fraction) and plain cross-entropy of logits [n, classes]."""
    return {
        "acc": (logits.argmax(dim=1) == labels).double().mean().item(),
        "loss": F.cross_entropy(logits.double(), labels).item(),
    }


@dataclasses.dataclass
class Command:
    run: str = MISSING  # run folder
    split: str = "test"  # train, val or test
    device: str = "auto"  # auto: where the run was trained if that device is here, else cpu


def main() -> None:
    command = config.typed(Command, dict(OmegaConf.from_dotlist(sys.argv[1:])), prefix="")
    if command.split not in ("train", "val", "test"):
        raise Refused(f"split={command.split} must be one of train, val, test")
    run_dir = Path(command.run)
    cfg = load_config(run_dir, device=command.device)
    weights = checkpoint.load(run_dir / "best.pt")
    device = torch.device(cfg.trainer.device)
    data: Dataset = instantiate(cfg.data).to(device)
    if weights["fingerprint"] != data.fingerprint:
        raise Refused(
            f"{run_dir} was trained on other images or another split: {weights['fingerprint']}, now {data.fingerprint}"
        )
    model = instantiate(cfg.model).to(device)
    checkpoint.load_weights(model, weights["model"], run_dir / "best.pt")

    split: Split = getattr(data, command.split)
    autocast = autocast_for(device, precision_of(cfg.trainer))
    measured = score(logits_of(model, split, data, autocast), split.labels)

    result_file = run_dir / "result.json"
    recorded = checkpoint.read_json(result_file) if result_file.exists() else {}
    table = Table(
        title=f"{type(model).__name__} on {data.name}, {len(split):,} {command.split} images", box=box.SIMPLE_HEAD
    )
    for heading in ("", "now", "result.json"):
        table.add_column(heading, justify="right")
    for key, name in (("acc", "accuracy"), ("loss", "loss")):
        old = recorded.get(f"{command.split}/{key}")
        table.add_row(name, f"{measured[key]:.6f}", "–" if old is None else f"{old:.6f}")
    console.print(table)


def load_config(run_dir: Path, *, device: str) -> DictConfig:
    """The config of a run, its trainer moved to ``device``; ``auto`` is where it was trained, or else the CPU.

    Raises:
        Refused: it is not a run folder, or there is no such device.
    """
    path = run_dir / ".hydra" / "config.yaml"
    if not path.is_file():
        raise Refused(f"run={run_dir} is not a run folder: it has no .hydra/config.yaml")
    cfg = OmegaConf.load(path)
    assert isinstance(cfg, DictConfig)
    if device == "auto":
        trained_on = torch.device(cfg.trainer.device).type
        is_here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(trained_on, True)
        device = cfg.trainer.device if is_here else "cpu"
    if torch.device(device).type != torch.device(cfg.trainer.device).type:
        cfg.trainer.precision = "fp32"
    cfg.trainer.device = device
    config.check_device(cfg)
    return cfg


if __name__ == "__main__":
    exit_with_code(main)
