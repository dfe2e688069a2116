"""The optimiser, and the learning rate as a pure function of the step."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from vit_cnn.config.schema import Optimizer, Recipe
from vit_cnn.errors import Refused
from vit_cnn.models.parts import depths, hidden_weights, weights_and_others
from vit_cnn.training.muon import MuonAndAdamW


def build_optimizer(
    model: nn.Module,
    settings: Optimizer,
    state: dict[str, Any] | None = None,
    *,
    scales: dict[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimiser that ``settings.name`` asks for, which changes every parameter.

    ``adamw`` (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101), ``sgd`` with Nesterov momentum, or ``muon``
    for the weights between the first layer and the head and AdamW for the rest.

    With ``settings.decay_all``, weight decay acts on norms, biases, positions and CLS too, as it does in the notebook
    behind the deck; else on nothing but the weights of linear layers and convolutions.

    Args:
        state: what ``state_dict`` gave, on whatever device, to go on from there.
        scales: learning rate of each parameter, by name, as a share of ``settings.lr``; as ``layer_scales`` gives them.

    Raises:
        Refused: ``muon``, and the network has no such weights; or ``state`` is of other weights.
    """
    decayed, free = weights_and_others(model)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "weight_decay": settings.weight_decay}]
    if not settings.decay_all:
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if scales:
        groups = [part for group in groups for part in by_scale(group, model, scales)]
    beta1, beta2 = settings.betas
    optimizer: torch.optim.Optimizer
    if settings.name == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0, fused=True
        )
    elif settings.name == "muon":
        if not (hidden := hidden_weights(model)):
            raise Refused("recipe.optimizer.name=muon needs layers between the first and the last: use adamw")
        optimizer = MuonAndAdamW(hidden, groups, lr=settings.lr, momentum=settings.momentum, betas=(beta1, beta2))
    else:
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(beta1, beta2), fused=True)
    if state is not None:
        try:
            optimizer.load_state_dict(state)
        except ValueError:  # the groups have other parameters
            raise Refused(
                f"the checkpoint's {settings.name} changed other weights, as in an earlier version of vit_cnn: "
                "go on with that version"
            ) from None
        for parameter, held in optimizer.state.items():
            for name, tensor in held.items():
                if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                    # Laid out like its parameter, as the fused step takes for granted: channels_last may have changed.
                    held[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
    device = next(model.parameters()).device
    for group in optimizer.param_groups:
        if device.type == "cuda":  # so that a CUDA graph of the step reads the learning rate anew each time
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = device.type == "cuda"
    return optimizer


def layer_scales(model: nn.Module, decay: float) -> dict[str, float] | None:
    """Learning rate of each parameter as a share of the head's: ``decay`` for the last block, ``decay``² before.

    ``None`` where all learn at the same rate. Source: Clark et al., "ELECTRA", 2020, https://arxiv.org/abs/2003.10555.

    Raises:
        Refused: the network has no blocks that we know.
    """
    if decay == 1:
        return None
    depth = depths(model)
    return {name: decay ** (max(depth.values()) - depth[name]) for name in depth}


def by_scale(group: dict[str, Any], model: nn.Module, scales: dict[str, float]) -> list[dict[str, Any]]:
    """A group for each learning rate in it."""
    scale = {id(parameter): scales[name] for name, parameter in model.named_parameters()}
    found: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        found.setdefault(scale[id(parameter)], []).append(parameter)
    return [{**group, "params": parameters, "lr_scale": each} for each, parameters in found.items()]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set it to ``lr``, or to the share of it that a group has."""
    for group in optimizer.param_groups:
        scaled = lr * group.get("lr_scale", 1)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


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
