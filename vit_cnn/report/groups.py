"""Which runs belong together: those that differ in nothing but the seed; and which cannot be compared at all."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_cnn.errors import Refused
from vit_cnn.run.reading import Run


def label_runs(runs: list[Run]) -> list[Run]:
    """Give each run a label of its model, and of the settings in which the runs of that model differ."""
    labelled = []
    for run in runs:
        alike = [flat(other.config) for other in runs if other.model == run.model]
        mine = flat(run.config)
        ignored = ("seed", "name", "resume", "wandb", "trainer", "data", "experiment", "layers")
        different = [
            key for key in mine if not key.startswith(ignored) and any(other.get(key) != mine[key] for other in alike)
        ]
        words = [run.model, *(f"{key.rsplit('.', maxsplit=1)[-1]}={mine[key]}" for key in sorted(different))]
        labelled.append(dataclasses.replace(run, label=" ".join(words)))
    return sorted(labelled, key=lambda run: (run.model != "ViT", run.label, run.seed))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


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


def per_seed(runs: list[Run], figure: Callable[[Run], float]) -> tuple[float, float | None]:
    return mean_and_std([figure(run) for run in runs])
