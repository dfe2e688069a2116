"""The optimiser, and the learning rate as a pure function of the step."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vit_cnn.config.schema import Optimizer, Recipe


def build_optimizer(model: nn.Module, recipe: Optimizer, state: dict[str, Any] | None = None) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101) or SGD with Nesterov momentum.

    Weight decay acts on every parameter, norms, biases, positions and CLS among them, as it does in the notebook behind
    the deck.

    Args:
        state: what ``state_dict`` gave, on whatever device, to go on from there.
    """
    parameters = list(model.parameters())
    optimizer: torch.optim.Optimizer
    if recipe.name == "adamw":
        beta1, beta2 = recipe.betas
        optimizer = torch.optim.AdamW(
            parameters, lr=recipe.lr, betas=(beta1, beta2), weight_decay=recipe.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.SGD(
            parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
            fused=True,
        )
    if state is not None:
        optimizer.load_state_dict(state)
        for parameter, held in optimizer.state.items():
            for name, tensor in held.items():
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    # Laid out like its parameter, as the fused step takes for granted: channels_last may have changed.
                    held[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
    device = parameters[0].device
    for group in optimizer.param_groups:
        if device.type == "cuda":  # so that a CUDA graph of the step reads the learning rate anew each time
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = device.type == "cuda"
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def learning_rate(step: int, *, recipe: Recipe, steps_per_epoch: int) -> float:
    """The learning rate of the training step that follows ``step`` steps: warm-up, then ``recipe.schedule``."""
    peak, schedule = recipe.optimizer.lr, recipe.schedule
    epoch = step / steps_per_epoch
    if epoch < schedule.warmup_epochs:
        return peak * (step + 1) / math.ceil(schedule.warmup_epochs * steps_per_epoch)
    if schedule.name == "multistep":
        return peak * schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
    if schedule.name == "cosine":
        progress = (epoch - schedule.warmup_epochs) / (recipe.epochs - schedule.warmup_epochs)
        return peak * (1 + math.cos(math.pi * progress)) / 2
    return peak
