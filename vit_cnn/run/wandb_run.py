"""Weights & Biases, which never stops or changes a training."""

import contextlib
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vit_cnn.config.target import network_name
from vit_cnn.errors import first_line

log = logging.getLogger(__name__)

START_SECONDS = 30  # how long the start of a run waits for an answer of W&B
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


class WandbRun:
    """A Weights & Biases run that never stops or changes the training: any failure is one warning and silence."""

    def __init__(self, cfg: DictConfig, run_dir: Path, wandb_id: str | None) -> None:
        self.run: Any = None
        self.id = wandb_id
        self.is_resumed = wandb_id is not None
        self.mode = "disabled"
        self.has_failed = False
        if cfg.wandb.mode == "disabled":
            return
        try:
            self.start(cfg, run_dir)
        except Exception as error:  # W&B raises its own, socket and OS errors; none of them may reach the training
            self.give_up("start", error)
            self.mode = "disabled"

    def start(self, cfg: DictConfig, run_dir: Path) -> None:
        self.id = self.id or secrets.token_hex(4)
        self.mode = choose_mode(cfg.wandb.mode)
        if self.mode == "disabled":
            return
        import wandb

        def init(mode: Any) -> Any:
            return wandb.init(
                mode=mode,
                id=self.id,
                resume="allow" if mode == "online" else None,
                project=cfg.wandb.project,
                entity=cfg.wandb.entity,
                group=cfg.wandb.group,
                name=f"{cfg.name}-{cfg.recipe.name}-seed{cfg.seed}",
                tags=[network_name(cfg.model)[:64], cfg.data.name[:64], cfg.recipe.name, *cfg.wandb.tags],
                config=cast(dict[str, Any], OmegaConf.to_container(cfg)),
                notes=f"run folder {run_dir}",
                reinit="finish_previous",
                settings=wandb.Settings(console="off", silent=True, init_timeout=START_SECONDS),
            )

        try:
            self.run = init(self.mode)
        except Exception as error:
            if self.mode == "offline":
                raise
            log.warning("W&B cannot be reached (%s); this run is logged offline.", first_line(error))
            ends_within(FINISH_SECONDS, let_go)  # its service would say that a run with this id goes on already
            self.mode = "offline"
            self.run = init("offline")
        self.run.define_metric("epoch", hidden=True)
        for key, summary in SUMMARIES.items():
            self.run.define_metric(key, step_metric="epoch", summary=f"{summary},last" if summary != "last" else "last")
        if self.mode == "online":
            log.info("W&B: %s", self.run.url)
        else:
            folder = os.path.relpath(Path(self.run.dir).parent)
            log.info("W&B: offline. Look: wandb leet %s", os.path.dirname(folder))
            log.info("Upload: wandb sync %s", folder)
            if self.is_resumed:
                log.info("That folder has the whole run; upload it alone, not those of its earlier parts.")

    def log(self, line: dict[str, Any], step: int) -> None:
        self.attempt("log", lambda: self.run.log(line, step=step))

    def summary(self, values: dict[str, Any]) -> None:
        self.attempt("summary", lambda: self.run.summary.update(values))

    def about(self, values: dict[str, Any]) -> None:
        """Add to the config that W&B shows."""
        self.attempt("config", lambda: self.run.config.update(values, allow_val_change=True))

    def upload(self, name: str, kind: str, files: list[Path]) -> None:
        """Upload files as an artifact. Not offline: W&B would copy them to a place outside the run folder."""
        if self.run is not None and self.mode == "online":
            self.attempt("artifact", lambda: self.run.log_artifact(artifact_of(name, kind, files)))

    def finish(self, exit_code: int, *, is_hasty: bool) -> None:
        patience = 1 if is_hasty else FINISH_SECONDS
        if not ends_within(patience, lambda: self.attempt("finish", lambda: self.run.finish(exit_code=exit_code))):
            log.warning("W&B did not finish within %g s; what is missing there stands in metrics.jsonl.", patience)
            self.has_failed = True
        self.run = None
        if self.has_failed:
            ends_within(1, let_go)

    def attempt(self, what: str, call: Any) -> None:
        if self.run is None:
            return
        try:
            call()
        except Exception as error:  # see __init__
            self.give_up(what, error)

    def give_up(self, what: str, error: Exception) -> None:
        self.run, self.has_failed = None, True
        log.warning("W&B failed (%s: %s); training goes on, and metrics.jsonl has everything.", what, first_line(error))


def artifact_of(name: str, kind: str, files: list[Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", name), type=kind)
    for file in files:
        artifact.add_file(str(file), policy="immutable", skip_cache=True)  # read where it lies, copied nowhere
    return artifact


def upload_to_finished(cfg: DictConfig, wandb_id: str, name: str, kind: str, files: list[Path]) -> None:
    """Upload files as an artifact of a run that has ended online; a failure is a warning."""
    try:
        import wandb

        settings = wandb.Settings(console="off", silent=True, init_timeout=START_SECONDS)
        about = {"project": cfg.wandb.project, "entity": cfg.wandb.entity, "settings": settings}
        with wandb.init(mode="online", id=wandb_id, resume="must", **about) as run:
            run.log_artifact(artifact_of(name, kind, files))
    except Exception as error:  # as for WandbRun
        log.warning("W&B: %s cannot be uploaded: %s", name, first_line(error))


def ends_within(seconds: float, call: Callable[[], object]) -> bool:
    """Whether it does; in a thread, since an upload over a dead network would hold the end of the run for ever."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def let_go() -> None:
    """Leave W&B's service to itself, for which the end of this process would wait, for ever if need be."""
    import wandb

    with contextlib.suppress(Exception):  # it may be gone
        wandb.teardown()


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
