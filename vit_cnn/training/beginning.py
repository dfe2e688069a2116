"""A run that does not begin from random weights: ``init=`` takes those of a network that was trained before."""

import logging
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from torch import nn

from vit_cnn.config.schema import flat
from vit_cnn.config.target import network_name
from vit_cnn.errors import Refused
from vit_cnn.models.adopt import adopted
from vit_cnn.models.vit import ViT
from vit_cnn.run import checkpoint
from vit_cnn.run.source import Source, read_source

log = logging.getLogger(__name__)

# Arguments of networks that may differ: sizes that weights can be brought to, and what is no matter of weights.
MAY_DIFFER = {
    "image_size", "img_size", "patch_size", "num_classes", "dropout", "drop_rate", "drop_path_rate", "stochastic_depth",
    "patch_dropout", "embedding_std", "mimetic", "pretrained", "_target_",
}  # fmt: skip


def begin_from(path: Path, model: nn.Module, cfg: DictConfig, classes: list[str] | None) -> dict[str, Any]:
    """Give ``model`` the weights found at ``path``, as far as they fit.

    Args:
        classes: names of the classes here, by label.

    Returns:
        Where the weights come from, and what of them had to change, for ``result.json``.

    Raises:
        Refused: there are none, or they are of another network; names all that differs.
    """
    source = read_source(path)
    check_same_network(source, cast(dict[str, Any], OmegaConf.to_container(cfg.model)))
    weights, changes = adopted(
        source.weights, model, new_head=None not in (classes, source.classes) and classes != source.classes
    )
    checkpoint.load_weights(model, weights, source.path)
    if source.model is None and isinstance(model, ViT):
        changes.append(f"the file does not say how many heads its attention has: taken for {cfg.model.num_heads}")
    return {**source.about, "changes": changes}


def tell_beginning(init: dict[str, Any]) -> None:
    """Say where the first weights come from, and what of them had to change."""
    data = init.get("data", {}).get("name")
    trained = f", trained on {data}" if data else ""
    so_far = "" if init.get("status", "finished") == "finished" else f"; that run is {init['status']}, not finished"
    log.info("The first weights are those of %s%s%s.", init["from"], trained, so_far)
    for change in init["changes"]:
        log.info("  %s", change)


def check_same_network(source: Source, here: dict[str, Any]) -> None:
    """Refuse weights of a network with other arguments, as far as these are known."""
    if source.model is None:
        return
    names = network_name(source.model), network_name(here)
    if names[0] != names[1]:
        raise Refused(f"init={source.path} is a {names[0]}, and model here is a {names[1]}")
    there, here = flat(source.model), flat(here)
    may_differ = MAY_DIFFER - {"patch_size"} if "permute" in here else MAY_DIFFER  # its order is one of these patches
    differences = [
        f"{key} is {there.get(key, 'not set')} there and {here.get(key, 'not set')} here"
        for key in sorted(there | here)
        if there.get(key) != here.get(key) and key.rpartition(".")[2] not in may_differ
    ]
    if differences:
        raise Refused(f"init={source.path} does not fit the model: {'; '.join(differences)}")
