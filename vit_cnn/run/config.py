"""The config in a run folder, read back: values only, of the right types, naming nothing that is not trusted."""

import os
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from vit_cnn.config.checks import check_ranges
from vit_cnn.config.earlier import complete
from vit_cnn.config.schema import Config, typed
from vit_cnn.config.trust import check_trusted
from vit_cnn.errors import Refused, one_line

FILE = Path(".hydra", "config.yaml")
GROUPS = ("model", "data", "recipe", "trainer")


def read_config(run_dir: Path, *, trust: str = "") -> DictConfig:
    """The config of a run, with what later versions have added.

    Args:
        trust: packages whose code it may name, as in ``config.trust``.

    Raises:
        Refused: it is damaged, no config of a run, or would call what is not trusted; one line, with the file.
    """
    path = run_dir / FILE
    try:
        text = path.read_text()
        if "${" in text:
            raise ValueError("it holds an interpolation (${…}), and a run writes values only")
        # A few lines of aliases can fill the memory.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("it holds an alias (*…), and a run writes values only")
        saved = OmegaConf.create(text)
        if not isinstance(saved, DictConfig) or not all(isinstance(saved.get(group), DictConfig) for group in GROUPS):
            raise ValueError(f"it is not the config of a run, which has {', '.join(GROUPS)}")
        if not all(isinstance(saved[group].get("_target_"), str) for group in ("model", "data")):
            raise ValueError("model and data need a _target_, the dotted path of a class or function")
        cfg = typed(Config, cast(dict[str, Any], OmegaConf.to_container(complete(saved))), prefix="")
        check_ranges(cfg)
    except Exception as error:  # whatever YAML and OmegaConf stumble over
        raise Refused(f"{path} cannot be used: {one_line(error)}") from error
    values = cast(dict[str, Any], OmegaConf.to_container(cfg))
    check_trusted(values, trust, source=path)
    find_images(values["data"])
    return OmegaConf.create(values)


def find_images(data: dict[str, Any]) -> None:
    """Where the images of a run no longer lie where they lay, as on another machine, look for that folder in
    ``$VIT_CNN_DATA``. Whether they are the same ones is for those to check who read them.
    """
    if isinstance(root := data.get("root"), str):
        here = Path(os.environ.get("VIT_CNN_DATA", "data"))
        elsewhere = here if is_cifar(data) else here / Path(root).name
        if not Path(root).expanduser().exists() and elsewhere.is_dir():
            data["root"] = str(elsewhere)


def is_cifar(data: dict[str, Any]) -> bool:
    """Whether they are an archive that lies in ``$VIT_CNN_DATA`` itself."""
    return str(data.get("_target_")).startswith("vit_cnn.data.") and str(data["_target_"]).endswith(".cifar")
