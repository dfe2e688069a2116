"""From ``model`` of a config to a network, whoever wrote it."""

from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from vit_cnn.config.target import located
from vit_cnn.config.trust import trust_of
from vit_cnn.errors import Refused, one_line, place
from vit_cnn.models.parts import freeze, parts_of


def build_network(model: DictConfig, *, pretrained: bool = False) -> nn.Module:
    """Call what ``model._target_`` names with the other keys.

    Args:
        pretrained: whether ``model.pretrained=true`` counts. Whoever loads a checkpoint afterwards does without those
            weights, which may have to be downloaded.

    Raises:
        Refused: it cannot be imported, raises something, or returns no network.
    """
    located(model._target_, key="model._target_")  # for its messages
    others: dict[str, Any] = {} if pretrained or not model.get("pretrained") else {"pretrained": False}
    try:
        network = instantiate(model, _convert_="all", **others)
    except Exception as error:
        raise refusal(model, error) from error
    if not isinstance(network, nn.Module):
        raise Refused(f"model: {model._target_} returns a {type(network).__name__}, not a torch.nn.Module")
    if any(map(nn.parameter.is_lazy, network.parameters())):
        raise Refused(
            f"model: {model._target_} has lazy layers, whose sizes are not known at the start: give them sizes"
        )
    return network


def check_network(cfg: DictConfig) -> None:
    """Build the network and show it two empty images: without memory for its weights, or else on the CPU; one that we
    do not ship on the CPU at once, since memory formats show there alone.

    Raises:
        Refused: it cannot be built, does not turn such images into logits, has nothing to train, or no blocks that the
            recipe could freeze or tell apart.
    """
    # The CPU is also for a network that looks at values while it is built or called.
    for device in ["cpu"] if trust_of(cfg) else ["meta", "cpu"]:
        try:
            network, outputs = tried(cfg, device)
            break
        except Refused as error:
            refused = error
    else:
        raise refused
    size, channels, classes = cfg.data.image_size, cfg.data.num_channels, cfg.data.num_classes
    for mode, logits in outputs.items():
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != [2, classes]:
            raise Refused(
                f"model: {cfg.model._target_}, in {mode}, turns images [2, {channels}, {size}, {size}] into {shape}, "
                f"not into logits [2, {classes}]"
            )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise Refused(f"model: {cfg.model._target_} has no parameters that can be trained")
    freeze(network, cfg.recipe.freeze_blocks)
    if cfg.recipe.layer_decay != 1:
        parts_of(network)


def tried(cfg: DictConfig, device: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network on ``device``, and what it makes of two empty images.

    Raises:
        Refused: it raises something.
    """
    with torch.device(device), torch.no_grad():
        network = build_network(cfg.model)
        images = torch.zeros(2, cfg.data.num_channels, cfg.data.image_size, cfg.data.image_size)
        if cfg.trainer.channels_last:  # which not every network takes
            network = network.to(memory_format=torch.channels_last)
        try:
            return network, {mode: network.train(mode == "training")(images) for mode in ("training", "evaluation")}
        except Exception as error:
            raise refusal(cfg.model, error) from error


def refusal(model: DictConfig, error: Exception) -> Refused:
    """One line for whatever a stranger's network raised: what, from whom, and the line of the user's own file."""
    while isinstance(error, HydraException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""  # whose message is the bare key
    return Refused(f"model: {kind}{one_line(error)} ({model._target_}{place(error)})")
