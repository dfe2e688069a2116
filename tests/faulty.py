"""``python -m vit_cnn.train`` with a fault: what ``tests/test_processes.py`` lets ``torchrun`` start.

``$FAULTS`` names a fault for each start that one torchrun makes, such as ``nan-1-4``: which, in which process, and at
which training step, where that matters.
"""

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from vit_cnn import start
from vit_cnn.errors import exit_with_code
from vit_cnn.processes import joined, together
from vit_cnn.train import main
from vit_cnn.training import loop

faults = os.environ["FAULTS"].split()
starts_before = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
fault, rank, at = (faults[starts_before] if starts_before < len(faults) else "none-0-0").split("-")
is_faulty = os.environ["RANK"] == rank
loop.SAVE_EVERY = 0
together.SEEN_WITHIN = 1
rate, learn, first, save = loop.learning_rate, loop.training_step, together.from_first, os.fsync
steps = [0]  # the last one begun


def learning_rate(done: int, **options: Any) -> float:
    steps.append(done + 1)
    if is_faulty and steps[-1] == int(at):
        if fault in ("TERM", "KILL"):
            os.kill(os.getpid(), signal.Signals[f"SIG{fault}"])
            time.sleep(0.1)
        if fault == "memory":
            raise MemoryError
        if fault == "silence":
            time.sleep(25)
    return rate(done, **options)


def training_step(images: Any, *arguments: Any, **options: Any) -> Any:
    is_nan = fault == "nan" and is_faulty and steps[-1] == int(at)
    return learn(images * (float("nan") if is_nan else 1), *arguments, **options)


def fsync(file: int) -> None:
    if fault == "full" and is_faulty and steps[-1] >= int(at):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    save(file)


def from_first(value: Any) -> Any:
    config, folder = first(value)
    if fault == "images" and is_faulty:
        config["data"]["max_images"] = 150
    return config, Path("elsewhere") if fault == "folder" and is_faulty else folder


loop.learning_rate, loop.training_step, start.from_first, os.fsync = learning_rate, training_step, from_first, fsync
if fault == "code" and is_faulty:
    joined.hash_of = lambda files: "another"
if fault == "command" and is_faulty:
    sys.argv.append("seed=9")
if fault == "silence":
    together.TIMEOUT /= 30  # 20 seconds
exit_with_code(main)
