"""Which runs belong together: those that differ in nothing but the seed; and which cannot be compared at all."""

import dataclasses
from typing import Any

import numpy as np

from vit_cnn.config.schema import NO_FIGURE, SPEED_ALONE, flat
from vit_cnn.errors import Refused
from vit_cnn.run.reading import Run

# Beginnings of keys that may differ between runs that are seeds of one another. (The device is told from the result.)
HARMLESS = (*NO_FIGURE, "seed", "data", "trainer.log_every", "trainer.keep_freed_memory", "trainer.device")

RECIPE = "recipe.name"

FIRST = {"ViT": 0, "CNN": 1}  # the order of networks; others follow


def label_runs(runs: list[Run], *, machines: bool = True) -> list[Run]:
    """Give each run a label: its model, and the settings and machines in which the runs of that model differ.

    Where they have several recipes, a recipe's name stands for its values, and for the network's settings that go with
    it: of these only what differs within a recipe is named.

    Args:
        machines: whether runs on different machines, or with other settings that change the speed alone, are told
            apart, as is right where their seconds are looked at.

    Returns:
        The runs, the ViT's first, then the CNN's, then those of other networks.
    """
    labelled = []
    for run in runs:
        mine = settings_of(run, machines=machines)
        same_model = [settings_of(other, machines=machines) for other in runs if other.model == run.model]
        same_recipe = [other for other in same_model if other.get(RECIPE) == mine.get(RECIPE)]
        different = []
        for key in sorted(mine):
            is_told = key != RECIPE and key.startswith(("recipe.", "model."))
            others = same_recipe if is_told else same_model
            # A key that a run lacks came later and changes nothing there, but for a network, which may take any.
            if any(key in other or key.startswith("model.") for other in others if other.get(key) != mine[key]):
                different.append(key)
        words = [run.model, *(f"{short(key)}={in_words(mine[key])}" for key in different)]
        labelled.append(dataclasses.replace(run, label=" ".join(words)))
    return sorted(labelled, key=lambda run: (FIRST.get(run.model, len(FIRST)), run.label, run.seed))


def short(key: str) -> str:
    """The last word of a key that tells something: ``lr`` of ``optimizer.lr``, ``optimizer`` of ``optimizer.name``."""
    return key.removesuffix(".name").rpartition(".")[2]


def in_words(value: Any) -> str:
    return "no" if value == "" else str(value)


def settings_of(run: Run, *, machines: bool = True) -> dict[str, Any]:
    """What can change a run's figures: its config, the machine (known once it has finished) and how it went on."""
    harmless = HARMLESS if machines else HARMLESS + SPEED_ALONE
    found = {key: value for key, value in flat(run.config).items() if not key.startswith(harmless)}
    if run.result and machines:
        found["device"] = device_of(run.result)
    if run.result:
        found["continued"] = run.continued
    return found


def device_of(result: dict[str, Any]) -> str:
    """What a run was trained on: a device, or several processes with one each."""
    processes = result.get("processes", 1)
    return f"{processes} × {result['device']}" if processes > 1 else str(result["device"])


def once_per_seed(runs: list[Run]) -> tuple[list[Run], list[tuple[Run, Run]]]:
    """Runs that count: equal seeds of equal settings are one observation, however often they were run.

    Returns:
        The runs that count, a finished one before one that is not; and those that repeat one, with the one.
    """
    counted: dict[tuple[str, int], Run] = {}
    for run in sorted(runs, key=lambda run: run.result is None):
        counted.setdefault((run.label, run.seed), run)
    kept = [run for run in runs if counted[run.label, run.seed] is run]
    repeats = [(run, counted[run.label, run.seed]) for run in runs if counted[run.label, run.seed] is not run]
    return kept, repeats


def swept(runs: list[Run], *, machines: bool = True) -> list[str]:
    """The settings in which runs differ, seeds aside."""
    settings = [settings_of(run, machines=machines) for run in runs]
    names = settings[0] if settings else {}
    return [name for name in names if len({str(each.get(name)) for each in settings}) > 1]


def check_same_data(runs: list[Run]) -> None:
    """Only runs on the same images and the same split can be compared.

    Raises:
        Refused: two differ; says in what.
    """
    first = runs[0]
    for run in runs[1:]:
        mine, other = (flat(each.config["data"]) for each in (first, run))
        for values in (mine, other):
            for harmless in ("root", "cache", "skip_bad", "_target_"):
                values.pop(harmless, None)
        for key in sorted(mine | other):
            if mine.get(key) != other.get(key):
                raise Refused(
                    f"cannot compare {first.folder} with {run.folder}: "
                    f"data.{key} is {mine.get(key)} and {other.get(key)}"
                )
    seen: dict[str, Run] = {}
    for run in runs:
        if run.result:
            seen.setdefault(run.result["data"]["fingerprint"], run)
    if len(seen) > 1:
        (one, a), (two, b) = list(seen.items())[:2]
        raise Refused(
            f"cannot compare {a.folder} and {b.folder}: their images or splits differ (fingerprints {one} and {two})"
        )


def by_label(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but the seed."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    return groups


def mean_and_std(values: list[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; ``None`` for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def spread(values: list[float], form: str) -> str:
    """Mean ± sample standard deviation in words; ``form`` formats a number."""
    mean, std = mean_and_std(values)
    return form.format(mean) + (f" ± {form.format(std).rstrip('%')}" if std is not None else "")
