"""Which functions a run folder may call: its config names them, and the folder may come from a stranger.

Whoever writes a command trusts what it names. Of a config that is read back, only what this package ships is called
unasked, and what the user names beside it: ``trust=my_package``, ``--trust my_package`` or ``VIT_CNN_TRUST``.
"""

import inspect
import os
import pydoc
import re
from collections.abc import Iterator
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vit_cnn.config.target import PERMUTED
from vit_cnn.errors import Refused

EVERYTHING = "*"  # for configs that this process has written itself, or compared with its own

TORCHVISION = "torchvision.models."

AROUND = (PERMUTED, "vit_cnn.models.hybrid.Hybrid")  # networks with one of ours inside

ALLOWED = {  # ours are here, too, so that most configs are checked without importing torch
    "model": {
        "vit_cnn.models.ViT", "vit_cnn.models.vit.ViT", "vit_cnn.models.CNN", "vit_cnn.models.cnn.CNN",
        "timm.create_model", f"{TORCHVISION}get_model", *AROUND,
    },
    "data": {
        f"vit_cnn.data.{module}{name}" for module in ("", "sources.") for name in ("digits", "cifar", "folder")
    },
}  # fmt: skip

# Keys with which timm and torchvision read files or download them. ``pretrained`` is not among them: whoever loads a
# checkpoint switches it off.
READS_FILES = re.compile(r"model\.(pretrained_|weights|checkpoint|cache_dir)")

CHANGES_THE_CALL = re.compile(r"\._(args|partial|recursive|convert)_(\.|$)")  # Hydra's own keys


def check_trusted(config: dict[str, Any], trust: str, *, source: object) -> None:
    """Refuse a config that would call more than what this package ships and what the user trusts; imports nothing else.

    Args:
        config: with ``model`` and ``data`` as plain values.
        trust: dotted names of packages, modules or functions, separated by commas or colons; more in VIT_CNN_TRUST.
        source: where the config was read, for the message.

    Raises:
        Refused: names the key and what it would call.
    """
    names = [name for name in re.split(r"[,:\s]+", f"{trust} {os.environ.get('VIT_CNN_TRUST', '')}") if name]
    for key, value, target in strangers(config):
        if EVERYTHING not in names and not any(f"{target}.".startswith(f"{name}.") for name in names):
            package = package_of(target)
            raise Refused(
                f"{source}: {key}={value} is not called unasked, since a run folder may come from anybody. If you "
                f"trust that code, add trust={package} (predict, probe, report, export "
                f"and play: --trust {package}; elsewhere: VIT_CNN_TRUST={package})"
            )
        if EVERYTHING not in names and key.endswith("_target_"):
            check_home(target, source=source, key=key)


def trust_of(cfg: DictConfig) -> str:
    """What ``trust`` has to name for this config to be called when it is read back; empty for what we ship."""
    config = cast(dict[str, Any], OmegaConf.to_container(cfg))
    return ":".join(sorted({package_of(target) for _, _, target in strangers(config)}))


def strangers(config: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """What in ``model`` and ``data`` is not called unasked: key, value and the target that is called with it."""
    for group, allowed in ALLOWED.items():
        top = str(config[group].get("_target_"))
        for key, value in leaves(config[group], f"{group}."):
            if key.endswith("._target_"):
                is_top, is_inside = key == f"{group}._target_", key == "model.network._target_" and top in AROUND
                is_known = is_top and (value in allowed or (group == "model" and is_torchvision_network(str(value))))
                if not (is_known or ((is_top or is_inside) and is_ours(group, str(value)))):
                    yield key, value, str(value)
            elif CHANGES_THE_CALL.search(key) or (group == "model" and reads_files(top, key, value)):
                yield key, value, top


def is_ours(group: str, target: str) -> bool:
    """Whether it is a network of ``vit_cnn.models`` or a function of ``vit_cnn.data.sources``: a fork may have more."""
    if not target.startswith({"model": "vit_cnn.models.", "data": "vit_cnn.data."}[group]):
        return False
    from torch import nn

    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        return True  # told by whoever calls it
    home = str(getattr(found, "__module__", None))
    if group == "data":
        return inspect.isfunction(found) and home == "vit_cnn.data.sources"
    return isinstance(found, type) and issubclass(found, nn.Module) and home.startswith("vit_cnn.models.")


def reads_files(target: str, key: str, value: Any) -> bool:
    """Whether a network of timm or torchvision would read a file, or download one, because of this value."""
    if target.startswith(("timm.", TORCHVISION)) and READS_FILES.match(key):
        return value is not None
    if target == "timm.create_model" and key == "model.model_name":
        return not re.fullmatch(r"[\w.]+", str(value))  # as hf-hub:… and local-dir:… are not
    is_name = target == f"{TORCHVISION}get_model" and key == "model.name"
    return is_name and not is_torchvision_network(f"{TORCHVISION}{value}")


def is_torchvision_network(target: str) -> bool:
    """Whether it is one of torchvision's classifiers: its networks for other tasks come with downloaded weights."""
    if not target.startswith(TORCHVISION):
        return False
    import torchvision

    return target.removeprefix(TORCHVISION) in torchvision.models.list_models(module=torchvision.models)


def leaves(values: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Plain values with their keys, joined with dots, also those in lists."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in pairs:
        if isinstance(value, (dict, list)) and value and key != "_target_":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def package_of(target: str) -> str:
    return target.split(".", maxsplit=1)[0]


def check_home(target: str, *, source: object, key: str) -> None:
    """A package is trusted with its own code, not with all that it imports: ``my_package.os.system``."""
    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        return  # told by whoever calls it
    home = getattr(found, "__module__", None) or ""
    if found is not None and package_of(home) != package_of(target):
        raise Refused(f"{source}: {key}={target} is {home}.{getattr(found, '__name__', '')}, of another package")
