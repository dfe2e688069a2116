"""How fast, next to others: ``python -m vit_cnn.bench`` (``make bench``) writes CSV files and a figure.

Everything is measured in one process, in rounds that go over all contenders in turn, so that a machine that slows down
slows all of them; figures are medians. Run it on an otherwise idle machine.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from torch import Tensor, nn

from vit_cnn import config, peers
from vit_cnn.display import console
from vit_cnn.environment import device_name, peak_flops, versions
from vit_cnn.errors import exit_with_code
from vit_cnn.evaluate import BATCH_SIZE, autocast_for, precision_of
from vit_cnn.models import CNN, ViT
from vit_cnn.optim import build_optimizer
from vit_cnn.summary import flops_per_image

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vit_cnn.bench", description="Measure speed against other libraries"
    )
    parser.add_argument("--out", type=Path, default=Path("experiments/speed"), help="folder for the results")
    parser.add_argument("--rounds", type=int, default=7, help="how often each contender is measured (default: 7)")
    parser.add_argument("--batch", type=int, default=128, help="images in a training step (default: 128)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = config.check(compose("config", overrides=["data=digits"]))
    bench = Bench(cfg=cfg, batch=arguments.batch, rounds=arguments.rounds)
    machine = f"{device_name(bench.device)}, torch {versions()['torch']}, {precision_of(cfg.trainer)}"
    console.print(f"{machine}; batch {arguments.batch}; medians of {arguments.rounds} rounds")

    steps = bench.steps()
    write(arguments.out / "steps.csv", steps, machine)
    show("A training step and an evaluation pass", steps)
    draw(steps, machine).savefig(arguments.out / "steps.png", dpi=120)
    growth = bench.growth()
    write(arguments.out / "growth.csv", growth, machine)
    show("What grows how: a training step of our networks", growth)
    starts = [{"what": "first step after the command", "seconds": first_step_seconds()}]
    write(arguments.out / "start.csv", starts, machine)
    show("Start", starts)


class Bench:
    """Measures networks on one device.

    Args:
        cfg: a checked config with ``model=vit``; its device, precision and optimiser are used for all.
        batch: images in a training step.
        rounds: how often each contender is measured.
    """

    def __init__(self, *, cfg: Any, batch: int, rounds: int) -> None:
        self.cfg, self.batch, self.rounds = cfg, batch, rounds
        self.device = torch.device(cfg.trainer.device)
        self.autocast = autocast_for(self.device, precision_of(cfg.trainer))
        self.sizes = {key: value for key, value in cfg.model.items() if key not in ("_target_", "embedding_std")}

    def contenders(self) -> dict[str, nn.Module]:
        """The ViT by us and by others, the CNN by us and plainly; all with the same dropout places."""
        shape = {key: self.sizes[key] for key in ("image_size", "num_channels", "num_classes")}
        vits = {
            "ViT, ours": ViT(**self.sizes, embedding_std=1.0),
            "ViT, timm": peers.timm_vit(**self.sizes),
            "ViT, vit-pytorch": peers.vit_pytorch_vit(**self.sizes),
            "ViT, nn.MultiheadAttention": peers.PlainViT(**self.sizes),
        }
        assert len({peers.active_dropouts(network) for network in vits.values()}) == 1, "unequal dropout places"
        cnns = {
            "CNN, ours": CNN(**shape).to(memory_format=torch.channels_last),
            "CNN, plain NCHW": peers.PlainCNN(num_channels=shape["num_channels"], num_classes=shape["num_classes"]),
        }
        return {name: network.to(self.device) for name, network in (vits | cnns).items()}

    def steps(self) -> list[Row]:
        """A training step and an evaluation pass of each contender, and what share of the machine's peak that is."""
        contenders = self.contenders()
        train = {name: self.training_step(network, self.batch) for name, network in contenders.items()}
        evaluate = {name: self.evaluation(network) for name, network in contenders.items()}
        step_times, eval_times = self.in_rounds(train), self.in_rounds(evaluate)
        peak = peak_flops(self.device, self.autocast)
        rows = []
        for name, network in contenders.items():
            kind = name.split(",")[0]
            flops = flops_per_image(contenders[f"{kind}, ours"], self.images(1))
            middle = statistics.median(step_times[name])
            others = [statistics.median(step_times[other]) for other in contenders if other.split(",")[0] == kind]
            fastest_peer = min(others[1:])
            rows.append(
                {
                    "network": name,
                    "step_ms": round(1000 * middle, 1),
                    "step_ms_min": round(1000 * min(step_times[name]), 1),
                    "step_ms_max": round(1000 * max(step_times[name]), 1),
                    "train_images_per_second": round(self.batch / middle),
                    "times_fastest_peer": round(fastest_peer / middle, 2),
                    "share_of_peak": round(3 * flops * self.batch / middle / peak, 3),
                    "eval_images_per_second": round(BATCH_SIZE[self.device.type] / statistics.median(eval_times[name])),
                    "saved_for_backward_mb": round(self.saved_bytes(network, self.batch) / 1e6),
                    "peak_gflops": round(peak / 1e9),
                }
            )
        return rows

    def growth(self) -> list[Row]:
        """Time and memory of a training step against batch, image size and patch size."""
        rows = []
        for what, values in {"batch": (32, 128, 256), "image_size": (32, 64), "patch_size": (8, 4, 2)}.items():
            for value in values:
                batch = value if what == "batch" else self.batch
                sizes = self.sizes if what == "batch" else self.sizes | {what: value}
                networks: dict[str, nn.Module] = {"ViT": ViT(**sizes, embedding_std=1.0)}
                if what != "patch_size":
                    shape = {key: sizes[key] for key in ("image_size", "num_channels", "num_classes")}
                    networks["CNN"] = CNN(**shape).to(memory_format=torch.channels_last)
                for name, network in networks.items():
                    step = self.training_step(network.to(self.device), batch, sizes["image_size"])
                    seconds = statistics.median(self.in_rounds({name: step}, rounds=3)[name])
                    saved = self.saved_bytes(network, batch, sizes["image_size"])
                    measured = {"step_ms": round(1000 * seconds, 1), "saved_for_backward_mb": round(saved / 1e6)}
                    rows.append({"network": name, "varied": what, "value": value, **measured})
        return rows

    def images(self, number: int, size: int | None = None) -> Tensor:
        size = size or self.sizes["image_size"]
        return torch.randn(number, self.sizes["num_channels"], size, size, device=self.device)

    def training_step(self, network: nn.Module, batch: int, size: int | None = None) -> Callable[[], None]:
        optimizer = build_optimizer(network, self.cfg.recipe.optimizer)
        images, labels = self.images(batch, size), torch.zeros(batch, dtype=torch.long, device=self.device)

        def step() -> None:
            network.train()
            with self.autocast:
                loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    def evaluation(self, network: nn.Module) -> Callable[[], None]:
        images = self.images(BATCH_SIZE[self.device.type])

        @torch.no_grad()
        def evaluate() -> None:
            with self.autocast:
                network.eval()(images)

        return evaluate

    def in_rounds(self, work: dict[str, Callable[[], None]], rounds: int | None = None) -> dict[str, list[float]]:
        """Seconds of each piece of work, in turn; a first round, which warms up, does not count."""
        times: dict[str, list[float]] = {name: [] for name in work}
        for number in range((rounds or self.rounds) + 1):
            for name, call in work.items():
                self.synchronize()
                started = time.perf_counter()
                call()
                self.synchronize()
                if number:
                    times[name].append(time.perf_counter() - started)
        return times

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def saved_bytes(self, network: nn.Module, batch: int, size: int | None = None) -> int:
        """Memory that a forward pass keeps for the backward pass, without the weights themselves."""
        weights = {parameter.data_ptr() for parameter in network.parameters()}
        seen: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        network.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), self.autocast:
            logits = network(self.images(batch, size))
        del logits
        return sum(seen.values())


def first_step_seconds() -> float:
    """From the command to the first training step's line of metrics, on the bundled digits."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        metrics = run / "metrics.jsonl"
        command = [sys.executable, "-m", "vit_cnn.train", "data=digits", "max_steps=1", "trainer.log_every=1"]
        command += [f"hydra.run.dir={run}", "wandb.mode=disabled"]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        process.wait()
    return round(seconds, 2)


def write(path: Path, rows: list[Row], machine: str) -> None:
    rows = [row | {"machine": machine} for row in rows]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show(title: str, rows: list[Row]) -> None:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for number, heading in enumerate(rows[0]):
        table.add_column(heading.replace("_", " "), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


def draw(rows: list[Row], machine: str) -> Figure:
    """Training speed of each contender, with the spread over the rounds."""
    figure = Figure(figsize=(8, 0.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = [row["network"] for row in rows]
    middles = [row["step_ms"] for row in rows]
    spread = [
        [row["step_ms"] - row["step_ms_min"] for row in rows],
        [row["step_ms_max"] - row["step_ms"] for row in rows],
    ]
    colours = ["#2a6fb0" if "ours" in name else "#b8c2cc" for name in names]
    axes.barh(names, middles, xerr=spread, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("a training step, ms (shorter is better)")
    axes.set_title(machine, fontsize=9)
    return figure


if __name__ == "__main__":
    exit_with_code(main)
