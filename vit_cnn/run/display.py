"""What a person sees of a run in the terminal: its progress, and finished runs side by side."""

import contextlib
import logging
import os
import time
from typing import Any

from rich import box
from rich.console import Group
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vit_cnn.console import console
from vit_cnn.run.looks import looks_in_words

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30  # in a file: often enough to see that it lives, seldom enough to read
SECONDS_BETWEEN_FRAMES = 0.5  # in a notebook, where each one is a message


class RunDisplay:
    """Progress of one training run: a bar that moves in a terminal or a notebook, a line now and then in a file.

    Args:
        total_steps: steps of the whole run.
        steps_per_epoch: steps of an epoch.
        epochs: epochs of the whole run.
        step: steps done already, after a resume.
    """

    def __init__(self, *, total_steps: int, steps_per_epoch: int, epochs: int, step: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.total_steps = total_steps
        self.last_line = self.last_frame = time.monotonic()
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            speed_estimate_period=300,  # seconds, of this part of the run only: steps before it have no time
        )
        epoch = self.epoch_of(step + 1)
        self.task = self.bar.add_task("train", total=total_steps, completed=step, epoch=epoch, epochs=epochs)
        self.train_text = self.val_text = self.answer_text = ""
        self.live = Live(get_renderable=self.lines, console=console, refresh_per_second=4)
        self.cell: Any = None  # of a notebook: what it shows can be shown anew

    def start(self) -> None:
        if console.is_terminal:
            self.live.start(refresh=True)
        elif console.is_jupyter:  # where rich's Live would ask for ipywidgets, and leave nothing in a saved notebook
            from IPython.display import display

            self.cell = display(self.frame(), display_id=True)

    def lines(self) -> Group:
        # The first text has a line even where it is empty: a terminal puts its ^C there, not behind the bar.
        texts = [f"{self.train_text}  {self.val_text}".strip(), *([self.answer_text] if self.answer_text else [])]
        return Group(self.bar, *(Text(text, overflow="ellipsis", no_wrap=True) for text in texts))

    def frame(self) -> Constrain:
        """The lines as a notebook can show them."""
        return Constrain(self.lines(), width=100)

    def epoch_of(self, step: int) -> int:
        return min((step - 1) // self.steps_per_epoch + 1, self.epochs)

    def step(self, step: int) -> None:
        self.bar.update(self.task, completed=step, epoch=self.epoch_of(step))
        if self.cell and time.monotonic() - self.last_frame > SECONDS_BETWEEN_FRAMES:
            self.last_frame = time.monotonic()
            self.cell.update(self.frame())

    def answer(self, text: str) -> None:
        """Say that a signal has been heard; called by its handler, which may have interrupted anything that prints.

        So it takes no lock of rich's: the bar shows the text when it is drawn next.
        """
        self.answer_text = text
        if not (console.is_terminal or self.cell):
            with contextlib.suppress(OSError):  # nobody reads it
                os.write(2, f"{text}\n".encode())

    def train_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        self.train_text = (
            f"loss {metrics['train/loss']:.3f}  acc {metrics['train/acc']:.1%}  lr {metrics['lr']:.1e}  "
            f"{metrics['images_per_second']:,.0f} images/s ({metrics['share_of_peak']:.0%} of peak)"
        )
        if not (console.is_terminal or self.cell) and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            log.info("step %d/%d  %s", step, self.total_steps, self.train_text)

    def val_metrics(self, epoch: float, metrics: dict[str, Any], *, is_best: bool) -> None:
        self.val_text = f"val {metrics['val/acc']:.1%}"
        self.last_line = time.monotonic()
        log.info(
            "epoch %g/%d: validation accuracy %.2f %%, loss %.4f%s",
            epoch,
            self.epochs,
            100 * metrics["val/acc"],
            metrics["val/loss"],
            ", best" if is_best else "",
        )

    def close(self) -> None:
        self.live.stop()
        if self.cell:
            self.cell.update(self.frame())


def print_results(results: list[dict[str, Any]]) -> None:
    """Finished runs side by side, a column each, from their ``result.json``."""
    rows = {
        "data": [result["data"]["name"] for result in results],
        "parameters": [f"{result['params']:,}" for result in results],
        "size in fp32": [f"{result['params'] * 4 / 1e6:.3f} MB" for result in results],
        "epochs": [f"{result['epochs']:g}, best {result['best_epoch']:g}" for result in results],
        "train accuracy": [f"{result['train/acc']:.2%}" for result in results],
        "validation accuracy": [f"{result['val/acc']:.2%}" for result in results],
        "test accuracy": [f"{result['test/acc']:.2%}" for result in results],
        "train loss": [f"{result['train/loss']:.4f}" for result in results],
        "validation loss": [f"{result['val/loss']:.4f}" for result in results],
        "test loss": [f"{result['test/loss']:.4f}" for result in results],
        "training speed": [f"{result['images_per_second']:,.0f} images/s" for result in results],
        "share of peak": [f"{result['share_of_peak']:.0%}" for result in results],
        "training time": [duration(result["seconds_train"]) for result in results],
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for result in results:
        table.add_column(result["model"], justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells, end_section=name in ("epochs", "test accuracy", "test loss"))
    console.print(table)
    looks = "; ".join(dict.fromkeys(looks_in_words(result.get("test_looks")) for result in results))
    console.print(f"Weights of the best epoch by validation accuracy; {looks}.")


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
