"""How many steps a run takes, and whether it may begin or go on at all."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vit_cnn.data import Dataset
from vit_cnn.errors import Refused
from vit_cnn.processes.together import here
from vit_cnn.training.state import progress_in


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Attributes:
        steps_per_epoch: an incomplete batch at the end of an epoch is dropped.
        last_step: the run ends after so many steps.
        is_done: it has ended before.
    """

    steps_per_epoch: int
    last_step: int
    is_done: bool

    def ends_epoch(self, step: int) -> bool:
        """Whether the network is evaluated after ``step`` steps."""
        return step % self.steps_per_epoch == 0 or step == self.last_step


def plan_run(cfg: DictConfig, run_dir: Path, data: Dataset, saved: dict[str, Any] | None) -> Plan:
    """Plan a run that begins, or goes on from the checkpoint ``saved``.

    Raises:
        Refused: too few images for a batch, a batch that the processes cannot share evenly, more steps done than asked
            for, or other images than before.
    """
    recipe, done = cfg.recipe, progress_in(saved).step
    steps_per_epoch = len(data.train) // recipe.batch_size
    if steps_per_epoch == 0:
        raise Refused(f"recipe.batch_size={recipe.batch_size} is above the {len(data.train)} training images")
    if recipe.batch_size % here.number:
        raise Refused(
            f"recipe.batch_size={recipe.batch_size} cannot be shared evenly by {here.number} processes: "
            "it has to be a multiple of their number"
        )
    last_step = min(recipe.epochs * steps_per_epoch, cfg.max_steps or math.inf)
    if done > last_step:
        trained = done / steps_per_epoch
        raise Refused(f"recipe.epochs={recipe.epochs} is below the {trained:g} epochs that {run_dir} has trained")
    is_done = done == last_step and (run_dir / "result.json").exists()
    if saved and not is_done and saved["fingerprint"] != data.fingerprint:
        raise Refused(f"{run_dir} was trained on other images or another split than {data.name} has now")
    return Plan(steps_per_epoch, int(last_step), is_done)
