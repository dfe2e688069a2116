"""The end of a run: one pass of the best weights over clean images, the predictions, the result."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from vit_cnn.config.target import network_name
from vit_cnn.data import Dataset
from vit_cnn.errors import Stopped
from vit_cnn.machine import device_name, git_state, peak_memory_bytes, precision_of, versions
from vit_cnn.models.size import count, flops_per_image, flops_per_update
from vit_cnn.processes.together import here
from vit_cnn.run.config import FILE
from vit_cnn.run.files import remove, write_atomically, write_json
from vit_cnn.run.looks import count_looks, note_look
from vit_cnn.run.media import Media
from vit_cnn.run.reading import read_rows
from vit_cnn.run.stop import StopSignal
from vit_cnn.run.wandb_run import WandbRun
from vit_cnn.training.plan import Plan
from vit_cnn.training.scoring import logits_of, score
from vit_cnn.training.speed import Speed
from vit_cnn.training.state import State


def final_pass(
    state: State, data: Dataset, autocast: torch.autocast, *, run_dir: Path, media: Media, stop: StopSignal
) -> dict[str, float]:
    """Score the best weights on every split and keep what they say; the test images are looked at here, nowhere else.

    Writes ``predictions.npz``, and leaves the best weights in ``state.model``.

    Raises:
        Stopped: a stop was asked for meanwhile.
    """
    state.model.load_state_dict(state.best)
    scores: dict[str, float] = {}
    predictions: dict[str, Any] = {}
    for name, split in {"train": data.train.distinct(), "val": data.val, "test": data.test}.items():
        if name == "test":
            note_look(run_dir, by="train")
        logits = logits_of(state.model, split, data, autocast)
        scores |= {f"{name}/{key}": value for key, value in score(logits, split.labels).items()}
        if name == "val":
            media.predictions(logits, step=state.progress.step)
        if name != "train":
            arrays = {"logits": logits, "labels": split.labels, "indices": split.indices}
            predictions |= {f"{name}_{key}": array.cpu().numpy() for key, array in arrays.items()}
        if stop.requested:
            raise Stopped("Stopped before the end of the final evaluation.", stop.command)
    write_atomically(run_dir / "predictions.npz", lambda file: np.savez(file, **predictions))
    return scores


def write_result(
    cfg: DictConfig,
    run_dir: Path,
    *,
    state: State,
    data: Dataset,
    plan: Plan,
    speed: Speed,
    scores: dict[str, float],
    wandb: WandbRun,
) -> dict[str, Any]:
    """Write ``result.json``, last of all files, since its presence means that the run has finished; returns it."""
    progress, device = state.progress, torch.device(cfg.trainer.device)
    # The median over the lines of metrics, so that compiling, a capture or a busy minute do not count.
    rates = [row["images_per_second"] for row in read_rows(run_dir) if row.get("images_per_second")]
    whole_rate = progress.step * cfg.recipe.batch_size / progress.seconds_train
    result = {
        "model": network_name(cfg.model),
        "params": count(state.model),
        "flops_per_image": flops_per_image(state.model, data.train.images[:1].float()),
        "flops_per_training_image": speed.flops_per_image,  # a forward pass too, without the patches that are left out
        "flops_per_update": flops_per_update(state.model, cfg.recipe.optimizer.name),
        "epochs": progress.step / plan.steps_per_epoch,
        "steps": progress.step,
        "seed": cfg.seed,
        **scores,
        "best_epoch": progress.best_step / plan.steps_per_epoch,
        "seconds_train": progress.seconds_train,
        **speed.of(statistics.median(rates) if rates else whole_rate),
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": device_name(device),
        "processes": here.number,
        "precision": precision_of(cfg.trainer.precision),
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "data": data.describe(),
        "versions": versions(),
        "git": git_state(),
        "config": OmegaConf.to_container(cfg),
        "test_looks": count_looks(run_dir),
        "continued": progress.continued,
        "init": progress.init,
        "wandb": {"id": wandb.id, "mode": wandb.mode},
        "status": "finished",
    }
    wandb.summary(scores)
    remove(run_dir / "previous.pt")
    write_json(run_dir / "result.json", result)
    if cfg.wandb.artifacts:
        wandb.upload(f"{cfg.name}-{wandb.id}", "model", [run_dir / name for name in ("best.pt", "result.json", FILE)])
    return result
