"""The report of a run as an artifact of its W&B run."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from vit_cnn.config.trust import EVERYTHING
from vit_cnn.errors import Refused
from vit_cnn.report.build import build
from vit_cnn.run.reading import read_run
from vit_cnn.run.wandb_run import upload_to_finished

log = logging.getLogger(__name__)


def upload_report(cfg: DictConfig, run_dir: Path, wandb_id: str) -> None:
    """Write the report of a run, trained just now, into its folder and upload it; a failure is a warning."""
    try:
        page = build([read_run(run_dir, cfg)], run_dir / "report", replace=True, trust=EVERYTHING)
    except (Refused, OSError) as error:  # an OSError: a full disk
        log.warning("No report: %s", error)
        return
    upload_to_finished(cfg, wandb_id, f"{cfg.name}-{wandb_id}-report", "report", [page])
