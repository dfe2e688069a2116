"""How alike two layers are, whatever the directions their neurons chose: linear CKA.

Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", 2019,
https://arxiv.org/abs/1905.00414; with the unbiased estimate of Song et al., 2012, so that layers with many more
neurons than there are images do not look alike for that alone (Nguyen et al., 2020,
https://arxiv.org/abs/2010.15327).
"""

import numpy as np
import torch
from torch import Tensor, nn

from vit_cnn.models import ViT
from vit_cnn.probes.intervals import Interval, from_deviation
from vit_cnn.run.trained import BATCH_SIZE

PARTS = 5  # of the images, each with an estimate of its own: their spread gives the interval


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a ViT; of other networks every convolution and linear layer, in order."""
    if isinstance(model, ViT):
        return {f"block {number}": block for number, block in enumerate(model.blocks, start=1)}
    kinds = {nn.Conv2d: "conv", nn.Linear: "linear"}
    found: dict[str, nn.Module] = {}
    for module in model.modules():
        for kind, name in kinds.items():
            if isinstance(module, kind):
                found[f"{name} {sum(each.startswith(name) for each in found) + 1}"] = module
    return found


def grams_of(label: str, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """``similarities`` of every layer that takes part, by ``label, layer``."""
    found = {f"{label}, {name}": similarities(model, layer, images) for name, layer in layers_of(model).items()}
    return {name: gram for name, gram in found.items() if gram is not None}


def ends_alike(grams: list[Tensor]) -> Interval:
    """CKA of the first and the last layer; the interval is over parts of the images."""
    first, last = grams[0], grams[-1]
    parts = [torch.arange(start, len(first), PARTS) for start in range(PARTS)]
    found = [cka(first[part][:, part], last[part][:, part]) for part in parts]
    return from_deviation(cka(first, last), float(np.var(found, ddof=1)) / PARTS, PARTS - 1)


@torch.no_grad()
def similarities(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor | None:
    """Products of what a layer gives for every two images [n, c, h, w]: [n, n]. One layer at a time saves memory.

    ``None`` where nobody calls the layer, but takes its weights, as ``nn.MultiheadAttention`` does.
    """
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.flatten(1).cpu().clone()))
    for batch in images.split(BATCH_SIZE):
        model(batch)
    hook.remove()
    if not outputs:
        return None
    activations = torch.cat(outputs)
    return (activations @ activations.T).double()


def cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA of two layers from their ``similarities`` [n, n] of the same images: 1 the same, 0 unrelated."""
    return float(unbiased_hsic(first, second) / (unbiased_hsic(first, first) * unbiased_hsic(second, second)).sqrt())


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Song et al., "Feature Selection via Dependence Maximization", 2012, equation 5."""
    n = len(first)
    a, b = (each - torch.diag(each.diagonal()) for each in (first, second))
    same = (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a.sum(dim=0) @ b.sum(dim=0))
    return same / (n * (n - 3))
