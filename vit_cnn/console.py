"""The one console of the whole package, so that log lines, tables and a progress bar do not tear each other."""

import logging

from rich.console import Console
from rich.logging import RichHandler

console = Console(markup=False)  # a class or a data set may be called [/x]
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
