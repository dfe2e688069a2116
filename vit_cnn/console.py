"""The one console of the whole package, so that log lines, tables and a progress bar do not tear each other."""

import contextlib
import io
import logging
import os
import sys
from typing import Any

from rich.console import Console
from rich.logging import RichHandler


class Screen(io.TextIOBase):
    """Standard output, as long as it can be written: a training goes on when its terminal is closed, or its pipe."""

    @property
    def stream(self) -> Any:
        return getattr(sys.stdout, "rich_proxied_file", sys.stdout)  # without what a moving bar puts around it

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding or "utf-8"

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError:
            self.let_go()
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            self.let_go()

    def let_go(self) -> None:
        """Send what is printed from here on, and what could not be written so far, nowhere."""
        with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())


# Without markup, since a class or a data set may be called [/x].
console = Console(markup=False, file=Screen())  # type: ignore[arg-type]
if not console.is_terminal:
    console.width = max(console.width, 120)  # a file has no edge


def share_console_with_logging() -> None:
    """On a terminal, let log lines and the progress bar write through one console, so that neither tears the other."""
    logging.raiseExceptions = False  # a line that does not fit on the disk any more is no reason for a traceback
    root = logging.getLogger()
    for handler in list(root.handlers):
        if console.is_terminal and not console.quiet and type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
            root.addHandler(RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S"))
