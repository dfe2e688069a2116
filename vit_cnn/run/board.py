"""TensorBoard, which never stops or changes a training: ``tensorboard --logdir runs``."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vit_cnn.errors import first_line

log = logging.getLogger(__name__)

FOLDER = "tensorboard"  # in the run folder
AXES = ("step", "epoch", "seconds")  # what figures are drawn over


class Board:
    """The curves of one run, in PyTorch's own writer; any failure is one warning and silence.

    Args:
        step: steps done already: what an earlier part of the run wrote after it is hidden.
    """

    def __init__(self, cfg: DictConfig, run_dir: Path, step: int) -> None:
        self.writer: Any = None
        if cfg.tensorboard:
            self.attempt(lambda: self.start(cfg, run_dir, step))

    def start(self, cfg: DictConfig, run_dir: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run_dir / FOLDER), purge_step=step + 1)
        if not step:
            self.writer.add_text("config", f"```yaml\n{OmegaConf.to_yaml(cfg)}```")

    def log(self, line: dict[str, Any], step: int) -> None:
        """Write a line of ``metrics.jsonl``."""
        if self.writer:
            self.attempt(lambda: self.add(line, step))

    def add(self, line: dict[str, Any], step: int) -> None:
        for key, value in line.items():
            if key not in AXES and value is not None:
                self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        if self.writer:
            self.attempt(self.writer.close)

    def attempt(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # its threads and files raise many kinds; none of them may reach the training
            self.writer = None
            said = "TensorBoard failed (%s); training goes on, and metrics.jsonl has everything."
            log.warning(said, first_line(error))
