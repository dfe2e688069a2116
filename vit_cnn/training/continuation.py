"""A run that goes on: what the record says of it, and whether it still is what a straight run would be."""

import dataclasses
import logging
from typing import Any

from omegaconf import DictConfig

from vit_cnn.config.schema import Recipe
from vit_cnn.processes.together import here
from vit_cnn.training.mixing import is_mixing
from vit_cnn.training.optim import learning_rate
from vit_cnn.training.plan import Plan
from vit_cnn.training.state import Progress

log = logging.getLogger(__name__)


def note_continuation(
    cfg: DictConfig, recipe: Recipe, plan: Plan, progress: Progress, *, saved: dict[str, Any]
) -> None:
    """Write into ``progress`` that the run goes on here, and with what; warn where its schedule loses its shape.

    Args:
        saved: the checkpoint of the part before. Of its config, only the trainer, the epochs and ``test`` can differ.
    """
    before = saved["config"]
    changed = {
        f"trainer.{key}": [before["trainer"].get(key), value]
        for key, value in cfg.trainer.items()
        if before["trainer"].get(key, value) != value  # a key that came later changes nothing
    }
    if (processes := saved.get("processes", 1)) != here.number:
        changed["processes"] = [processes, here.number]
    planned = dataclasses.replace(recipe, epochs=before["recipe"]["epochs"])
    schedule = ""
    if planned.epochs != recipe.epochs:
        changed["recipe.epochs"] = [planned.epochs, recipe.epochs]
        if schedule_of(planned, plan, progress.step) != schedule_of(recipe, plan, progress.step):
            schedule = f"planned for {planned.epochs} epochs until step {progress.step}"
            log.warning(
                "The learning rate or the mixing of the first %d steps was that of a run of %d epochs: not what a "
                "straight run of %d epochs would be. result.json says so, and reports keep such runs apart.",
                progress.step, planned.epochs, recipe.epochs,
            )  # fmt: skip
    progress.continued.append({"step": progress.step, "changed": changed, "schedule": schedule})


def schedule_of(recipe: Recipe, plan: Plan, steps: int) -> list[tuple[float, bool]]:
    """Learning rate of each of the first ``steps``, and whether it mixes images."""
    about: Any = {"recipe": recipe, "steps_per_epoch": plan.steps_per_epoch}
    return [(learning_rate(step, **about), is_mixing(step, **about)) for step in range(steps)]
