"""Run folders, read for a comparison: finished, running or broken off."""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vit_cnn.arrays import Array, read_arrays
from vit_cnn.config.target import network_name
from vit_cnn.errors import Refused, one_line, shown
from vit_cnn.run.config import read_config
from vit_cnn.run.files import read_json
from vit_cnn.run.lock import is_locked, is_written_elsewhere
from vit_cnn.run.result import is_number, read_result

log = logging.getLogger(__name__)

Row = dict[str, Any]


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
        return network_name(self.config["model"])

    @property
    def seed(self) -> int:
        seed: int = self.config["seed"]
        return seed

    @property
    def is_cifar10(self) -> bool:
        """Whether its images are CIFAR-10's, of which there are several presets."""
        data = self.config["data"]
        shape = (data["num_classes"], data["image_size"], data["num_channels"])
        return f"{data['name']} ".startswith("CIFAR-10 ") and shape == (10, 32, 3)

    @property
    def continued(self) -> str:
        """How a finished run went on under another schedule, in words; empty for a straight one."""
        parts = self.result.get("continued", []) if self.result else []
        return ", ".join(part["schedule"] for part in parts if part["schedule"])

    @property
    def figures(self) -> dict[str, Any]:
        """``result`` of a run that has finished.

        Raises:
            Refused: it has not.
        """
        if self.result is None:
            raise Refused(f"{self.folder} is {self.status}: it has no result.json")
        return self.result

    def series(self, key: str) -> list[Row]:
        """The lines that hold ``key``."""
        return [row for row in self.rows if row.get(key) is not None]

    def predictions(self) -> dict[str, Array]:
        """Logits, labels and indices of validation and test.

        Raises:
            Refused: ``predictions.npz`` is missing or damaged, or of other classes than the run.
        """
        path = self.folder / "predictions.npz"
        try:
            arrays = read_arrays(path)
            for split in ("val", "test"):
                check_predictions(*(arrays[f"{split}_{name}"] for name in ("logits", "labels", "indices")))
            if arrays["test_logits"].shape[1] != self.config["data"]["num_classes"]:
                raise ValueError(f"it has {arrays['test_logits'].shape[1]} classes")
        except Exception as error:  # whatever a zip or array reader stumbles over
            raise Refused(f"{path} cannot be read: {one_line(error)}") from error
        return arrays


def find_runs(paths: list[Path], *, trust: str = "") -> list[Run]:
    """The runs in folders, or in folders of folders; one that cannot be trusted is left out, and that is said.

    Args:
        trust: packages of networks that are not ours, as in ``config.trust``.

    Raises:
        Refused: a path holds none, none is left, or a run cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        inside = [config.parent.parent for config in sorted(path.rglob(".hydra/config.yaml"))]
        if not inside:
            raise Refused(f"{path} holds no run: there is no .hydra/config.yaml in it")
        found += [folder for folder in inside if folder not in found]
    if not found:
        raise Refused("no runs: name at least one run folder")
    configs: dict[Path, DictConfig] = {}
    for folder in found:
        try:
            configs[folder] = read_config(folder, trust=trust)
        except Refused as error:
            log.warning("%s is left out: %s", shown(folder), error)
            refused = error
    if not configs:
        raise refused
    return [read_run(folder, config) for folder, config in configs.items()]


def read_run(folder: Path, cfg: DictConfig) -> Run:
    config = cast(dict[str, Any], OmegaConf.to_container(cfg))
    said = read_json(folder / "status.json") if (folder / "status.json").exists() else {}
    status, message, pid = said.get("status", "broken off"), said.get("message", ""), said.get("pid", 0)
    if not (isinstance(status, str) and isinstance(message, str) and isinstance(pid, int)):
        raise Refused(f"{folder / 'status.json'} is not the status of a run: {said!r:.60}")
    # Another process may have the number by now, above all in a container: the lock knows better.
    if status == "running" and not ((is_alive(pid) and is_locked(folder)) or is_written_elsewhere(folder)):
        status = "broken off"
    result = None
    if (folder / "result.json").exists():
        result, status = read_result(folder), "finished"
    return Run(folder, status, message, config, result, read_rows(folder))


def check_predictions(logits: Array, labels: Array, indices: Array) -> None:
    if logits.dtype.kind != "f" or logits.ndim != 2 or labels.dtype.kind != "i" or indices.dtype.kind != "i":
        raise ValueError("it does not hold logits [n, classes], labels [n] and indices [n]")
    if not len(logits) == len(labels) == len(indices) or labels.ndim != 1 or indices.ndim != 1:
        raise ValueError(f"it holds {len(logits)} logits, {len(labels)} labels and {len(indices)} indices")
    if not len(labels) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"it has no labels, or some beyond its {logits.shape[1]} classes")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
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
    try:
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = row_of(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise Refused(f"{path}, line {number}, is damaged: {line[:60]!r}") from error
        rows.append(row)
    return rows


def row_of(line: str) -> Row:
    """A line of metrics: numbers by name, or null where one was not finite.

    Raises:
        ValueError: it is damaged.
    """
    row = json.loads(line)
    if not isinstance(row, dict) or not all(value is None or is_number(value) for value in row.values()):
        raise ValueError("no numbers by name")
    if not all(is_number(row.get(key)) for key in ("step", "epoch", "seconds")):
        raise ValueError("no step, epoch or seconds")
    return row
