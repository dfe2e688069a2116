"""What is measured against what: a method for each table of the benchmark."""

import functools
import importlib.metadata
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

from vit_cnn.augment import augment
from vit_cnn.bench import peers
from vit_cnn.bench.measure import OperatorTimes, Row, command_seconds, in_rounds, saved_bytes, spread
from vit_cnn.bench.noise import noise_config
from vit_cnn.cuda_graph import Captured
from vit_cnn.data import Dataset, normalise, seeded, shuffled
from vit_cnn.display import console
from vit_cnn.environment import device_name, keep_freed_memory, peak_flops, peak_memory_bytes, versions
from vit_cnn.evaluate import BATCH_SIZE, autocast_for, precision_of
from vit_cnn.loop import train
from vit_cnn.models import CNN, ViT
from vit_cnn.optim import build_optimizer, set_learning_rate
from vit_cnn.summary import flops_per_image

EPOCH_STEPS = 20
OPERATORS = 12  # listed in a profile


class Bench:
    """Measures networks on one device.

    Args:
        overrides: of the config; its ViT, device, precision and optimiser are used for all, the other values of
            ``trainer`` for our own networks.
        batch: images in a training step.
        rounds: how often each contender is measured.
        keep_memory: whether to call ``keep_freed_memory``, as our loop does on a CPU.
    """

    def __init__(self, *, overrides: list[str], batch: int, rounds: int, keep_memory: bool = True) -> None:
        if keep_memory:
            keep_freed_memory()  # for all contenders alike
        self.overrides, self.batch, self.rounds = overrides, batch, rounds
        self.cfg = noise_config("model=vit", *overrides, images=1000, batch=batch)
        self.device = torch.device(self.cfg.trainer.device)
        self.autocast = autocast_for(self.device, precision_of(self.cfg.trainer))
        self.sizes = {key: value for key, value in self.cfg.model.items() if key != "_target_"}
        self.peak = peak_flops(self.device, self.autocast)
        self.shape = {key: self.sizes[key] for key in ("image_size", "num_channels", "num_classes")}

    @property
    def machine(self) -> str:
        software = f"Python {versions()['python']}, torch {versions()['torch']}"
        others = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("timm", "vit-pytorch"))
        peak = f"{self.peak / 1e9:,.0f} GFLOP/s in a large matrix product"
        return f"{device_name(self.device)}, {software}, {others}, {precision_of(self.cfg.trainer)}, {peak}"

    def vit(self, **changed: Any) -> nn.Module:
        return ViT(**self.sizes | changed)

    def cnn(self, **changed: Any) -> nn.Module:
        return CNN(**self.shape | changed).to(memory_format=torch.channels_last)

    def contenders(self) -> dict[str, nn.Module]:
        """The ViT by us and by others, the CNN by us and plainly; all with the same dropout places."""
        vits = {
            "ViT, ours": self.vit(),
            "ViT, timm": peers.timm_vit(**self.sizes),
            "ViT, vit-pytorch": peers.vit_pytorch_vit(**self.sizes),
            "ViT, nn.MultiheadAttention": peers.PlainViT(**self.sizes),
        }
        assert len({peers.active_dropouts(network) for network in vits.values()}) == 1, "unequal dropout places"
        cnns = {"CNN, ours": self.cnn(), "CNN, plain NCHW": peers.PlainCNN(**self.shape)}
        return {name: network.to(self.device) for name, network in (vits | cnns).items()}

    def start(self) -> list[Row]:
        """Whole commands, each the median of three."""
        config_seconds = statistics.median(command_seconds(["--cfg", "job"]) for _ in range(3))
        with tempfile.TemporaryDirectory() as folder:
            first_steps = []
            for number in range(3):
                run = Path(folder) / str(number)
                overrides = [*self.overrides, "data=digits", "max_steps=1", "trainer.log_every=1"]
                arguments = [*overrides, f"hydra.run.dir={run}", "wandb.mode=disabled"]
                first_steps.append(command_seconds(arguments, until=run / "metrics.jsonl"))
        return [
            {"what": "the config on the screen (--cfg job)", "seconds": round(config_seconds, 2)},
            {"what": "the first training step's line of metrics", "seconds": round(statistics.median(first_steps), 2)},
        ]

    def steps(self) -> list[Row]:
        """A training step and an evaluation pass of each contender, and what share of the machine's peak that is."""
        contenders = self.contenders()
        steps = {name: self.training_step(network) for name, network in contenders.items()}
        evaluations = {name: self.evaluation(network) for name, network in contenders.items()}
        step_times, eval_times = in_rounds(steps, rounds=self.rounds), in_rounds(evaluations, rounds=self.rounds)
        rows = []
        for name, network in contenders.items():
            kind = name.split(",")[0]
            flops = flops_per_image(contenders[f"{kind}, ours"], self.noise(1))
            middle = statistics.median(step_times[name])
            peer_times = [
                statistics.median(times)
                for other, times in step_times.items()
                if other.startswith(kind) and "ours" not in other
            ]
            rows.append(
                {
                    "network": name,
                    **spread(step_times[name]),
                    "train_images_per_second": round(self.batch / middle),
                    "times_fastest_peer": round(min(peer_times) / middle, 2),
                    "share_of_peak": round(3 * flops * self.batch / middle / self.peak, 3),
                    "eval_images_per_second": round(self.eval_batch / statistics.median(eval_times[name])),
                    "saved_for_backward_mb": round(saved_bytes(network, self.noise(self.batch), self.autocast) / 1e6),
                }
            )
        return rows

    def switches(self) -> list[Row]:
        """What each piece that can be switched off brings, and what bf16 brings to us and to others."""
        bf16, plain_cnn = autocast_for(self.device, "bf16"), peers.PlainCNN(**self.shape)
        steps = {
            "ViT, ours": self.training_step(self.vit()),
            "ViT, PyTorch's dropout": self.training_step(switched(self.vit(), raw_bytes=False)),
            "ViT, linear layers as matrix products": self.training_step(switched(self.vit(), as_convolution=False)),
            "ViT, all tokens in the last block": self.training_step(switched(self.vit(), only_cls_at_the_end=False)),
            "ViT, no dropout at all": self.training_step(self.vit(dropout=0.0)),
            "ViT, ours, bf16": self.training_step(self.vit(), autocast=bf16),
            "ViT, timm, bf16": self.training_step(peers.timm_vit(**self.sizes), autocast=bf16),
            "ViT, vit-pytorch, bf16": self.training_step(peers.vit_pytorch_vit(**self.sizes), autocast=bf16),
            "CNN, ours": self.training_step(self.cnn()),
            "CNN, NCHW": self.training_step(CNN(**self.shape)),
            "CNN, ReLU before pooling": self.training_step(plain_cnn.to(memory_format=torch.channels_last)),
            "CNN, ours, bf16": self.training_step(self.cnn(), autocast=bf16),
            "CNN, plain NCHW, bf16": self.training_step(peers.PlainCNN(**self.shape), autocast=bf16),
        }
        if self.device.type == "cuda":
            steps["ViT, plain attention"] = self.training_step(switched(self.vit(), fused_on=()))
            for name, make in {"ViT": self.vit, "CNN": self.cnn}.items():
                steps[f"{name}, CUDA graph"] = self.training_step(make(), graph=True)
                steps[f"{name}, compiled"] = self.training_step(make(), compiled=True)
                steps[f"{name}, compiled, CUDA graph"] = self.training_step(make(), compiled=True, graph=True)
        times = in_rounds(steps, rounds=self.rounds)
        ours = {kind: statistics.median(times[f"{kind}, ours"]) for kind in ("ViT", "CNN")}
        return [
            {"network": name, **spread(each), "times_ours": round(statistics.median(each) / ours[name[:3]], 2)}
            for name, each in times.items()
        ]

    def profile(self) -> list[Row]:
        """Where a training step's time goes, by operator; the rest is Python and the random bytes of dropout."""
        rows = []
        for name, network in {"ViT": self.vit(), "CNN": self.cnn()}.items():
            step = self.training_step(network)
            in_rounds({"": step}, rounds=3)
            started = time.perf_counter()
            with OperatorTimes() as operators:
                for _ in range(self.rounds):
                    step()
            total = time.perf_counter() - started
            inside = sum(operators.seconds.values())
            seconds = dict(sorted(operators.seconds.items(), key=lambda item: -item[1])[:OPERATORS])
            seconds["other operators"] = inside - sum(seconds.values())
            seconds["outside operators"] = total - inside
            for operator, each in seconds.items():
                share = round(each / total, 3)
                rows.append(
                    {"network": name, "operator": operator, "ms": round(1000 * each / self.rounds, 1), "share": share}
                )
        return rows

    def epoch(self) -> list[Row]:
        """Our loop against its steps alone and the usual loop with a DataLoader, each in a process of its own.

        There, each is as one would run it: peers do without ``keep_freed_memory``.
        """
        rows = []
        for model, peer in (("vit", "vit-pytorch"), ("cnn", "plain NCHW")):
            loops: dict[str, Callable[..., float]] = {
                "the steps alone": steps_alone,
                f"the steps alone, {peer}": functools.partial(steps_alone, peer=True),
                "our loop": our_loop,
                "DataLoader loop, our network": usual_loop,
                f"DataLoader loop, {peer}": functools.partial(usual_loop, peer=True),
            }
            arguments = (model, self.batch, self.overrides)
            work = {name: functools.partial(in_fresh_process, loop, *arguments) for name, loop in loops.items()}
            times = in_rounds(work, rounds=3, warm_up=0)
            for name, each in times.items():
                images_per_second = round(EPOCH_STEPS * self.batch / statistics.median(each))
                # Within a round, since the machine's speed drifts from one to the next by as much as loops differ.
                ratios = [mine / alone for mine, alone in zip(each, times["the steps alone"], strict=True)]
                row = {"network": model, "loop": name, **spread(each), "images_per_second": images_per_second}
                rows.append(row | {"times_the_steps_alone": round(statistics.median(ratios), 3)})
        return rows

    def images(self) -> list[Row]:
        """What grows with the number of images: memory, and the time for everything but the network."""
        rows = []
        for number in (1_000, 5_000, 10_000, 50_000):
            cfg = noise_config(*self.overrides, images=number, batch=self.batch)
            data: Dataset = instantiate(cfg.data).to(self.device)
            generator = torch.Generator(self.device)

            def pass_over(data: Dataset = data, generator: torch.Generator = generator) -> None:
                for batch, chosen in shuffled(data.train, batch_size=self.batch, seed=0, epoch=0, first=0):
                    images = normalise(data.train.images[chosen], data.mean, data.std)
                    augment(images, self.cfg.recipe.augment, seeded(generator, 0, 0, batch))

            times = in_rounds({"": pass_over}, rounds=3)[""]
            rate = round(number / statistics.median(times))
            memory = round(data.train.images.nbytes / 1e6, 1)
            rows.append({"images": number, **spread(times), "images_per_second": rate, "data_mb": memory})
        return rows

    def growth(self) -> list[Row]:
        """Time and memory of a training step against batch, image size and patch size, in processes of their own."""
        rows = []
        for what, values in {"batch": (32, 128, 256), "image_size": (32, 64), "patch_size": (8, 4, 2)}.items():
            for value in values:
                for model in ("vit", "cnn") if what != "patch_size" else ("vit",):
                    row = in_fresh_process(grown, model, self.batch, self.overrides, what, value)
                    rows.append({"network": model, "varied": what, "value": value, **row})
        return rows

    @property
    def eval_batch(self) -> int:
        return BATCH_SIZE[self.device.type]

    def noise(self, number: int, size: int | None = None) -> Tensor:
        size = size or self.shape["image_size"]
        return torch.randn(number, self.shape["num_channels"], size, size, device=self.device)

    def training_step(
        self,
        network: nn.Module,
        *,
        size: int | None = None,
        autocast: torch.autocast | None = None,
        compiled: bool = False,
        graph: bool = False,
    ) -> Callable[[], object]:
        """Forward, backward and optimiser on one batch of random images."""
        images = self.noise(self.batch, size)
        labels = torch.arange(len(images), device=self.device) % self.shape["num_classes"]
        optimizer = build_optimizer(network.to(self.device).train(), self.cfg.recipe.optimizer)
        # One batch again and again: learnt by heart, it would give denormal gradients, on which CPUs are slow.
        set_learning_rate(optimizer, 1e-9)
        forward = torch.compile(network) if compiled else network

        def step(images: Tensor) -> Tensor:
            with autocast or self.autocast:
                loss = F.cross_entropy(forward(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        chosen = Captured(step, generator=torch.Generator(self.device)) if graph else step
        return lambda: chosen(images)

    def evaluation(self, network: nn.Module) -> Callable[[], None]:
        images = self.noise(self.eval_batch)

        @torch.no_grad()
        def evaluate() -> None:
            network.eval()
            with self.autocast:
                network(images)

        return evaluate


def switched(network: nn.Module, **switches: Any) -> nn.Module:
    """``network`` with the switches set in each of its parts that has them."""
    for module in network.modules():
        for name, value in switches.items():
            if hasattr(type(module), name):
                setattr(module, name, value)
    return network


def grown(model: str, batch: int, overrides: list[str], what: str, value: int) -> Row:
    """Time and memory of a training step where ``what``, the batch or a size of the network, is ``value``."""
    bench = Bench(overrides=overrides, batch=value if what == "batch" else batch, rounds=3)
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
    bench = Bench(overrides=overrides, batch=batch, rounds=1, keep_memory=not peer)
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
