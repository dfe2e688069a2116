"""Ctrl-C and SIGTERM as a wish that the loop can ask for, at a moment of its own choosing."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from vit_cnn.errors import Stopped
from vit_cnn.run.display import RunDisplay


class StopSignal:
    """Within the ``with`` block, a first signal sets ``requested`` and is answered; a second ends the block at once.

    Args:
        command: what goes on with the run, for the message of a second Ctrl-C.
        display: shows the answer.

    Raises:
        Stopped: on a second Ctrl-C; the run can be resumed from its last checkpoint.
    """

    def __init__(self, command: str, display: RunDisplay) -> None:
        self.command = command
        self.display = display
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
            raise Stopped("Stopped at once; the last checkpoint is kept.", self.command) from error

    def request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.restore()
        self.display.answer("Stopping: finishing this step or evaluation first; once more stops now")

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
