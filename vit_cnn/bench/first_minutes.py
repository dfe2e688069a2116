"""The first minutes on a new GPU, a step a command: ``python -m vit_cnn.bench.first_minutes environment``.

Then ``plain``, ``captured``, ``profile`` and ``augmentation``; digits are enough. Each step prints as it goes, so that
a time limit loses nothing, and ends with exit code 1 where something is wrong (``environment`` only tells). After them:
the tests (``python -m pytest tests -k "cuda or captured" -p no:xdist``) and ``vit_cnn.bench.goals``.
"""

import argparse
import contextlib
import functools
import importlib
import itertools
import platform
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from vit_cnn.bench.measure import in_rounds
from vit_cnn.config import composed
from vit_cnn.config.schema import Recipe
from vit_cnn.data import Dataset
from vit_cnn.errors import Failed, exit_with_code
from vit_cnn.machine import precision_of, versions
from vit_cnn.processes.together import own_device
from vit_cnn.run.reading import read_rows
from vit_cnn.training.augment import Augmentation
from vit_cnn.training.batches import Batches
from vit_cnn.training.cuda_graph import Captured
from vit_cnn.training.loop import compiled, train
from vit_cnn.training.optim import set_learning_rate
from vit_cnn.training.precision import autocast_for, use_whole_fp32
from vit_cnn.training.state import build_state
from vit_cnn.training.step import training_step

NETWORKS = ("cnn", "vit")
SMALL = ["data=digits", "recipe=modern", "wandb.mode=disabled", "trainer.log_every=1"]
PLAIN, WARM_UP, PROFILED = 10, 5, 20  # steps; the last plain ones get batches of a second group, on a GPU
BLOCK, ROUNDS = 300, 5  # steps between two looks at the clock, and how often
WITHOUT = ["recipe.augment.flip=false", "recipe.augment.crop_padding=0", "recipe.augment.policy=null",
           "recipe.augment.erasing_probability=0", "recipe.mixing.probability=0", "recipe.ema_decay=null"]  # fmt: skip


def environment(_: list[str]) -> None:
    """What is installed, what Triton needs for compiling, what the device is."""
    for name in ("torch", "torchvision", "triton", "vit_cnn.training.loop"):
        print(f"import {name}: {'fails' if failed(importlib.import_module, name) else 'works'}")
    print("versions:", versions(), "glibc", platform.libc_ver()[1])
    compiler = shutil.which("gcc") or shutil.which("cc")
    print("C compiler:", compiler or "none: torch.compile will not work")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    print("Python.h:", header if header.exists() else "none: torch.compile will not work")
    print("CUDA:", torch.version.cuda, "cuDNN:", torch.backends.cudnn.version())
    print("cuDNN's attention:", "on" if torch.backends.cuda.cudnn_sdp_enabled() else "off")
    if shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi"])


def plain(overrides: list[str]) -> None:
    """Ten plain steps of each network; from the second on, neither they nor their batches may wait for the device."""
    for model in NETWORKS:
        losses = []
        for number, loss in enumerate(steps(small(model, "recipe=strong", *overrides), PLAIN)):
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("error" if number < PLAIN - 1 else "default")
            losses.append(loss)
        print(f"{model}: losses {[round(loss[0].item(), 4) for loss in losses]}")


def captured(overrides: list[str]) -> None:
    """Twenty captured steps of each network in fp32 against plain ones.

    Raises:
        Failed: the losses differ by more than a thousandth in the first ten steps, before rounding has grown.
    """
    torch.backends.cudnn.deterministic = True  # else two plain trainings of a CNN differ by as much as that
    for model in NETWORKS:
        losses = {}
        for graph in ("false", "true"):
            cfg = small(model, "trainer.precision=fp32", f"trainer.cuda_graph={graph}", *overrides)
            losses[graph] = [loss[0].item() for loss in steps(cfg, 20)]
        off = max(abs(a / b - 1) for a, b in zip(losses["true"][:10], losses["false"][:10], strict=True))
        print(
            f"{model}: captured {losses['true'][-1]:.4f}, plain {losses['false'][-1]:.4f}, largest difference {off:.1e}"
        )
        if off > 1e-3:
            raise Failed(f"{model}: a captured step does not learn what a plain one learns: {losses}")


def profile(overrides: list[str]) -> None:
    """Milliseconds of a step compiled and captured, seconds of compiling, and where the time goes, for later limits."""
    for model in NETWORKS:
        fast = ["trainer.compile=true", "trainer.cuda_graph=true"] if torch.cuda.is_available() else []
        cfg = small(model, *fast, "recipe.epochs=1000", "max_steps=1500", "trainer.log_every=null", *overrides)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            train(cfg, Path(folder) / "run")
            whole = time.perf_counter() - started
            rows = [row for row in read_rows(Path(folder) / "run") if "images_per_second" in row]
        ms = statistics.median(1000 * cfg.recipe.batch_size / row["images_per_second"] for row in rows)
        print(f"{model}: {ms:.3f} ms a step, {whole - rows[-1]['step'] * ms / 1000:.1f} s of everything else")
        stepping = steps(small(model, *fast[:1], *overrides), WARM_UP + PROFILED)  # a graph hides its kernels
        for _ in range(WARM_UP):
            next(stepping)
        with torch.profiler.profile() as profiler:
            for _ in stepping:
                pass
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        print(profiler.key_averages().table(sort_by=by, row_limit=15))


def augmentation(overrides: list[str]) -> None:
    """Milliseconds of a step with and without what ``strong`` does to images and weights: blocks of steps, in turn."""
    fast = ["trainer.compile=true", "trainer.cuda_graph=true"] if torch.cuda.is_available() else []
    for model in NETWORKS:
        blocks = {}
        for name, changed in {"without": WITHOUT, "with": []}.items():
            cfg = small(model, *fast, "recipe=strong", *changed, *overrides)
            stepping = steps(cfg, BLOCK * (1 + ROUNDS))
            blocks[name] = lambda stepping=stepping: [next(stepping) for _ in range(BLOCK)]
        times = in_rounds(blocks, rounds=ROUNDS, warm_up=1)
        ms = {name: 1000 * statistics.median(seconds) / BLOCK for name, seconds in times.items()}
        share = statistics.median(more / less for less, more in zip(times["without"], times["with"], strict=True)) - 1
        print(
            f"{model}: {ms['without']:.3f} ms a step, with strong's augmentation and EMA {ms['with']:.3f}: {share:+.1%}"
        )


def small(model: str, *overrides: str) -> DictConfig:
    return composed(f"model={model}", *SMALL, *overrides)


def steps(cfg: DictConfig, number: int) -> Iterator[torch.Tensor]:
    """Loss, accuracy and gradient norm of training steps, one after another, on the device."""
    use_whole_fp32()
    device = own_device(cfg.trainer.device)
    data: Dataset = instantiate(cfg.data).to(device)
    state = build_state(cfg, None, Path())
    state.model(data.train.images[:1].float())  # eagerly, before anything is captured
    recipe = cast(Recipe, OmegaConf.to_object(cfg.recipe))
    autocast = autocast_for(device, precision_of(cfg.trainer.precision))
    forward = compiled(state.model) if cfg.trainer.compile else state.model
    batches = Batches(Augmentation(recipe, data=data, seed=cfg.seed, compiled=cfg.trainer.compile))
    step = functools.partial(training_step, state=state, forward=forward, recipe=recipe, autocast=autocast)
    learn = Captured(step) if cfg.trainer.cuda_graph else step
    set_learning_rate(state.optimizer, cfg.recipe.optimizer.lr)
    state.model.train()
    endless = itertools.chain.from_iterable(map(batches.of_epoch, itertools.count()))
    for batch in itertools.islice(endless, number):
        loss = learn(*batch)
        if state.average:
            state.average.update()
        yield loss


def failed(call: Callable[[str], object], argument: str) -> bool:
    with contextlib.suppress(ImportError):
        call(argument)
        return False
    return True


STEPS = {step.__name__: step for step in (environment, plain, captured, profile, augmentation)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vit_cnn.bench.first_minutes", description=__doc__)
    parser.add_argument("step", choices=STEPS, help="which")
    parser.add_argument("overrides", nargs="*", help="of the config, such as trainer=cpu")
    arguments = parser.parse_args()
    STEPS[arguments.step](arguments.overrides)


if __name__ == "__main__":
    exit_with_code(main)
