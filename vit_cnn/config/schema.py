"""The config's keys and types. The values stand in ``conf/``, each once."""

import dataclasses
import typing
from typing import Any, Optional, Union

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from vit_cnn.errors import Refused, not_a_key, one_line


@dataclasses.dataclass
class Optimizer:
    name: str
    lr: float
    weight_decay: float
    decay_all: bool
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
    flip: Union[bool, str]
    crop_padding: int
    crop_scale: Optional[list[float]]
    crop_ratio: list[float]
    policy: Optional[str]
    erasing_probability: float
    erasing_area: list[float]
    erasing_ratio: list[float]


@dataclasses.dataclass
class Mixing:
    probability: float
    switch_probability: float
    cutmix_alpha: float
    mixup_alpha: float
    end: float


@dataclasses.dataclass
class Recipe:
    name: str
    epochs: int
    batch_size: int
    label_smoothing: float
    grad_clip: Optional[float]
    ema_decay: Optional[float]
    freeze_blocks: int
    layer_decay: float
    optimizer: Optimizer
    schedule: Schedule
    augment: Augment
    mixing: Mixing


@dataclasses.dataclass
class Trainer:
    device: str
    precision: str
    compile: bool
    cuda_graph: bool
    channels_last: bool
    keep_freed_memory: bool
    sync_batchnorm: bool
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
    artifacts: bool
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
    test: bool
    init: Optional[str]
    resume: Optional[str]
    layers: bool
    tensorboard: bool
    trust: Optional[str] = None  # of the command alone; runs of earlier versions have none
    experiment: Optional[str] = None  # the choice of the group, which Hydra leaves in the config when it is null


# Beginnings of keys. How a run is called, begun, told and logged changes none of its figures;
NO_FIGURE = ("experiment", "layers", "name", "resume", "tensorboard", "test", "trust", "wandb")
# where and how its steps are computed changes the speed alone, up to rounding.
SPEED_ALONE = (
    "trainer.device", "trainer.compile", "trainer.cuda_graph",
    "trainer.channels_last", "trainer.keep_freed_memory", "trainer.log_every",
)  # fmt: skip


def typed(schema: type, values: dict[str, Any], *, prefix: str) -> DictConfig:
    """Merge ``values`` into the dataclass ``schema``: OmegaConf converts and checks the types."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        if missing := OmegaConf.missing_keys(merged):
            key = min(missing)
            needs = "" if "." in key else f": {schema.__name__} needs {', '.join(fields(schema))}"
            raise Refused(f"{prefix}{key} is missing{needs}")
    except OmegaConfBaseException as error:
        key = prefix + (error.full_key or str(error.key))
        if isinstance(error, ConfigKeyError):
            known = error.object_type if dataclasses.is_dataclass(error.object_type) else schema
            raise Refused(not_a_key(key, fields(known))) from error
        raise Refused(f"{key}: {one_line(error)}") from error
    return typing.cast(DictConfig, merged)


def fields(schema: type) -> list[str]:
    return [field.name for field in dataclasses.fields(schema)]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
