"""Whole epochs and single steps, each called in a process of its own: ours, and the usual loop around others."""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from vit_cnn.bench import peers
from vit_cnn.bench.contenders import Contenders
from vit_cnn.bench.measure import Row, in_rounds, saved_bytes, spread
from vit_cnn.bench.noise import noise_config
from vit_cnn.console import console
from vit_cnn.data import Dataset
from vit_cnn.machine import peak_memory_bytes
from vit_cnn.training.loop import train

EPOCH_STEPS = 20


def grown(model: str, batch: int, overrides: list[str], what: str, value: int) -> Row:
    """Time and memory of a training step where ``what``, the batch or a size of the network, is ``value``."""
    bench = Contenders(overrides=overrides, batch=value if what == "batch" else batch, rounds=3)
    changed = {} if what == "batch" else {what: value}
    network = bench.vit(**changed) if model == "vit" else bench.cnn(**changed)
    size = changed.get("image_size")
    times = in_rounds({"": bench.training_step(network, size=size)}, rounds=3, warm_up=3)[""]
    saved = saved_bytes(network, bench.noise(bench.batch, size), bench.autocast)
    peak = peak_memory_bytes(bench.device)
    return {**spread(times), "saved_for_backward_mb": round(saved / 1e6), "peak_memory_mb": round(peak / 1e6)}


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def steps_alone(model: str, batch: int, overrides: list[str], peer: bool = False) -> float:
    """Seconds of an epoch's training steps on one batch of random images, after a few to warm up; ours or a peer's."""
    bench = Contenders(overrides=overrides, batch=batch, rounds=1, keep_memory=not peer)
    if model == "vit":
        network = peers.vit_pytorch_vit(**bench.sizes) if peer else bench.vit()
    else:
        network = peers.PlainCNN(**bench.shape) if peer else bench.cnn()
    step = bench.training_step(network)

    def steps() -> None:
        for _ in range(EPOCH_STEPS):
            step()

    for _ in range(3):
        step()
    return in_rounds({"": steps}, rounds=1, warm_up=0)[""][0]


def our_loop(model: str, batch: int, overrides: list[str]) -> float:
    """Seconds of the training part of a run of one epoch, after a short run to warm up."""
    seconds = 0.0
    for warm_up in ("max_steps=3", "max_steps=null"):
        cfg = noise_config(
            f"model={model}", "recipe.epochs=1", warm_up, *overrides, images=EPOCH_STEPS * batch, batch=batch
        )
        console.quiet = True
        try:
            with tempfile.TemporaryDirectory() as folder:
                seconds = train(cfg, Path(folder) / "run")["seconds_train"]
        finally:
            console.quiet = False
    return seconds


def usual_loop(model: str, batch: int, overrides: list[str], peer: bool = False) -> float:
    """Seconds of an epoch of the usual loop, after a few batches to warm up; with our network or a peer's."""
    cfg = noise_config(f"model={model}", *overrides, images=EPOCH_STEPS * batch, batch=batch)
    sizes = {key: value for key, value in cfg.model.items() if key != "_target_"}
    if peer:
        network = peers.vit_pytorch_vit(**sizes) if model == "vit" else peers.PlainCNN(**sizes)
    else:
        network = instantiate(cfg.model).to(memory_format=torch.channels_last)
    data: Dataset = instantiate(cfg.data)
    return peers.usual_seconds(network, data, cfg)
