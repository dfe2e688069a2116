"""Ctrl-C and SIGTERM as a wish that the loop can ask for, at a moment of its own choosing."""

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from vit_cnn.errors import Stopped, resume_command


class StopSignal:
    """Within the ``with`` block, a first signal sets ``requested``; a second one ends the block at once.

    Args:
        run_dir: run folder, for the message of a second Ctrl-C.

    Raises:
        Stopped: on a second Ctrl-C; the run can be resumed from its last checkpoint.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.requested = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self.previous = {number: signal.signal(number, self.request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        if kind is KeyboardInterrupt:
            raise Stopped(
                f"Stopped at once. To go on from the last checkpoint: {resume_command(self.run_dir)}"
            ) from error

    def request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.restore()

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
