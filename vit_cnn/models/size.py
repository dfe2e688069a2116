"""How large a network is: the size table of a training start, parameters and floating-point operations."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vit_cnn.models.parts import hidden_weights
from vit_cnn.models.vit import ViT

MUON_ITERATIONS = 5  # of Newton and Schulz, in torch.optim.Muon


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row of the size table; sizes are shapes of the tensors that went in and came out."""

    name: str
    kind: str
    params: int
    in_sizes: list[int]
    out_sizes: list[int]


def layers_of(model: nn.Module, images: Tensor, *, every_layer: bool = False) -> list[Layer]:
    """The network and its parts (or, with ``every_layer``, every layer) as they see ``images`` [b, c, h, w]."""
    sizes: dict[str, tuple[list[int], list[int]]] = {}
    chosen = {"": model}
    for name, module in model.named_modules():
        is_layer = not list(module.children()) if every_layer else name and "." not in name
        if is_layer:
            chosen[name] = module

    def record(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            sizes[name] = (size_of(inputs), size_of(output))

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in chosen.items()]
    was_training = model.training
    with torch.no_grad(), whole(model) if every_layer else contextlib.nullcontext():
        model.eval()(images)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return [
        Layer(name or "network", type(module).__name__, count(module), *sizes.get(name, ([], [])))
        for name, module in chosen.items()
    ]


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """A ViT in it computes all tokens of its last block, too, though nothing but CLS reaches the head."""
    vits = [module for module in model.modules() if isinstance(module, ViT)]
    before = [vit.only_cls_at_the_end for vit in vits]
    for vit in vits:
        vit.only_cls_at_the_end = False
    try:
        yield
    finally:
        for vit, was in zip(vits, before, strict=True):
            vit.only_cls_at_the_end = was


def size_of(values: Any) -> list[int]:
    """Shape of a tensor, or of the first of several; none of what a layer gave or took by name."""
    first = values[0] if isinstance(values, (tuple, list)) and values else values
    return list(first.shape) if isinstance(first, Tensor) else []


def count(model: nn.Module, *, trainable_only: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def size_table(model: nn.Module, images: Tensor, *, every_layer: bool = False) -> Group:
    """Names, types, parameters and sizes, with the totals below."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "type"):
        table.add_column(heading)
    for heading in ("parameters", "in sizes", "out sizes"):
        table.add_column(heading, justify="right")
    for layer in layers_of(model, images, every_layer=every_layer):
        sizes = [str(shape) if shape else "–" for shape in (layer.in_sizes, layer.out_sizes)]
        table.add_row(layer.name, layer.kind, f"{layer.params:,}" if layer.params else "–", *sizes)
    total, trainable = count(model), count(model, trainable_only=True)
    return Group(
        table,
        f"{trainable:,} trainable + {total - trainable:,} non-trainable = {total:,} parameters, "
        f"{total * 4 / 1e6:.3f} MB\n",
    )


def flops_per_image(model: nn.Module, image: Tensor, *, in_training: bool = False) -> int:
    """Floating-point operations of one forward pass of one image [1, c, h, w], 2 × multiply-adds.

    Counts matrix products and convolutions of the whole network: a ViT's last block with all its tokens, though the
    forward pass skips those that do not reach the head.

    Args:
        in_training: count what training does, which leaves patches out where there is patch dropout.
    """
    copied = copy.deepcopy(model).train(in_training)
    devices = [image.device] if image.device.type == "cuda" else []
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), whole(copied), in_parts(), torch.random.fork_rng(devices), counter:
        copied(image.repeat(2, 1, 1, 1))  # batch norm refuses to train on one
    return counter.get_total_flops() // 2


@contextlib.contextmanager
def in_parts() -> Iterator[None]:
    """PyTorch's attention as the matrix products that it consists of: some of its fused ones are not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def flops_per_update(model: nn.Module, optimizer: str) -> int:
    """Operations of one update: Muon makes that of all hidden weights orthogonal, others do nothing of that size."""
    if optimizer != "muon":
        return 0
    sides = [sorted(weight.flatten(1).shape) for weight in hidden_weights(model) if weight.requires_grad]
    return MUON_ITERATIONS * sum(4 * n**2 * m + 2 * n**3 for n, m in sides)
