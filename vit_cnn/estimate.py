"""How long will it take here? ``vit-cnn estimate experiment=patch_dropout``, or any overrides of a training.

Times a few training steps and evaluation batches of each job on random images.
"""

import argparse
import functools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.progress import track
from rich.prompt import Confirm
from rich.table import Table
from torch import Tensor

from vit_cnn import config
from vit_cnn.config.grid import constant_keys, jobs_of, overrides_of, params_of, without
from vit_cnn.config.schema import Recipe
from vit_cnn.console import console
from vit_cnn.data import Dataset
from vit_cnn.errors import Refused, exit_with_code, for_child
from vit_cnn.machine import device_name, keep_freed_memory, precision_of
from vit_cnn.processes.together import own_device
from vit_cnn.run.display import duration
from vit_cnn.training.cuda_graph import Captured
from vit_cnn.training.loop import compiled
from vit_cnn.training.precision import autocast_for, use_whole_fp32
from vit_cnn.training.scoring import BATCH_SIZE
from vit_cnn.training.state import build_state
from vit_cnn.training.step import training_step

STEPS = 3  # timed, after those that warm up
LONG = 3600  # seconds of work before which --train asks


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn estimate",
        epilog="example: vit-cnn estimate experiment=patch_dropout recipe.epochs=20",
        description="How long a training or a sweep takes: times a few steps of each job on random images",
    )
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="whatever a training or a sweep takes")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="a folder of YAML files of your own")
    parser.add_argument("--train", action="store_true", help="train then; more than an hour of work is asked about")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_intermixed_args()
    folder = arguments.config_dir
    seconds = estimate([*arguments.overrides, *config.searchpath(folder, arguments.overrides)])
    if not arguments.train:
        return
    if seconds > LONG and not arguments.yes and sys.stdin.isatty() and console.is_terminal and not is_wanted():
        console.print("Nothing was started.")
        return
    given = ["--config-dir", str(folder)] if folder else []
    if any(each.is_sweep_override() for each in overrides_of(None, arguments.overrides)):
        given = ["-m", *given]
    os.execve(sys.executable, [sys.executable, "-m", "vit_cnn.train", *given, *arguments.overrides], for_child())


def is_wanted() -> bool:
    try:
        return Confirm.ask("Start now?", console=console, default=False)
    except EOFError:
        return False


def estimate(overrides: list[str]) -> float:
    """Print how long each job of a command line will take; returns the seconds of all."""
    datasets: dict[str, Dataset] = {}
    speeds: dict[str, tuple[float, float]] = {}
    total = 0.0
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("job", overflow="fold")
    for heading in ("epochs", "steps", "a step", "in all"):
        table.add_column(heading, justify="right")
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        jobs = jobs_in(overrides)
        timing = "Timing a few steps of each job"
        for name in track(jobs, timing, console=console, transient=True, disable=not console.is_terminal):
            cfg = config.check(compose("config", overrides=jobs[name]))
            if cfg.resume:
                raise Refused("resume= goes on with one run, and estimate is for new ones: leave it out")
            if str(cfg.data) not in datasets:
                datasets[str(cfg.data)] = instantiate(cfg.data)
            data = datasets[str(cfg.data)]
            sizes = (cfg.recipe.batch_size, cfg.data.image_size, cfg.data.num_channels)
            key = str((cfg.model, cfg.trainer, cfg.init, cfg.recipe.freeze_blocks, cfg.recipe.optimizer.name, *sizes))
            if key not in speeds:
                speeds[key] = measure(cfg)
            step_seconds, eval_seconds = speeds[key]
            steps_per_epoch = max(1, len(data.train) // cfg.recipe.batch_size)
            steps = min(cfg.recipe.epochs * steps_per_epoch, cfg.max_steps or sys.maxsize)
            evaluations = math.ceil(steps / steps_per_epoch)  # after each epoch, also one that max_steps cuts short
            evaluated = evaluations * len(data.val) + len(data.train) + len(data.val) + len(data.test)
            seconds = steps * step_seconds + evaluated * eval_seconds
            total += seconds
            table.add_row(
                name, str(cfg.recipe.epochs), f"{steps:,}", f"{1000 * step_seconds:.0f} ms", duration(seconds)
            )
    console.print(table)
    device = device_name(torch.device(cfg.trainer.device))
    length = f"{total / 3600:.1f} hours" if total > LONG else f"{total / 60:.1f} minutes"
    console.print(f"About {length} of work on {device}; what has finished before is skipped.")
    return total


def jobs_in(command: list[str]) -> dict[str, list[str]]:
    """The jobs of a command line, with what its experiment sweeps: the overrides of each, under what tells it apart."""
    params = params_of(command)
    overrides = overrides_of(params, command)
    constant = constant_keys(params, overrides)
    return {" ".join(without(constant, job) or job): job for job in jobs_of(overrides)}


def measure(cfg: DictConfig) -> tuple[float, float]:
    """Seconds of a training step, and of the evaluation of one image."""
    device = own_device(cfg.trainer.device)
    if cfg.trainer.keep_freed_memory:
        keep_freed_memory()
    use_whole_fp32()
    state = build_state(cfg, None, Path())
    recipe = cast(Recipe, OmegaConf.to_object(cfg.recipe))
    autocast = autocast_for(device, precision_of(cfg.trainer.precision))
    size, channels = cfg.data.image_size, cfg.data.num_channels
    eval_batch = BATCH_SIZE[device.type]
    images = torch.randn(max(cfg.recipe.batch_size, eval_batch), channels, size, size, device=device)
    labels = torch.zeros(cfg.recipe.batch_size, dtype=torch.long, device=device)
    with torch.no_grad():
        state.model.eval()(images[:1])  # eagerly, before anything is captured
    forward = compiled(state.model) if cfg.trainer.compile else state.model
    step = functools.partial(training_step, state=state, forward=forward, recipe=recipe, autocast=autocast)

    @torch.no_grad()
    def evaluate(batch: Tensor) -> Tensor:
        with autocast:
            return forward(batch)

    learn = Captured(step) if cfg.trainer.cuda_graph else step
    batch = (images[: cfg.recipe.batch_size], labels, labels)
    state.begin_training()
    step_seconds = seconds_of(learn, *batch, warm_up=5 if cfg.trainer.cuda_graph else 1)
    state.model.eval()
    return step_seconds, seconds_of(evaluate, images[:eval_batch], warm_up=1) / eval_batch


def seconds_of(work: Callable[..., Tensor], *batch: Tensor, warm_up: int) -> float:
    """Median time of a call, after some that do not count."""
    times = []
    for _ in range(warm_up + STEPS):
        started = time.perf_counter()
        work(*batch)
        if batch[0].device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[warm_up:])


if __name__ == "__main__":
    exit_with_code(main)
