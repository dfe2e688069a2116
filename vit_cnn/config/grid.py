"""The jobs of a sweep, as Hydra's own sweeper makes them of a command line, and what tells one from another."""

from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


def params_of(command: list[str]) -> Any:
    """What the experiment of a command line sweeps by itself: its ``hydra.sweeper.params``."""
    single = [each.input_line or "" for each in overrides_of(None, command) if not each.is_sweep_override()]
    return compose("config", overrides=single, return_hydra_config=True).hydra.sweeper.params


def overrides_of(params: Any, command: list[str]) -> list[Override]:
    """The overrides of a sweep: ``hydra.sweeper.params`` of its experiment, then those of the command line."""
    return OverridesParser.create().parse_overrides([*(f"{key}={params[key]}" for key in params or ()), *command])


def jobs_of(overrides: list[Override]) -> list[list[str]]:
    """The overrides of each job."""
    return [list(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]


def constant_keys(params: Any, overrides: list[Override]) -> list[str]:
    """Keys that are the same in every job. What an experiment sweeps stays swept where a command line fixes it."""
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()} | set(params or {})
    return sorted({override.key_or_group for override in overrides} - swept)


def without(keys: list[str], overrides: list[str]) -> list[str]:
    """Overrides of other keys than these."""
    return [each for each in overrides if each.split("=")[0].lstrip("+~") not in keys]
