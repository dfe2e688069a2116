"""Configs that earlier versions wrote: the keys that came later, each with the value that does what was done before."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

VIT = {"stochastic_depth": 0.0, "patch_dropout": 0.0, "mimetic": False}
MODEL: dict[str, dict[str, Any]] = {"vit_cnn.models.ViT": VIT, "vit_cnn.models.vit.ViT": VIT}
DATA: dict[str, dict[str, Any]] = {
    f"vit_cnn.data.{source}": {"train_share": 1.0} for source in ("cifar", "digits", "folder")
}
RECIPE: dict[str, Any] = {"ema_decay": None, "optimizer.decay_all": True}


def complete(saved: DictConfig) -> DictConfig:
    """Add to the config of a run folder, in place, what it does not say yet; returns it."""
    later = {f"model.{key}": value for key, value in MODEL.get(saved.model._target_, {}).items()}
    later |= {f"data.{key}": value for key, value in DATA.get(saved.data._target_, {}).items()}
    later |= {f"recipe.{key}": value for key, value in RECIPE.items()}
    for key, value in later.items():
        group, name = key.rsplit(".", maxsplit=1)
        if name not in OmegaConf.select(saved, group):
            OmegaConf.update(saved, key, value)
    return saved
