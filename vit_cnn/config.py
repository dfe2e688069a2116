"""The config's types, ranges and cross-field checks. The values stand in ``conf/``, each once.

Importing this module registers the resolvers that ``conf/`` uses. It does not import torch, so that ``--cfg job``
answers at once.
"""

import ctypes
import dataclasses
import hashlib
import inspect
import pydoc
import re
import sys
import typing
from datetime import datetime
from pathlib import Path
from typing import Any, Optional

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from vit_cnn.errors import Refused, one_line

CONF = Path(__file__).resolve().parent.parent / "conf"
LONGEST_NAME = 120  # of a job's folder; file systems end at 255 bytes


@dataclasses.dataclass
class Optimizer:
    name: str
    lr: float
    weight_decay: float
    betas: list[float]
    momentum: float


@dataclasses.dataclass
class Schedule:
    name: str
    warmup_epochs: float
    milestones: list[int]
    gamma: float


@dataclasses.dataclass
class Augment:
    flip: bool
    crop_padding: int
    crop_scale: Optional[list[float]]
    crop_ratio: list[float]


@dataclasses.dataclass
class Recipe:
    name: str
    epochs: int
    batch_size: int
    label_smoothing: float
    grad_clip: Optional[float]
    optimizer: Optimizer
    schedule: Schedule
    augment: Augment


@dataclasses.dataclass
class Trainer:
    device: str
    precision: str
    compile: bool
    cuda_graph: bool
    channels_last: bool
    keep_freed_memory: bool
    log_every: Optional[int]


@dataclasses.dataclass
class Media:
    inputs: bool
    attention: bool
    filters: bool
    confusion: bool
    per_class: bool
    mistakes: bool


@dataclasses.dataclass
class WandB:
    mode: str
    project: str
    entity: Optional[str]
    group: str
    tags: list[str]
    media: Media


@dataclasses.dataclass
class Config:
    model: Any  # its schema is the signature of model._target_
    data: Any  # its schema is the signature of data._target_
    recipe: Recipe
    trainer: Trainer
    wandb: WandB
    name: str
    seed: int
    max_steps: Optional[int]
    resume: Optional[str]
    layers: bool
    experiment: Optional[str] = None  # the choice of the group, which Hydra leaves in the config when it is null


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


# Written so that nan, which compares false with everything, is refused.
RANGES: dict[str, tuple[Any, str]] = {
    "seed": at_least(0),
    "max_steps": at_least(1),
    "recipe.epochs": at_least(1),
    "recipe.batch_size": at_least(1),
    "recipe.label_smoothing": (fraction, "at least 0 and below 1"),
    "recipe.grad_clip": above(0),
    "recipe.optimizer.name": one_of("adamw", "sgd"),
    "recipe.optimizer.lr": above(0),
    "recipe.optimizer.weight_decay": at_least(0),
    "recipe.optimizer.betas": (lambda betas: len(betas) == 2 and all(map(fraction, betas)), "two numbers in [0, 1)"),
    "recipe.optimizer.momentum": (fraction, "at least 0 and below 1"),
    "recipe.schedule.name": one_of("multistep", "cosine", "constant"),
    "recipe.schedule.warmup_epochs": at_least(0),
    "recipe.schedule.milestones": (lambda m: sorted(set(m)) == list(m) and all(e > 0 for e in m), "rising epochs"),
    "recipe.schedule.gamma": above(0),
    "recipe.augment.crop_padding": at_least(0),
    "recipe.augment.crop_scale": (
        lambda s: interval(s) and s[1] <= 1,
        "[smallest, largest] share of the area, in (0, 1]",
    ),
    "recipe.augment.crop_ratio": (interval, "[smallest, largest] width / height, above 0"),
    "trainer.device": (lambda device: re.fullmatch(r"cpu|mps|cuda(:\d+)?", device), "cpu, cuda, cuda:<index> or mps"),
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
}


def check(composed: DictConfig) -> DictConfig:
    """Check a composed config and return it typed and resolved.

    Builds the network without memory for its weights (torch's ``meta`` device), so that sizes that do not fit are
    found before a device is touched, whoever wrote the network.

    Raises:
        Refused: unknown key, wrong type, value out of range, or values that do not go together; one line.
    """
    if missing := OmegaConf.missing_keys(composed):
        raise Refused(f"{', '.join(sorted(missing))} is missing: give it on the command line, {min(missing)}=…")
    values = typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    cfg = typed(Config, values, prefix="")
    for group in ("model", "data"):
        target = values[group].pop("_target_", None)
        arguments = typed(signature(target, key=f"{group}._target_"), values[group], prefix=f"{group}.")
        cfg[group] = {"_target_": target, **arguments}
    check_ranges(cfg)
    check_device(cfg)
    check_model(cfg)
    return cfg


def typed(schema: type, values: dict[str, Any], *, prefix: str) -> DictConfig:
    """Merge ``values`` into the dataclass ``schema``: OmegaConf converts and checks the types."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        if missing := OmegaConf.missing_keys(merged):
            raise Refused(f"{prefix}{min(missing)} is missing: {schema.__name__} needs {', '.join(fields(schema))}")
    except OmegaConfBaseException as error:
        key = prefix + (error.full_key or str(error.key))
        if isinstance(error, ConfigKeyError):
            known = error.object_type if dataclasses.is_dataclass(error.object_type) else schema
            raise Refused(f"{key} is not a key; there are {', '.join(fields(known))}") from error
        raise Refused(f"{key}: {one_line(error)}") from error
    return typing.cast(DictConfig, merged)


def fields(schema: type) -> list[str]:
    return [field.name for field in dataclasses.fields(schema)]


def signature(target: str | None, *, key: str) -> type:
    """The keyword-only arguments of a class or function as a dataclass: its signature is its schema.

    Args:
        target: dotted path, such as ``vit_cnn.models.ViT``.
        key: config key that holds it, for the message.

    Raises:
        Refused: it cannot be imported.
    """
    if not target:
        raise Refused(f"{key} is missing: the dotted path of a class or function")
    try:
        function: Any = pydoc.locate(target)
    except pydoc.ErrorDuringImport as error:
        raise Refused(f"{key}={target} cannot be imported: {error}") from error
    if not callable(function):
        raise Refused(f"{key}={target} cannot be imported: there is no such class or function")
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    arguments = []
    for parameter in inspect.signature(function).parameters.values():
        default = MISSING if parameter.default is parameter.empty else parameter.default
        arguments.append((parameter.name, hints.get(parameter.name, Any), dataclasses.field(default=default)))
    return dataclasses.make_dataclass(function.__name__, arguments)


def check_ranges(cfg: DictConfig) -> None:
    for key, (allows, allowed) in RANGES.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and not allows(value):
            raise Refused(f"{key}={value} must be {allowed}")
    warmup, epochs = cfg.recipe.schedule.warmup_epochs, cfg.recipe.epochs
    if warmup > epochs:
        raise Refused(
            f"recipe.schedule.warmup_epochs={warmup:g} is longer than the run: at most recipe.epochs={epochs}"
        )
    padding, size = cfg.recipe.augment.crop_padding, cfg.data.image_size
    if padding >= size:
        raise Refused(f"recipe.augment.crop_padding={padding} must be below data.image_size={size}")


def check_device(cfg: DictConfig) -> None:
    import torch

    from vit_cnn.evaluate import precision_of

    device = torch.device(cfg.trainer.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
            raise Refused(
                f"trainer.device={cfg.trainer.device}: PyTorch ({torch.__version__}, built with {build}) finds no GPU "
                "here; use trainer=cpu, or install a driver and a PyTorch that fit"
            )
        if (device.index or 0) >= torch.cuda.device_count():
            raise Refused(f"trainer.device={cfg.trainer.device}: there are {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise Refused("trainer.device=mps: this PyTorch finds no Apple GPU here; use trainer=cpu")
    if device.type != "cuda" and cfg.trainer.precision in ("fp16", "amp"):
        raise Refused(f"trainer.precision={cfg.trainer.precision} needs trainer=gpu; on {device.type}: fp32 or bf16")
    if cfg.trainer.cuda_graph:
        if device.type != "cuda":
            raise Refused(f"trainer.cuda_graph=true needs trainer=gpu, not trainer.device={cfg.trainer.device}")
        if precision_of(cfg.trainer) == "fp16":
            raise Refused("trainer.cuda_graph=true needs trainer.precision=bf16 or fp32: fp16 waits for the device")


def check_model(cfg: DictConfig) -> None:
    import torch
    from hydra.utils import instantiate

    size, channels, classes = cfg.data.image_size, cfg.data.num_channels, cfg.data.num_classes
    try:
        with torch.device("meta"):
            logits = instantiate(cfg.model)(torch.empty(2, channels, size, size))
    except Exception as error:  # a constructor's own checks, or whatever a stranger's network raises
        cause = error.__cause__ or error
        raise Refused(f"model: {one_line(cause)} ({cfg.model._target_})") from error
    if logits.shape != (2, classes):
        raise Refused(
            f"model: {cfg.model._target_} turns images [2, {channels}, {size}, {size}] into {list(logits.shape)}, "
            f"not into logits [2, {classes}]"
        )


# Resolvers: what conf/ cannot say in YAML.


def auto_trainer() -> str:
    """``gpu`` where a CUDA driver sees a device, else ``cpu``. Asks the driver: importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        sees_device = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
        return "gpu" if sees_device else "cpu"
    except (OSError, AttributeError):
        return "cpu"


def run_name(target: str, data_name: str) -> str:
    """``vit_cnn.models.ViT`` and ``CIFAR-10 (JPEG)`` → ``vit-cifar-10-jpeg``."""
    return "-".join(re.findall(r"[a-z0-9]+", f"{target.rsplit('.', maxsplit=1)[-1]} {data_name}".lower()))


def run_folder(resume: str | None, name: str) -> str:
    if resume is not None:
        if not (Path(resume) / ".hydra" / "config.yaml").is_file():
            raise Refused(f"resume={resume} is not a run folder: it has no .hydra/config.yaml")
        return resume
    return f"runs/{name}/{datetime.now():%Y-%m-%d_%H-%M-%S}"


def file_name(text: str) -> str:
    """``text`` without slashes, and, where it is too long for a file's name, cut and told apart by a hash."""
    name = re.sub(r"[^\w.+-]+", "-", text)
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def folder_name(root: str) -> str:
    return Path(root).resolve().name


def folder_num_classes(root: str) -> int:
    from vit_cnn.folder import class_names

    return len(class_names(Path(root)))


def folder_image_size(root: str) -> int:
    from vit_cnn.folder import common_image_size

    return common_image_size(Path(root))


for resolver in (auto_trainer, run_name, run_folder, file_name, folder_name, folder_num_classes, folder_image_size):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
