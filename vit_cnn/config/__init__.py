"""From a composed config to a checked one. Importing it registers the resolvers that ``conf/`` uses.

It does not import torch, so that ``--cfg job`` answers at once.
"""

from pathlib import Path

import vit_cnn.config.resolvers  # noqa: F401
from vit_cnn.config.checks import check, check_device
from vit_cnn.config.schema import typed

PACKAGE = Path(__file__).resolve().parent.parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # installed; checkout

__all__ = ["CONF", "check", "check_device", "typed"]
