"""The record of a run: ``metrics.jsonl`` first, then TensorBoard, Weights & Biases and the screen, which may fail."""

import contextlib
import json
import logging
import math
import os
import time
from pathlib import Path
from types import TracebackType

from omegaconf import DictConfig

from vit_cnn.errors import FAILED, FINISHED, STOPPED, Failed, Stopped, first_line
from vit_cnn.processes.together import is_first
from vit_cnn.run.board import Board
from vit_cnn.run.display import RunDisplay
from vit_cnn.run.files import write_atomically, write_json
from vit_cnn.run.wandb_run import WandbRun

log = logging.getLogger(__name__)


class Tracker:
    """Writes the metrics of one run, from ``step`` on.

    Args:
        run_dir: run folder; lines of its ``metrics.jsonl`` after ``step`` are dropped, to be written again. Of several
            processes the first one writes there.
        step: steps done already, after a resume.
        seconds: wall-clock seconds that earlier parts of the run took.
        wandb_id: id of the W&B run to go on with; ``None`` begins a new one.
    """

    def __init__(
        self, *, cfg: DictConfig, run_dir: Path, display: RunDisplay, step: int, seconds: float, wandb_id: str | None
    ) -> None:
        self.display = display
        self.run_dir = run_dir
        self.started = time.monotonic() - seconds
        path = run_dir / "metrics.jsonl" if is_first() else Path(os.devnull)
        rewind(path, step)
        self.file = open(path, "a", buffering=1)  # a line is on its way to the disk as soon as it is complete
        self.board = Board(cfg, run_dir, step)
        self.wandb = WandbRun(cfg, run_dir, wandb_id)
        if self.wandb.mode == "offline" and step:
            # W&B cannot resume an offline run: of two folders with one id, the one that is uploaded later replaces the
            # other (https://github.com/wandb/wandb/issues/3841). So the new one gets all that came before.
            for line in path.read_text().splitlines():
                values = json.loads(line)
                self.wandb.log(values, values["step"])
        self.mark("running")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def log(self, step: int, *, epoch: float, **metrics: float) -> None:
        values = {"step": step, "epoch": round(epoch, 4), "seconds": round(self.seconds, 3), **metrics}
        # JSON has no infinity; a gradient norm that overflowed in fp16 becomes null.
        line = {key: value if math.isfinite(value) else None for key, value in values.items()}
        try:
            self.file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise Failed(f"{self.file.name} cannot be written: {error.strerror}; what was written is kept") from error
        self.board.log(line, step)
        self.wandb.log(line, step)

    def mark(self, status: str, message: str = "") -> None:
        """Say in ``status.json`` how the run stands: running, stopped, failed or finished."""
        write_json(self.run_dir / "status.json", {"status": status, "message": message, "pid": os.getpid()})
        self.wandb.summary({"status": status})

    def __enter__(self) -> "Tracker":
        self.display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mark how the run ended, by the exception that ended it."""
        status, exit_code = ("finished", FINISHED) if kind is None else ("failed", FAILED)
        is_hasty = kind is KeyboardInterrupt  # asked to stop a second time
        if kind is Stopped or is_hasty:
            status, exit_code = "stopped", STOPPED
        self.display.close()
        with contextlib.suppress(OSError):  # the line that did not fit
            self.file.close()
        with contextlib.suppress(Failed):  # a full disk, which is then what ended the run
            self.mark(status, first_line(error) if error else "")
        self.board.close()
        self.wandb.finish(exit_code, is_hasty=is_hasty)


def rewind(path: Path, step: int) -> None:
    """Keep the lines of ``metrics.jsonl`` up to ``step``; a kill may have left later ones and a torn last one."""
    if not path.exists():
        return
    kept = []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            if number < len(lines):  # the last may be torn by a kill, another one is damaged
                log.warning("%s, line %d, is damaged and left out: %.60r", path, number, line)
    write_atomically(path, lambda file: file.write("".join(kept).encode()))
