"""The optimiser, and the learning rate as a pure function of the step."""

import math

import torch
from torch import nn

from vit_cnn.config import Optimizer, Recipe


def build_optimizer(model: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101) or SGD with Nesterov momentum."""
    parameters = list(model.parameters())
    if recipe.name == "adamw":
        beta1, beta2 = recipe.betas
        return torch.optim.AdamW(
            parameters, lr=recipe.lr, betas=(beta1, beta2), weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.SGD(
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


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
