"""Run folders, read for a comparison: finished, running or broken off."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from vit_cnn.checkpoint import read_json
from vit_cnn.errors import Refused

Row = dict[str, Any]
Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        status: finished, running, stopped, failed, or broken off (it was killed).
        message: what ended it, where that was not its end.
        config: resolved.
        result: what ``result.json`` holds; ``None`` before the end.
        rows: the lines of ``metrics.jsonl``.
        label: what tells it from other runs apart from the seed; given by ``label_runs``.
    """

    folder: Path
    status: str
    message: str
    config: dict[str, Any]
    result: dict[str, Any] | None
    rows: list[Row]
    label: str = ""

    @property
    def model(self) -> str:
        name: str = self.config["model"]["_target_"]
        return name.rsplit(".", maxsplit=1)[-1]

    @property
    def seed(self) -> int:
        seed: int = self.config["seed"]
        return seed

    def series(self, key: str) -> list[Row]:
        """The lines that hold ``key``."""
        return [row for row in self.rows if row.get(key) is not None]

    def predictions(self) -> dict[str, Array]:
        """Logits, labels and indices of validation and test.

        Raises:
            Refused: ``predictions.npz`` is missing or damaged.
        """
        path = self.folder / "predictions.npz"
        try:
            with np.load(path) as stored:
                return dict(stored)
        except Exception as error:  # whatever a zip or array reader stumbles over
            raise Refused(f"{path} cannot be read: {error}") from error


def find_runs(paths: list[Path]) -> list[Run]:
    """The runs in folders, or in folders of folders.

    Raises:
        Refused: a path holds none, or a run cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        inside = [config.parent.parent for config in sorted(path.rglob(".hydra/config.yaml"))]
        if not inside:
            raise Refused(f"{path} holds no run: there is no .hydra/config.yaml in it")
        found += [folder for folder in inside if folder not in found]
    if not found:
        raise Refused("no runs: name at least one run folder")
    return [read_run(folder) for folder in found]


def read_run(folder: Path) -> Run:
    config = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"))
    assert isinstance(config, dict)
    said = read_json(folder / "status.json") if (folder / "status.json").exists() else {}
    status = said.get("status", "broken off")
    if status == "running" and not is_alive(said["pid"]):
        status = "broken off"
    result = None
    if (folder / "result.json").exists():
        result, status = read_json(folder / "result.json"), "finished"
    return Run(
        folder, status, said.get("message", ""), {str(k): v for k, v in config.items()}, result, read_rows(folder)
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_rows(folder: Path) -> list[Row]:
    """The lines of ``metrics.jsonl``; the last may be torn, by a kill or by a write that is going on.

    Raises:
        Refused: any other line is damaged; names it.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["step"], row["epoch"], row["seconds"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise Refused(f"{path}, line {number}, is damaged: {line[:60]!r}") from error
        rows.append(row)
    return rows


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
