"""The record of a run: ``metrics.jsonl`` first, then Weights & Biases and the screen, which may fail."""

import contextlib
import json
import logging
import math
import os
import secrets
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vit_cnn.checkpoint import write_atomically, write_json
from vit_cnn.display import RunDisplay
from vit_cnn.errors import FAILED, FINISHED, STOPPED, Failed, Stopped

log = logging.getLogger(__name__)

FINISH_SECONDS = 60  # how long the end of a run waits for W&B's upload
SUMMARIES = {
    "train/loss": "min",
    "train/acc": "max",
    "val/loss": "min",
    "val/acc": "max",
    "lr": "last",
    "images_per_second": "mean",
    "flops_per_second": "mean",
    "share_of_peak": "mean",
    "grad_norm": "last",
    "param_norm": "last",
    "memory_bytes": "max",
}


class Tracker:
    """Writes the metrics of one run, from ``step`` on.

    Args:
        run_dir: run folder; lines of its ``metrics.jsonl`` after ``step`` are dropped, to be written again.
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
        path = run_dir / "metrics.jsonl"
        rewind(path, step)
        self.file = open(path, "a", buffering=1)  # a line is on its way to the disk as soon as it is complete
        self.wandb = WandbRun(cfg, run_dir, wandb_id)
        self.mark("running")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def log(self, step: int, *, epoch: float, **metrics: float) -> None:
        values = {"step": step, "epoch": round(epoch, 4), "seconds": round(self.seconds, 3), **metrics}
        # JSON has no infinity; a gradient norm that overflowed in fp16 becomes null.
        line = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self.file.write(json.dumps(line, allow_nan=False) + "\n")
        self.wandb.log(line, step)

    def mark(self, status: str, message: str = "") -> None:
        """Say in ``status.json`` how the run stands: running, stopped, failed or finished."""
        write_json(self.run_dir / "status.json", {"status": status, "message": message, "pid": os.getpid()})
        self.wandb.summary({"status": status})

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mark how the run ended, by the exception that ended it."""
        status, exit_code = ("finished", FINISHED) if kind is None else ("failed", FAILED)
        if kind is Stopped:
            status, exit_code = "stopped", STOPPED
        self.display.close()
        self.file.close()
        with contextlib.suppress(Failed):  # a full disk, which is then what ended the run
            self.mark(status, first_line(error) if error else "")
        self.wandb.finish(exit_code)


def rewind(path: Path, step: int) -> None:
    """Keep the lines of ``metrics.jsonl`` up to ``step``; a kill may have left later ones and a torn last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step or not line.endswith("\n"):
                break
        except ValueError:
            break
        kept.append(line)
    write_atomically(path, lambda file: file.write("".join(kept).encode()))


class WandbRun:
    """A Weights & Biases run that never stops or changes the training: any failure is one warning and silence."""

    def __init__(self, cfg: DictConfig, run_dir: Path, wandb_id: str | None) -> None:
        self.run: Any = None
        self.id = wandb_id
        self.mode = "disabled"
        if cfg.wandb.mode == "disabled":
            return
        try:
            self.start(cfg, run_dir)
        except Exception as error:  # W&B raises its own, socket and OS errors; none of them may reach the training
            self.give_up("start", error)

    def start(self, cfg: DictConfig, run_dir: Path) -> None:
        import wandb

        self.id = self.id or secrets.token_hex(4)
        self.mode = choose_mode(cfg.wandb.mode)
        if self.mode == "disabled":
            return

        def init(mode: Any) -> Any:
            return wandb.init(
                mode=mode,
                id=self.id,
                resume="allow" if mode == "online" else None,
                project=cfg.wandb.project,
                entity=cfg.wandb.entity,
                group=cfg.wandb.group,
                name=f"{cfg.name}-{cfg.recipe.name}-seed{cfg.seed}",
                tags=[cfg.model._target_.rsplit(".")[-1], cfg.data.name[:64], cfg.recipe.name, *cfg.wandb.tags],
                config=cast(dict[str, Any], OmegaConf.to_container(cfg)),
                notes=f"run folder {run_dir}",
                reinit="finish_previous",
                settings=wandb.Settings(console="off", silent=True, init_timeout=30),
            )

        try:
            self.run = init(self.mode)
        except Exception as error:
            if self.mode == "offline":
                raise
            log.warning("W&B cannot be reached (%s); this run is logged offline.", first_line(error))
            self.mode = "offline"
            self.run = init("offline")
        self.run.define_metric("epoch", hidden=True)
        for key, summary in SUMMARIES.items():
            self.run.define_metric(key, step_metric="epoch", summary=f"{summary},last" if summary != "last" else "last")
        if self.mode == "online":
            log.info("W&B: %s", self.run.url)
        else:
            folder = os.path.relpath(Path(self.run.dir).parent)
            log.info("W&B: offline. Look: wandb leet %s   Upload: wandb sync %s", os.path.dirname(folder), folder)

    def log(self, line: dict[str, Any], step: int) -> None:
        self.attempt("log", lambda: self.run.log(line, step=step))

    def summary(self, values: dict[str, Any]) -> None:
        self.attempt("summary", lambda: self.run.summary.update(values))

    def finish(self, exit_code: int) -> None:
        # In a thread, since an upload over a dead network would hold the end of the run for ever.
        finishing = threading.Thread(
            target=lambda: self.attempt("finish", lambda: self.run.finish(exit_code=exit_code)), daemon=True
        )
        finishing.start()
        finishing.join(FINISH_SECONDS)
        if finishing.is_alive():
            log.warning(
                "W&B did not finish within %d s; what is missing there stands in metrics.jsonl.", FINISH_SECONDS
            )
        self.run = None

    def attempt(self, what: str, call: Any) -> None:
        if self.run is None:
            return
        try:
            call()
        except Exception as error:  # see __init__
            self.give_up(what, error)

    def give_up(self, what: str, error: Exception) -> None:
        self.run = None
        log.warning("W&B failed (%s: %s); training goes on, and metrics.jsonl has everything.", what, first_line(error))


def choose_mode(wanted: str) -> str:
    """``auto``: $WANDB_MODE, else online where a key is stored, else offline. Never prompts."""
    if wanted != "auto":
        return wanted
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    import wandb

    try:
        return "online" if wandb.login(prompt=False, verify=False) else "offline"
    except Exception:  # no key, or a damaged one
        return "offline"


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
