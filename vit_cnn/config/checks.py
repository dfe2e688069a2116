"""The config's ranges, and what has to go together. Imports torch only when a device or a network is asked for."""

import re
import typing
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vit_cnn.config.schema import Config, typed
from vit_cnn.config.target import arguments
from vit_cnn.errors import NEEDS_PACKAGE, Refused
from vit_cnn.processes.together import here


def one_of(*allowed: str) -> tuple[Any, str]:
    return lambda value: value in allowed, "one of " + ", ".join(allowed)


def at_least(low: float) -> tuple[Any, str]:
    return lambda value: value >= low, f"at least {low}"


def above(low: float) -> tuple[Any, str]:
    return lambda value: low < value < float("inf"), f"above {low}"


def fraction(value: float) -> bool:
    return 0 <= value < 1


def interval(value: list[float]) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1]


SHARE = (lambda value: 0 <= value <= 1, "at least 0 and at most 1")
AREA = (lambda value: interval(value) and value[1] <= 1, "[smallest, largest] share of the area, in (0, 1]")

# Written so that nan, which compares false with everything, is refused.
RANGES: dict[str, tuple[Any, str]] = {
    "seed": (lambda seed: 0 <= seed < 2**63, "at least 0 and below 2^63"),
    "max_steps": at_least(1),
    "recipe.epochs": at_least(1),
    "recipe.batch_size": at_least(1),
    "recipe.label_smoothing": (fraction, "at least 0 and below 1"),
    "recipe.grad_clip": above(0),
    "recipe.ema_decay": (fraction, "at least 0 and below 1"),
    "recipe.freeze_blocks": at_least(0),
    "recipe.layer_decay": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "recipe.optimizer.name": one_of("adamw", "sgd", "muon"),
    "recipe.optimizer.lr": above(0),
    "recipe.optimizer.weight_decay": at_least(0),
    "recipe.optimizer.betas": (lambda betas: len(betas) == 2 and all(map(fraction, betas)), "two numbers in [0, 1)"),
    "recipe.optimizer.momentum": (fraction, "at least 0 and below 1"),
    "recipe.schedule.name": one_of("multistep", "cosine", "constant"),
    "recipe.schedule.warmup_epochs": at_least(0),
    "recipe.schedule.milestones": (lambda m: sorted(set(m)) == list(m) and all(e > 0 for e in m), "rising epochs"),
    "recipe.schedule.gamma": above(0),
    "recipe.augment.crop_padding": at_least(0),
    "recipe.augment.flip": (lambda flip: flip in (True, False, "alternating"), "true, false or alternating"),
    "recipe.augment.crop_scale": AREA,
    "recipe.augment.crop_ratio": (interval, "[smallest, largest] width / height, above 0"),
    "recipe.augment.policy": one_of("trivial", "autoaugment"),
    "recipe.augment.erasing_probability": SHARE,
    "recipe.augment.erasing_area": AREA,
    "recipe.augment.erasing_ratio": (interval, "[smallest, largest] width / height, above 0"),
    "recipe.mixing.probability": SHARE,
    "recipe.mixing.switch_probability": SHARE,
    "recipe.mixing.cutmix_alpha": above(0),
    "recipe.mixing.mixup_alpha": above(0),
    "recipe.mixing.end": SHARE,
    "trainer.device": (lambda device: re.fullmatch(r"cpu|mps|cuda(:\d\d?)?", device), "cpu, cuda, cuda:<index> or mps"),
    "trainer.precision": one_of("fp32", "bf16", "fp16", "amp"),
    "trainer.log_every": at_least(1),
    "wandb.mode": one_of("auto", "online", "offline", "disabled"),
    "data.image_size": at_least(1),
    "data.num_channels": (lambda channels: channels in (1, 3), "1 (grey) or 3 (RGB)"),
    "data.num_classes": at_least(1),
    "data.fit": one_of("crop", "squash"),
    "data.val_fraction": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "data.test_fraction": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "data.max_images": at_least(1),
    "data.train_share": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
}


def check(composed: DictConfig) -> DictConfig:
    """Check a composed config and return it typed and resolved.

    Builds the network too, so that sizes that do not fit are found before a device is touched, whoever wrote it.

    Raises:
        Refused: unknown key, wrong type, value out of range, or values that do not go together; one line.
    """
    if missing := OmegaConf.missing_keys(composed):
        raise Refused(f"{', '.join(sorted(missing))} is missing: give it on the command line, {min(missing)}=…")
    values = typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    if isinstance(values.get("experiment"), dict):
        raise Refused(f"experiment: the file {NEEDS_PACKAGE}")
    cfg = typed(Config, values, prefix="")
    for group in ("model", "data"):
        target = values[group].pop("_target_", None)
        cfg[group] = {"_target_": target, **arguments(target, values[group], group=group)}
    check_ranges(cfg)
    check_device(cfg)
    if cfg.tensorboard and find_spec("tensorboard") is None:
        raise Refused("tensorboard=true needs tensorboard: pip install tensorboard")

    from vit_cnn.config.network import check_network

    check_network(cfg)
    return cfg


def check_ranges(cfg: DictConfig) -> None:
    for key in RANGES:
        check_range(cfg, key)
    warmup, epochs = cfg.recipe.schedule.warmup_epochs, cfg.recipe.epochs
    if warmup > epochs:
        raise Refused(
            f"recipe.schedule.warmup_epochs={warmup:g} is longer than the run: at most recipe.epochs={epochs}"
        )
    if cfg.recipe.freeze_blocks and not cfg.init:
        raise Refused(f"recipe.freeze_blocks={cfg.recipe.freeze_blocks} needs init=: random weights would stay random")
    padding, size = cfg.recipe.augment.crop_padding, cfg.data.image_size
    if padding >= size:
        raise Refused(f"recipe.augment.crop_padding={padding} must be below data.image_size={size}")


def check_range(cfg: DictConfig, key: str) -> None:
    allows, allowed = RANGES[key]
    value = OmegaConf.select(cfg, key)
    if value is not None and not fits(value, allows):
        raise Refused(f"{key}={value} must be {allowed}")


def fits(value: Any, allows: Any) -> bool:
    try:
        return bool(allows(value))
    except TypeError:  # text, where a number belongs
        return False


def check_device(cfg: DictConfig) -> None:
    import torch

    from vit_cnn.machine import precision_of

    check_range(cfg, "trainer.device")
    device = torch.device(cfg.trainer.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
            raise Refused(
                f"trainer.device={cfg.trainer.device}: PyTorch ({torch.__version__}, built with {build}) finds no GPU "
                "here; use trainer=cpu, or install a driver and a PyTorch that fit"
            )
        if here.number > 1 and device.index is not None:
            raise Refused(f"trainer.device={cfg.trainer.device} is one GPU for {here.number} processes: use cuda")
        if here.local_number > torch.cuda.device_count():
            raise Refused(f"{here.local_number} processes on a machine with {torch.cuda.device_count()} CUDA devices")
        if (device.index or 0) >= torch.cuda.device_count():
            raise Refused(f"trainer.device={cfg.trainer.device}: there are {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise Refused("trainer.device=mps: this PyTorch finds no Apple GPU here; use trainer=cpu")
    if device.type != "cuda" and cfg.trainer.precision in ("fp16", "amp"):
        raise Refused(f"trainer.precision={cfg.trainer.precision} needs trainer=gpu; on {device.type}: fp32 or bf16")
    if cfg.trainer.cuda_graph:
        if device.type != "cuda":
            raise Refused(f"trainer.cuda_graph=true needs trainer=gpu, not trainer.device={cfg.trainer.device}")
        if precision_of(cfg.trainer.precision) == "fp16":
            raise Refused("trainer.cuda_graph=true needs trainer.precision=bf16 or fp32: fp16 waits for the device")
