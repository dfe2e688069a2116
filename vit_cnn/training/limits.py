"""Where the memory ends: what to lower, with the sizes of this run."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from vit_cnn.errors import Failed, causes, is_out_of_memory

Result = TypeVar("Result")


def memory_in_words(train: Callable[[DictConfig, Path], Result]) -> Callable[[DictConfig, Path], Result]:
    """Turn an exhausted memory, of the host or of a GPU, into one line."""

    @functools.wraps(train)
    def told(cfg: DictConfig, run_dir: Path) -> Result:
        try:
            return train(cfg, run_dir)
        except Exception as error:
            if not any(map(is_out_of_memory, causes(error))):
                raise
            raise Failed(
                f"out of memory on {cfg.trainer.device} with recipe.batch_size={cfg.recipe.batch_size} and "
                f"data.image_size={cfg.data.image_size}: lower the first, then the second or the size of the model, "
                "in a new run"
            ) from error

    return told
