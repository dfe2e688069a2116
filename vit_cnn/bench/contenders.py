"""Networks by us and by others on one device, and a training step and an evaluation pass of each, ready to be timed."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_cnn.bench import peers
from vit_cnn.bench.noise import noise_config
from vit_cnn.errors import Refused
from vit_cnn.machine import device_name, keep_freed_memory, precision_of, versions
from vit_cnn.models import CNN, ViT
from vit_cnn.processes.together import own_device
from vit_cnn.training.cuda_graph import Captured
from vit_cnn.training.optim import build_optimizer, set_learning_rate
from vit_cnn.training.precision import autocast_for, use_whole_fp32
from vit_cnn.training.scoring import BATCH_SIZE
from vit_cnn.training.speed import peak_flops


class Contenders:
    """Networks on one device.

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
        use_whole_fp32()
        self.overrides, self.batch, self.rounds = overrides, batch, rounds
        self.cfg = noise_config("model=vit", *overrides, images=1000, batch=batch)
        self.device = own_device(self.cfg.trainer.device)
        self.autocast = autocast_for(self.device, precision_of(self.cfg.trainer.precision))
        self.sizes = {key: value for key, value in self.cfg.model.items() if key != "_target_"}
        self.peak = peak_flops(self.device, precision_of(self.cfg.trainer.precision))
        self.shape = {key: self.sizes[key] for key in ("image_size", "num_channels", "num_classes")}

    @property
    def machine(self) -> str:
        software = f"Python {versions()['python']}, torch {versions()['torch']}"
        try:
            others = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("timm", "vit-pytorch"))
        except importlib.metadata.PackageNotFoundError as error:
            raise Refused('the benchmark needs timm and vit-pytorch: pip install "vit_cnn[bench]"') from error
        peak = f"{self.peak / 1e9:,.0f} GFLOP/s in a large matrix product"
        return f"{device_name(self.device)}, {software}, {others}, {precision_of(self.cfg.trainer.precision)}, {peak}"

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

        chosen = Captured(step) if graph else step
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
