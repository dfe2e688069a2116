"""Ctrl-C, SIGTERM and a closed terminal as a wish that the loop can ask for, at a moment of its own choosing."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from vit_cnn.errors import Stopped
from vit_cnn.processes.together import any_of, here
from vit_cnn.run.display import RunDisplay

# What Slurm sends before a job's time is over. Submitit then puts the job into the queue again.
OUT_OF_TIME = signal.SIGUSR2

HANG_UP = signal.SIGHUP  # the terminal was closed; ``nohup`` lets it be ignored


class StopSignal:
    """Within the ``with`` block, a first signal sets ``requested`` and is answered; a second ends the block at once.
    (Not where several processes train: these wait for each other.)

    If a handler is installed for ``OUT_OF_TIME``, that signal stops too, and the handler gets it after the block.

    Args:
        command: what goes on with the run, for the message of a second Ctrl-C.
        display: shows the answer.

    Raises:
        Stopped: on a second Ctrl-C; the run can be resumed from its last checkpoint.
    """

    def __init__(self, command: str, display: RunDisplay) -> None:
        self.command = command
        self.display = display
        self.heard = False
        self.number: int | None = None  # of the signal that asked
        self.previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether this process, or another one of the run, has got a signal: each asks at the same moments."""
        self.heard = any_of(self.heard)
        return self.heard

    def __enter__(self) -> "StopSignal":
        numbers = [signal.SIGINT, signal.SIGTERM]
        if callable(signal.getsignal(OUT_OF_TIME)):
            numbers.append(OUT_OF_TIME)
        if signal.getsignal(HANG_UP) != signal.SIG_IGN:
            numbers.append(HANG_UP)
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self.previous = {number: signal.signal(number, self.request) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        if kind and self.number == OUT_OF_TIME:
            signal.raise_signal(OUT_OF_TIME)
        if kind is KeyboardInterrupt:
            raise Stopped("Stopped at once; the last checkpoint is kept.", self.command) from error

    def request(self, number: int, frame: FrameType | None) -> None:
        self.heard, self.number = True, number
        if here.number > 1:
            return  # torchrun hands it on, maybe after Slurm has sent it, and kills whoever takes half a minute
        self.restore()
        if number == HANG_UP:  # a shell that ends says it once more, and nobody is there who would ask for haste
            signal.signal(number, signal.SIG_IGN)
        self.display.answer("Stopping: finishing this step or evaluation first; once more stops now")

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
