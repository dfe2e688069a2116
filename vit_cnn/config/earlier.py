"""Configs that earlier versions wrote: the keys that came later, each with the value that does what was done before."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

VIT = {"stochastic_depth": 0.0, "patch_dropout": 0.0, "mimetic": False}
MODEL: dict[str, dict[str, Any]] = {"vit_cnn.models.ViT": VIT, "vit_cnn.models.vit.ViT": VIT}
DATA: dict[str, dict[str, Any]] = {
    f"vit_cnn.data.{source}": {"train_share": 1.0} for source in ("cifar", "digits", "folder")
}
AUGMENT = {"policy": None, "erasing_probability": 0.0, "erasing_area": [0.02, 0.33], "erasing_ratio": [0.3, 3.3]}
MIXING = {"probability": 0.0, "switch_probability": 0.5, "cutmix_alpha": 1.0, "mixup_alpha": 0.8, "end": 1.0}
RECIPE: dict[str, Any] = {
    "ema_decay": None,
    "freeze_blocks": 0,
    "layer_decay": 1.0,
    "optimizer.decay_all": True,
    "mixing": MIXING,
}
RECIPE |= {f"augment.{key}": value for key, value in AUGMENT.items()}


def complete(saved: DictConfig) -> DictConfig:
    """Add to the config of a run folder, in place, what it does not say yet; returns it."""
    later = {f"model.{key}": value for key, value in MODEL.get(saved.model._target_, {}).items()}
    later |= {f"data.{key}": value for key, value in DATA.get(saved.data._target_, {}).items()}
    later |= {f"recipe.{key}": value for key, value in RECIPE.items()}
    later["wandb.artifacts"] = False
    later["trainer.sync_batchnorm"] = True
    for key, value in later.items():
        group, name = key.rsplit(".", maxsplit=1)
        holder = OmegaConf.select(saved, group)
        if isinstance(holder, DictConfig) and name not in holder:
            OmegaConf.update(saved, key, value)
    saved.setdefault("test", True)
    saved.setdefault("init", None)
    saved.setdefault("tensorboard", False)
    return saved
