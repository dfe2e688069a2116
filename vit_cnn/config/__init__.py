"""From a composed config to a checked one. Importing it registers the resolvers that ``conf/`` uses.

It does not import torch, so that ``--cfg job`` answers at once.
"""

from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import vit_cnn.config.resolvers  # noqa: F401
from vit_cnn.config.checks import check, check_device
from vit_cnn.config.schema import typed
from vit_cnn.errors import Refused, one_line

PACKAGE = Path(__file__).resolve().parent.parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # installed; checkout

__all__ = ["CONF", "check", "check_device", "composed", "typed"]


def composed(*overrides: str) -> DictConfig:
    """The checked config that these overrides give on a command line: ``composed("model=cnn", "data=digits")``.

    Raises:
        Refused: whatever a command line refuses, with the same line.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return check(compose("config", overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise Refused(one_line(error)) from None  # theirs are pages long
