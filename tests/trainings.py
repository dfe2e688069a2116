"""Trainings as real processes, to be killed and hurt, and what they leave behind, compared bit by bit.

``fresh`` starts one as a user does; ``Forked`` one takes a second instead of ten, since this process has imported all.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import TIMES, TINY, metrics, weights

from vit_cnn import train
from vit_cnn.errors import exit_with_code
from vit_cnn.training import loop

# 20 steps, each with a line of metrics, in 4 epochs.
OPTIONS = [
    *(each for each in TINY if not each.startswith(("recipe.epochs", "trainer.log_every"))),
    "recipe.epochs=4", "trainer.log_every=1", "model.dropout=0.1", "wandb.mode=disabled",
]  # fmt: skip

AS_MAIN = "from vit_cnn import errors, train; errors.exit_with_code(train.main)"


class Training(subprocess.Popen[bytes]):
    """A training in a process of its own, started as a user does.

    Args:
        words: of the command line.
        before: Python to be executed first.
        environment: variables beside those of this process.
    """

    def __init__(self, *words: str, before: str = "", **environment: str) -> None:
        self.output = tempfile.TemporaryFile()
        variables = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"} | environment
        main = ["-c", f"{before}\n{AS_MAIN}"] if before else ["-m", "vit_cnn.train"]
        call = [sys.executable, *main, *words]
        super().__init__(call, stdout=self.output, stderr=subprocess.STDOUT, env=variables)

    def printed(self) -> str:
        return read_all(self.output)


class Forked:
    """As ``Training``, forked from this process; one of its own all the same, with a real end.

    It writes a checkpoint after each epoch, however short, so that a kill may come between two of them.

    Args:
        words: of the command line.
        main: of the command.
        prepare: called in the new process before anything else.
    """

    def __init__(
        self, *words: str, main: Callable[[], None] = train.main, prepare: Callable[[], object] = lambda: None
    ) -> None:
        self.output = tempfile.TemporaryFile()
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self.become(words, main, prepare)

    def become(self, words: tuple[str, ...], main: Callable[[], None], prepare: Callable[[], object]) -> None:
        """The new process, from its first moment to its last."""
        code: Any = 70
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this began in the background
            os.dup2(self.output.fileno(), 1)
            os.dup2(self.output.fileno(), 2)
            loop.SAVE_EVERY = 0
            loop.peak_flops = lambda device, precision: 1e12  # measuring it takes seconds, and changes no bit
            sys.argv = ["train", *words]
            prepare()
            exit_with_code(main)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(code or 0)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.002)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def printed(self) -> str:
        return read_all(self.output)


def read_all(file: Any) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def until(process: Any, is_there: Callable[[], bool]) -> None:
    """Wait until something is there, or the process has ended."""
    while process.poll() is None and not is_there():
        time.sleep(0.001)


def lines(run: Path) -> int:
    """Lines of metrics so far."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def has_begun(run: Path) -> bool:
    return (run / ".hydra" / "config.yaml").exists()


def go_on(run: Path, start: Callable[..., Any] = Forked, options: list[str] = OPTIONS) -> str:
    """The run to its end, by ``resume=`` or, where it has not begun, by its first command; what was printed."""
    if not has_begun(run) and run.exists():
        subprocess.run(["rm", "-r", str(run)], check=True)  # as the refusal says
    process = start(f"resume={run}") if has_begun(run) else start(*options, f"hydra.run.dir={run}")
    code = process.wait()
    assert code == 0, f"it does not go on, with code {code}: {process.printed()}"
    return process.printed()


def hashes(run: Path) -> dict[str, str]:
    """Of all that a run computed, without the times."""
    kept = [{key: value for key, value in line.items() if key not in TIMES} for line in metrics(str(run))]
    found = {"metrics": json.dumps(kept).encode()}
    for name in ("last.pt", "best.pt"):
        found[name] = b"".join(tensor.numpy().tobytes() for _, tensor in sorted(weights(str(run), name).items()))
    with np.load(run / "predictions.npz") as predictions:
        found["predictions"] = b"".join(predictions[key].tobytes() for key in sorted(predictions))
    return {what: hashlib.sha256(content).hexdigest()[:12] for what, content in found.items()}


def missing_lines(whole: Path, run: Path) -> int:
    """Both runs are the same to the bit: weights, predictions, results and metrics; of the latter, how many are gone.

    Raises:
        AssertionError: they are not.
    """
    for name in ("last.pt", "best.pt"):
        ours, theirs = weights(str(run), name), weights(str(whole), name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs), f"other weights in {name}"
    assert hashes(run)["predictions"] == hashes(whole)["predictions"], "other predictions"
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, run)]
    for key in ("steps", "train/loss", "val/loss", "test/loss", "best_epoch"):
        assert results[0][key] == results[1][key], f"another {key}"
    ours, theirs = metrics(str(run)), metrics(str(whole))
    assert all(line in theirs for line in ours), "other metrics"
    assert len(ours) <= len(theirs), "metrics twice"
    left = [path.name for path in run.rglob("*.tmp")]
    assert not left, f"{left[0]} is left behind"
    return len(theirs) - len(ours)
