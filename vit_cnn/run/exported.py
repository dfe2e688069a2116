"""An export folder, read back: values and weights, checked before use, since the folder may come from anybody."""

import dataclasses
import math
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vit_cnn.config.schema import typed
from vit_cnn.config.trust import check_trusted
from vit_cnn.errors import Refused, first_line
from vit_cnn.run.files import read_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = "vit_cnn 1"  # a new number when the keys of config.json change


@dataclasses.dataclass
class About:
    """What ``config.json`` holds.

    Attributes:
        format: ``FORMAT``.
        architectures: the network's name, where Hugging Face looks for it.
        model: the network's constructor and its arguments, as ``model`` in the config of a run.
        classes: names, by label.
        image_size, num_channels, fit: how an image is brought to the network's size, as in ``conf/data/folder.yaml``.
        mean, std: by channel, of the training images' pixels in [0, 1].
        data: name of the images it was trained on, and the fingerprint of images and split.
        weights: precision of the numbers in ``model.safetensors``.
        trained: which run it was: recipe, seed, epochs, commit.
    """

    format: str
    architectures: list[str]
    model: dict[str, Any]
    classes: list[str]
    image_size: int
    num_channels: int
    fit: str
    mean: list[float]
    std: list[float]
    data: dict[str, Any]
    weights: str
    trained: dict[str, Any]


def is_export(folder: Path) -> bool:
    """Whether it is meant as an export folder, be it a half or a foreign one."""
    return any((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def read_about(folder: Path, *, trust: str = "") -> About:
    """What an export folder says of its network.

    Args:
        trust: packages whose code it may name, as in ``config.trust``.

    Raises:
        Refused: it is half a folder or another program's, a value is wrong, or it would call what is not trusted.
    """
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise Refused(f"{folder} is half an export folder: it has no {missing[0]}")
    path = folder / CONFIG
    values = read_json(path)
    if values.get("format") != FORMAT:
        found = f"its format is {values.get('format')!r:.40}, and vit_cnn writes {FORMAT!r}"
        raise Refused(f"{path} is not of an export folder: {found}")
    if "${" in str(values):
        raise Refused(f"{path} cannot be used: it holds an interpolation (${{…}}), and an export writes values only")
    try:
        about = cast(About, OmegaConf.to_object(typed(About, values, prefix="")))
    except Refused as error:
        raise Refused(f"{path} cannot be used: {error}") from error
    is_right = {
        "model": isinstance(about.model.get("_target_"), str),
        "classes": len(about.classes) > 0,
        "image_size": about.image_size >= 1,
        "num_channels": about.num_channels in (1, 3),
        "fit": about.fit in ("crop", "squash"),
        "mean": len(about.mean) == about.num_channels and all(map(math.isfinite, about.mean)),
        "std": len(about.std) == about.num_channels and all(0 < value < math.inf for value in about.std),
    }
    if wrong := [key for key, right in is_right.items() if not right]:
        raise Refused(f"{path} cannot be used: {wrong[0]} is {getattr(about, wrong[0])!r:.60}")
    check_trusted({"model": about.model, "data": {}}, trust, source=path)
    return about


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; numbers of fewer bits become float32.

    Raises:
        Refused: there is no such file, or it is damaged.
    """
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise Refused(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError, LookupError, RuntimeError) as error:
        raise Refused(f"{path} is damaged: {first_line(error)}") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
