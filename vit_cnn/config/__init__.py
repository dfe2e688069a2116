"""From a composed config to a checked one. Importing it registers the resolvers that ``conf/`` uses.

It does not import torch, so that ``--cfg job`` answers at once.
"""

from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import vit_cnn.config.resolvers  # noqa: F401
from vit_cnn.config.checks import check, check_device
from vit_cnn.config.paste import in_hydra_grammar
from vit_cnn.config.schema import typed
from vit_cnn.errors import Refused, one_line

PACKAGE = Path(__file__).resolve().parent.parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())  # installed; checkout

__all__ = ["CONF", "check", "check_device", "composed", "refuse_hidden_file", "searchpath", "typed"]


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


def searchpath(folder: Path | None, overrides: list[str]) -> list[str]:
    """``--config-dir`` as an override, for commands that compose without Hydra's command line.

    Raises:
        Refused: there is no such folder, or the overrides choose a file in it that has the name of a shipped one.
    """
    if folder is None:
        return []
    if not folder.is_dir():
        raise Refused(f"--config-dir {folder} is not a folder")
    for override in overrides:
        group, _, choice = override.lstrip("+").partition("=")
        refuse_hidden_file(folder, group, choice)
    return [f"hydra.searchpath=[{in_hydra_grammar(f'file://{folder.resolve()}')}]"]


def refuse_hidden_file(folder: Path, group: str, choice: str) -> None:
    """Refuse the file of ``folder`` for this choice where ``conf/`` has one of that name, which comes first."""
    file = Path(group.partition("@")[0], f"{choice}.yaml")
    if (folder / file).exists() and (CONF / file).exists():
        raise Refused(f"{folder / file} is hidden by conf/{file}: give it another name")
