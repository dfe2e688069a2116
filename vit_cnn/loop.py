"""THE training loop: one function, from config to ``result.json``, to be read from top to bottom.

Free of Hydra's globals: tests and notebooks call ``train(cfg, run_dir)`` as the command line does.
"""

import dataclasses
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from vit_cnn import checkpoint
from vit_cnn.augment import augment
from vit_cnn.cuda_graph import Captured
from vit_cnn.data import Dataset, normalise, seeded, shuffled
from vit_cnn.display import RunDisplay, console, print_results, share_console_with_logging
from vit_cnn.environment import (
    device_name,
    git_state,
    keep_freed_memory,
    peak_flops,
    peak_memory_bytes,
    versions,
)
from vit_cnn.errors import Failed, Refused, Stopped
from vit_cnn.evaluate import autocast_for, logits_of, precision_of, score
from vit_cnn.media import Media
from vit_cnn.optim import build_optimizer, learning_rate, set_learning_rate
from vit_cnn.stop import StopSignal
from vit_cnn.summary import count, flops_per_image, size_table
from vit_cnn.tracking import Tracker

log = logging.getLogger(__name__)

SAVE_EVERY = 5.0  # seconds: where an epoch is shorter than that, not each of them is followed by a checkpoint


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: training steps done.
        seconds: wall-clock seconds so far; the pause between a stop and its resume does not count.
        seconds_train: of these, seconds in training steps.
        best_step, best_acc, best_loss: the best epoch so far, by validation accuracy, and by loss where that is equal.
        logged_step, logged_seconds: ``step`` and ``seconds_train`` when training metrics were last logged.
    """

    step: int = 0
    seconds: float = 0.0
    seconds_train: float = 0.0
    best_step: int = 0
    best_acc: float = -1.0
    best_loss: float = math.inf
    logged_step: int = 0
    logged_seconds: float = 0.0


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train as ``cfg`` says, or go on from ``run_dir/last.pt`` where there is one.

    Args:
        cfg: checked by ``config.check``.
        run_dir: run folder; ``README.md`` lists its files.

    Returns:
        What ``result.json`` holds.

    Raises:
        Refused: the data or the checkpoint cannot be used; nothing was started.
        Failed: the loss became infinite or nan, or the disk is full.
        Stopped: Ctrl-C or SIGTERM; ``last.pt`` holds the state to go on from.
    """
    share_console_with_logging()
    recipe, device = cfg.recipe, torch.device(cfg.trainer.device)
    last, best, result_file = (run_dir / name for name in ("last.pt", "best.pt", "result.json"))

    # Everything that can be refused, before there is a run.
    saved = checkpoint.load(last) if last.exists() else None
    progress = Progress(**saved["progress"]) if saved else Progress()
    data: Dataset = instantiate(cfg.data).to(device)
    steps_per_epoch = len(data.train) // recipe.batch_size
    if steps_per_epoch == 0:
        raise Refused(f"recipe.batch_size={recipe.batch_size} is above the {len(data.train)} training images")
    last_step = min(recipe.epochs * steps_per_epoch, cfg.max_steps or math.inf)
    if progress.step > last_step:
        trained = progress.step / steps_per_epoch
        raise Refused(f"recipe.epochs={recipe.epochs} is below the {trained:g} epochs that {run_dir} has trained")
    if result_file.exists() and progress.step == last_step:
        log.info("%s is finished; nothing to do. A larger recipe.epochs trains it further.", run_dir)
        print_results([result := checkpoint.read_json(result_file)])
        return result
    if saved and saved["fingerprint"] != data.fingerprint:
        raise Refused(f"{run_dir} was trained on other images or another split than {data.name} has now")

    if cfg.trainer.keep_freed_memory:
        keep_freed_memory()
    torch.manual_seed(cfg.seed)
    torch.backends.cudnn.benchmark = True  # sizes do not change: let cuDNN try which of its algorithms is quickest
    layout = torch.channels_last if cfg.trainer.channels_last else torch.contiguous_format
    model = instantiate(cfg.model).to(device, memory_format=layout)
    optimizer = build_optimizer(model, recipe.optimizer, saved and saved["optimizer"])
    precision = precision_of(cfg.trainer)
    autocast = autocast_for(device, precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    window: list[Tensor] = []  # loss, accuracy, gradient norm of each step since the last line of metrics
    if saved:
        checkpoint.load_weights(model, saved["model"], last)
        scaler.load_state_dict(saved["scaler"])
        checkpoint.set_rng_state(saved["rng"], device)
        window = list(saved["window"].to(device))

    forward = torch.compile(model) if cfg.trainer.compile else model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    generator = torch.Generator(device)  # of the augmentation; seeded for each step

    def training_batch(chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The training images at the positions ``chosen`` as the network sees them, and their labels."""
        images = normalise(data.train.images[chosen], data.mean, data.std)
        return augment(images, recipe.augment, generator), data.train.labels[chosen]

    def training_step(chosen: Tensor) -> Tensor:
        """Learn from the training images at the positions ``chosen``; loss, accuracy and gradient norm."""
        images, labels = training_batch(chosen)
        with autocast:
            logits = forward(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        grad_norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if recipe.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, recipe.grad_clip, grad_norm)
        scaler.step(optimizer)
        scaler.update()
        return measure(logits, labels, grad_norm)

    step = Captured(training_step, generator=generator) if cfg.trainer.cuda_graph else training_step

    def save_last() -> None:
        progress.seconds = tracker.seconds
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "rng": checkpoint.rng_state(device),
            "window": torch.stack(window).cpu() if window else torch.empty(0),
            "progress": dataclasses.asdict(progress),
            "wandb_id": tracker.wandb.id,
            "fingerprint": data.fingerprint,
        }
        checkpoint.save(last, state)

    # From here on there is a run.
    (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, run_dir / ".hydra" / "config.yaml")
    result_file.unlink(missing_ok=True)  # its presence means that the run has finished
    flops, peak = flops_per_image(model, data.train.images[:1].float()), peak_flops(device, autocast)
    example = normalise(data.train.images[: recipe.batch_size], data.mean, data.std)
    console.print(size_table(model, example, every_layer=cfg.layers))
    counts = f"{len(data.train)} training, {len(data.val)} validation, {len(data.test)} test images"
    log.info("%s: %s", data.name, counts)
    if data.skipped:
        (run_dir / "skipped.txt").write_text("\n".join(data.skipped) + "\n")
        log.warning("%d files cannot be read and are left out: %s", len(data.skipped), run_dir / "skipped.txt")
    network = f"{type(model).__name__} on {device_name(device)}, {precision}"
    log.info("%s; %d steps; run folder %s", network, last_step, run_dir)

    display = RunDisplay(
        total_steps=last_step, steps_per_epoch=steps_per_epoch, epochs=recipe.epochs, step=progress.step
    )
    wandb_id = saved["wandb_id"] if saved else None
    tracker = Tracker(
        cfg=cfg, run_dir=run_dir, display=display, step=progress.step, seconds=progress.seconds, wandb_id=wandb_id
    )
    log_every = cfg.trainer.log_every or steps_per_epoch
    media = Media(wandb=tracker.wandb, switches=cfg.wandb.media, data=data)

    with tracker, StopSignal(run_dir) as stop:
        if not saved:
            save_last()  # so that a kill at any moment leaves something to resume, and a full disk shows now
        while progress.step < last_step:
            epoch, first = divmod(progress.step, steps_per_epoch)
            model.train()
            started = time.perf_counter() - progress.seconds_train
            for batch, chosen in shuffled(
                data.train, batch_size=recipe.batch_size, seed=cfg.seed, epoch=epoch, first=first
            ):
                lr = learning_rate(progress.step, recipe=recipe, steps_per_epoch=steps_per_epoch)
                set_learning_rate(optimizer, lr)
                seeded(generator, cfg.seed, epoch, batch)
                window.append(step(chosen))
                progress.step += 1
                display.step(progress.step)
                if progress.step == 1:
                    seeded(generator, cfg.seed, epoch, batch)
                    media.inputs(training_batch(chosen)[0])
                if progress.step % log_every == 0:
                    metrics = means(window, progress.step)
                    progress.seconds_train = time.perf_counter() - started
                    images_seen = (progress.step - progress.logged_step) * recipe.batch_size
                    rate = images_seen / (progress.seconds_train - progress.logged_seconds)
                    metrics |= {"lr": lr, "images_per_second": rate, "memory_bytes": peak_memory_bytes(device)}
                    metrics |= {"flops_per_second": 3 * flops * rate, "share_of_peak": 3 * flops * rate / peak}
                    metrics["param_norm"] = torch.nn.utils.get_total_norm(parameters).item()
                    tracker.log(progress.step, epoch=progress.step / steps_per_epoch, **metrics)
                    display.train_metrics(progress.step, metrics)
                    progress.logged_step, progress.logged_seconds = progress.step, progress.seconds_train
                    window.clear()
                if stop.requested or progress.step == last_step:
                    break
            means(window, progress.step)  # a loss that is not finite must not reach a checkpoint
            progress.seconds_train = time.perf_counter() - started

            if progress.step % steps_per_epoch == 0 or progress.step == last_step:
                val = score(logits_of(model, data.val, data, autocast), data.val.labels)
                is_best = (val["acc"], -val["loss"]) > (progress.best_acc, -progress.best_loss)
                metrics = {"val/loss": val["loss"], "val/acc": val["acc"]}
                epochs_done, is_last = progress.step / steps_per_epoch, progress.step == last_step
                tracker.log(progress.step, epoch=epochs_done, **metrics)
                display.val_metrics(epochs_done, metrics, is_best=is_best)
                media.inside(model, step=progress.step, epoch=epochs_done, is_last=is_last)
                if is_best:
                    progress.best_step, progress.best_acc, progress.best_loss = progress.step, val["acc"], val["loss"]
                    about = {"step": progress.step, "classes": data.classes, "fingerprint": data.fingerprint}
                    checkpoint.save(best, {"model": model.state_dict(), "mean": data.mean, "std": data.std, **about})
            if stop.requested or progress.step == last_step or tracker.seconds - progress.seconds > SAVE_EVERY:
                save_last()
            if stop.requested:
                raise Stopped(f"Stopped at step {progress.step} of {last_step}. To go on: resume={run_dir}")

        # One pass of the best weights over clean images; the test images are looked at here and nowhere else.
        checkpoint.load_weights(model, checkpoint.load(best)["model"], best)
        scores: dict[str, float] = {}
        predictions: dict[str, Any] = {}
        for name, split in {"train": data.train, "val": data.val, "test": data.test}.items():
            logits = logits_of(model, split, data, autocast)
            scores |= {f"{name}/{key}": value for key, value in score(logits, split.labels).items()}
            if name == "val":
                media.predictions(logits, step=progress.step)
            if name != "train":
                arrays = {"logits": logits, "labels": split.labels, "indices": split.indices}
                predictions |= {f"{name}_{key}": array.cpu().numpy() for key, array in arrays.items()}
            if stop.requested:
                raise Stopped(f"Stopped before the end of the final evaluation. To go on: resume={run_dir}")
        checkpoint.write_atomically(run_dir / "predictions.npz", lambda file: np.savez(file, **predictions))
        rate = progress.step * recipe.batch_size / progress.seconds_train
        result = {
            "model": type(model).__name__,
            "params": count(model),
            "flops_per_image": flops,
            "epochs": progress.step / steps_per_epoch,
            "steps": progress.step,
            "seed": cfg.seed,
            **scores,
            "best_epoch": progress.best_step / steps_per_epoch,
            "seconds_train": progress.seconds_train,
            "images_per_second": rate,
            "flops_per_second": 3 * flops * rate,  # a training step takes about three forward passes
            "share_of_peak": 3 * flops * rate / peak,  # the peak is that of a large matrix product
            "peak_memory_bytes": peak_memory_bytes(device),
            "device": device_name(device),
            "precision": precision,
            "data": data.describe(),
            "versions": versions(),
            "git": git_state(),
            "config": OmegaConf.to_container(cfg),
            "wandb": {"id": tracker.wandb.id, "mode": tracker.wandb.mode},
            "status": "finished",
        }
        tracker.wandb.summary(scores)
        checkpoint.write_json(result_file, result)  # last, since its presence means that the run has finished
    print_results([result])
    return result


@torch.no_grad()
def measure(logits: Tensor, labels: Tensor, grad_norm: Tensor) -> Tensor:
    """Plain cross-entropy, accuracy and gradient norm as [3], on the device: reading them would wait for it."""
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return torch.stack([F.cross_entropy(logits.float(), labels), accuracy, grad_norm.float()])


def means(window: list[Tensor], step: int) -> dict[str, float]:
    """Means over the steps of ``window``, the last of which is ``step``.

    Raises:
        Failed: a loss is infinite or nan; names its step.
    """
    if not window:
        return {}
    rows = torch.stack(window).cpu().double()
    bad = (~rows[:, 0].isfinite()).nonzero()
    if len(bad):
        first = step - len(window) + 1 + int(bad[0])
        raise Failed(
            f"the loss is {rows[bad[0, 0], 0]:g} at step {first}; last.pt and best.pt hold the last good weights. "
            "Try a lower recipe.optimizer.lr, a longer warm-up or recipe.grad_clip=1"
        )
    return dict(zip(("train/loss", "train/acc", "grad_norm"), rows.mean(dim=0).tolist(), strict=True))
