"""What a ``_target_`` names: a class or function, whoever wrote it. Its signature is the schema of its YAML file."""

import contextlib
import dataclasses
import difflib
import enum
import inspect
import pydoc
import typing
from collections.abc import Callable, Mapping
from typing import Any, Optional

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vit_cnn.config.schema import typed
from vit_cnn.errors import Refused, one_line, place

OWN = ("ViT", "CNN")
PERMUTED = "vit_cnn.models.permuted.Permuted"
INSTALLED_APART = ("timm",)  # packages that conf/ names and that the package does without
PLAIN = (bool, int, float, str, list, tuple, dict, type(None), Any)  # what YAML can hold


def network_name(model: Mapping[str, Any]) -> str:
    """What the network of a config is called: ``vit_cnn.models.ViT`` → ``ViT``.

    A network whose images are permuted is ``Permuted-ViT`` or ``Permuted-CNN``.
    A function that makes many networks, such as ``timm.create_model``, takes its name as ``model_name`` or ``name``.
    Another's ViT or CNN keeps its whole path, so that no report takes it for ours.
    """
    target = model.get("_target_")
    if not target or not isinstance(target, str):
        raise Refused(f"model._target_ is {target or 'missing'}: it takes the dotted path of a class or function")
    if target == PERMUTED:
        if not isinstance(inner := model.get("network"), Mapping):
            raise Refused(
                f"model.network is {inner}: it takes the config of a network, as conf/model/permuted_vit.yaml"
            )
        return f"Permuted-{network_name(inner)}"
    for key in ("model_name", "name"):
        if isinstance(name := model.get(key), str):
            short = name.rsplit("/", maxsplit=1)[-1]
            return f"{target}.{short}" if short in OWN else short
    name = target.rsplit(".", maxsplit=1)[-1]
    return target if name in OWN and not target.startswith("vit_cnn.") else name


def arguments(target: str | None, values: dict[str, Any], *, group: str) -> dict[str, Any]:
    """What a class or function is called with: ``values``, checked, and its own defaults, so that a run records them.

    Types are checked where an annotation is plain, keys where there is no ``**kwargs``; the function checks the rest.

    Args:
        target: dotted path, such as ``vit_cnn.models.ViT``.
        group: ``model`` or ``data``, for the messages.

    Raises:
        Refused: it cannot be imported, or a key is unknown or missing, or its value has a wrong type.
    """
    if not target or not isinstance(target, str):
        raise Refused(f"{group}._target_ is {target or 'missing'}: it takes the dotted path of a class or function")
    parameters, takes_any_key = parameters_of(located(target, key=f"{group}._target_"))
    extra = {key: value for key, value in values.items() if takes_any_key and key not in parameters}
    named = {key: value for key, value in values.items() if key not in extra}
    fields = [(name, *schema_of(parameter)) for name, parameter in parameters.items()]
    schema = dataclasses.make_dataclass(target.rsplit(".", maxsplit=1)[-1], fields)
    checked = typing.cast(dict[str, Any], OmegaConf.to_container(typed(schema, named, prefix=f"{group}.")))
    recorded = {key: value for key, value in checked.items() if key in values or is_value(parameters[key].default)}
    return recorded | extra


def parameters_of(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters by their keys in YAML, with types for annotations, and whether there is ``**kwargs``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some functions written in C do not tell
        return {}, True
    hints: dict[str, Any] = {}
    with contextlib.suppress(NameError, TypeError):  # types that were imported for a type checker only
        hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    found = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            found["_args_"] = parameter.replace(annotation=Any)  # Hydra's key for them
        elif parameter.kind is not parameter.VAR_KEYWORD:
            found[parameter.name] = parameter.replace(annotation=hints.get(parameter.name, Any))
    return found, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def schema_of(parameter: inspect.Parameter) -> tuple[Any, Any]:
    """Type and default for a field of a dataclass: ``Any`` for a type that OmegaConf does not know, or YAML has not."""
    is_required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    default = MISSING if is_required else parameter.default if is_value(parameter.default) else None
    try:
        hint = parameter.annotation if default is not None else Optional[parameter.annotation]
        OmegaConf.structured(dataclasses.make_dataclass("Argument", [("value", hint, default)]))
    except (OmegaConfBaseException, TypeError):
        return Any, default
    return hint if is_plain(hint) else Any, default


def is_value(default: Any) -> bool:
    return isinstance(default, (bool, int, float, str, type(None))) and not isinstance(default, enum.Enum)


def is_plain(hint: Any) -> bool:
    inner = [each for each in typing.get_args(hint) if each is not Ellipsis]
    return all(map(is_plain, inner)) if inner else hint in PLAIN


def located(target: str, *, key: str) -> Callable[..., Any]:
    """The class or function with a dotted path.

    Raises:
        Refused: there is none, or its file has an error; one line, with the file.
    """
    try:
        found = pydoc.locate(target)
        module, _, name = target.rpartition(".")
        around = pydoc.locate(module) if module else None
    except pydoc.ErrorDuringImport as error:
        if error.exc is KeyboardInterrupt:
            raise KeyboardInterrupt from error
        cause = error.value or error
        what = f"{type(cause).__name__}: {one_line(cause)}"
        raise Refused(f"{key}={target} cannot be imported: {what}{place(cause)}") from error
    if callable(found):
        return found
    package = target.split(".", maxsplit=1)[0]
    if package in INSTALLED_APART and around is None:
        raise Refused(f"{key}={target} needs {package}: pip install {package}")
    why = f"there is no module {module or target} in this folder, on PYTHONPATH or installed"
    if around is not None:
        meant = difflib.get_close_matches(name, dir(around), n=1)
        why = f"{module} has no class or function {name}" + (f": did you mean {meant[0]}?" if meant else "")
    raise Refused(f"{key}={target} cannot be imported: {why}")
