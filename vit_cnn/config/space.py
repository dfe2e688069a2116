"""What a search may choose from, read from Hydra's own notation for sweeps."""

from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.override_parser.types import IntervalSweep, Override

from vit_cnn.config.checks import check
from vit_cnn.config.grid import overrides_of, params_of
from vit_cnn.errors import Refused

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TAGS = {"log", "int"}


def read_space(command: list[str]) -> tuple[list[str], "dict[str, BaseDistribution]"]:
    """The overrides that hold for every trial, and what is searched, by its key.

    Args:
        command: a command line, whose experiment may have ``hydra.sweeper.params``.

    Raises:
        Refused: there is nothing to search, or a value at an end of what is searched is not allowed.
    """
    # Of several for the same key, the last one holds.
    found: dict[str, Override] = {each.get_key_element(): each for each in overrides_of(params_of(command), command)}
    space = {key: distribution(each) for key, each in found.items() if each.is_sweep_override()}
    fixed = [each.input_line or "" for each in found.values() if not each.is_sweep_override()]
    if not space:
        raise Refused(
            "nothing to search: name an experiment with hydra.sweeper.params, or give model.dropout=0,0.1,0.2"
        )
    if "seed" in space:
        raise Refused("the seed is not searched, or the luckiest would win: give one, such as seed=0")
    for end in (0, -1):
        cfg = check(compose("config", overrides=[*fixed, *settings_of({key: ends(space[key])[end] for key in space})]))
    if cfg.resume:
        raise Refused("resume= goes on with one run, and a search makes new ones: leave it out")
    return fixed, space


def distribution(override: Override) -> "BaseDistribution":
    """``interval(low,high)``, with the tags log and int, or one of the values of any other sweep.

    Raises:
        Refused: not both ends, an unknown tag, or numbers that do not go together.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if not isinstance(sweep, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    if unknown := set(sweep.tags) - TAGS:
        raise Refused(f"{override.input_line}: {min(unknown)} is not a tag; there are {', '.join(sorted(TAGS))}")
    low, high = sweep.start, sweep.end
    try:
        if "int" in sweep.tags:
            return IntDistribution(int(low), int(high), log="log" in sweep.tags)  # type: ignore[arg-type]
        return FloatDistribution(low, high, log="log" in sweep.tags)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise Refused(f"{override.input_line}: {error}") from error


def ends(values: Any) -> list[Any]:
    return list(values.choices) if hasattr(values, "choices") else [values.low, values.high]


def settings_of(params: dict[str, Any]) -> list[str]:
    """Chosen values as overrides."""
    return [f"{key}={value}" for key, value in params.items()]
