"""What a user sees while it runs: a line at once, a bar that tells the truth, and an answer to Ctrl-C at any moment."""

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pexpect
import pytest
from helpers import TINY, call, metrics, run, stop_at
from nbclient import NotebookClient
from rich.console import Console

from vit_cnn import estimate
from vit_cnn.errors import Stopped
from vit_cnn.run import display, wandb_run
from vit_cnn.run.display import RunDisplay
from vit_cnn.training import loop

ROOT = Path(__file__).parent.parent
TRAIN = [sys.executable, "-m", "vit_cnn.train", *TINY]
FIRST_LINE = "Loading PyTorch, then the images; the first step comes in some seconds.\n"
HEARD = "Stopping: finishing this step or evaluation first; once more stops now"

Command = Callable[..., tuple[int, str]]


def environment(**more: str) -> dict[str, str]:
    """Of a new process: without what this one has set for itself."""
    return {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"} | more


def spawn(command: list[str]) -> Any:
    """A command on a terminal of its own, of 80 columns."""
    screen = {"dimensions": (40, 80), "encoding": "utf-8", "timeout": 60}
    return pexpect.spawn(command[0], command[1:], env=environment(TERM="xterm"), **screen)


def test_a_line_before_pytorch_and_ctrl_c_while_it_is_imported(tmp_path: Path) -> None:
    """With a PyTorch that never gets imported."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import time\nopen('importing', 'w')\ntime.sleep(600)\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = subprocess.Popen(
        TRAIN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(PYTHONPATH=path)
    )
    assert process.stdout
    assert process.stdout.readline() == FIRST_LINE
    while not Path("importing").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert printed == ""
    assert errors == "Interrupted before the first step; the same command starts again.\n"
    assert process.returncode in (130, -signal.SIGINT)  # which is 130 to a shell
    assert not Path("runs").exists()


@pytest.mark.parametrize("question", ["--help", "--cfg job", "--cfg=job", "-c job", "--info config"])
def test_who_asks_a_question_gets_the_answer_alone(command: Command, question: str) -> None:
    code, printed = command(*question.split(), "data=digits")
    assert code == 0
    assert "Loading" not in printed
    assert len(printed.splitlines()) > 3


def test_ctrl_c_while_data_is_read(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "instantiate", interrupted)
        code, printed = command(*TINY)
        assert code == 130
        assert printed == FIRST_LINE + "Interrupted before the first step; the same command starts again.\n"
        assert not Path("runs").exists()
    assert command(*TINY, "max_steps=2", "hydra.run.dir=run")[0] == 0
    Path("run/result.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "instantiate", interrupted)
        code, printed = command("resume=run")
    assert code == 3
    assert printed.endswith("Stopped before it went on. To go on:\n  python -m vit_cnn.train resume=run\n")
    assert command("resume=run")[0] == 0


def test_ctrl_c_is_answered_at_once_in_a_file_too(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 3)
    code, printed = command(*TINY, "hydra.run.dir=run")
    assert code == 3
    assert printed.endswith(f"{HEARD}\nStopped at step 3 of 10. To go on:\n  python -m vit_cnn.train resume=run\n")


def test_a_second_ctrl_c_does_not_wait_for_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def finish(self: Any, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        never.wait(60)

    with monkeypatch.context() as patch:
        patch.setattr(wandb_run.WandbRun, "attempt", lambda self, what, call: finish(self) if what == "finish" else 0)
        stop_at(patch, 3)
        with pytest.raises(Stopped, match="Stopped at once; the last checkpoint is kept"):
            run("run")
        never.set()
    assert [line["step"] for line in metrics("run")] == [2]
    assert run("run")["steps"] == 10


def test_a_terminal_of_80_columns() -> None:
    child = spawn([*TRAIN, "recipe.epochs=2000", "hydra.run.dir=run"])
    child.expect("Loading PyTorch")
    child.expect(r"epoch \d+/2000 ")
    child.expect("left")
    child.expect("images/s")
    child.sendintr()
    child.expect(re.escape(HEARD))
    child.expect(r"Stopped at step (\d+) of 10000\. To go on:\r\n  (python -m vit_cnn\.train resume=run)\r\n")
    step, command = int(child.match[1]), child.match[2]
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3
    child = spawn([sys.executable, *shlex.split(command)[1:]])
    child.expect(rf"[ m]{step}/10000\b")  # the bar begins where it stands
    child.expect("images/s")
    child.sendintr()
    child.sendintr()
    child.expect("Stopped at ")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3


def test_a_resumed_bar_counts_from_where_it_stands_at_the_speed_of_this_part(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(width=80, record=True, force_terminal=True)
    bar = RunDisplay(total_steps=1000, steps_per_epoch=100, epochs=10, step=900)
    clock = 0.0
    bar.bar.get_time = bar.bar.tasks[0]._get_time = lambda: clock
    screen.print(bar.lines())
    begun = screen.export_text().splitlines()
    assert begun[0].startswith("epoch 10/10 ")
    assert begun[0].endswith("900/1000 left -:--:--")
    for step in range(901, 911):
        clock += 2
        bar.step(step)
    screen.print(bar.lines())
    assert screen.export_text().splitlines()[0].endswith("910/1000 left 0:03:00")  # 90 steps of 2 seconds


def test_training_in_a_notebook_shows_one_bar_that_moves() -> None:
    cell = f"""
        from pathlib import Path
        from hydra import compose, initialize_config_dir
        from vit_cnn import config
        from vit_cnn.run import display
        from vit_cnn.training.loop import train
        display.SECONDS_BETWEEN_FRAMES = 0
        with initialize_config_dir(str(config.CONF), version_base="1.3"):
            cfg = config.check(compose("config", overrides={[*TINY, "wandb.mode=disabled"]}))
        train(cfg, Path("run"));"""
    messages: list[dict[str, Any]] = []

    class Client(NotebookClient):
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            messages.append(msg)
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell))])
    Client(notebook, timeout=120).execute()
    frames = [m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "update_display_data"]
    shown = [re.sub(r"\x1b\[[\d;]*m", "", frame) for frame in frames]
    for step in range(1, 11):
        assert any(f" {step}/10 " in frame for frame in shown), step
    outputs = notebook.cells[0].outputs
    bars = [output for output in outputs if "10/10" in output.get("data", {}).get("text/plain", "")]
    assert len(bars) == 1
    assert "images/s" in bars[0].data["text/html"]
    assert len(outputs) <= 5
    assert display.SECONDS_BETWEEN_FRAMES >= 0.2  # a message each


LONG = "data=digits data.max_images=160 model.num_layers=1 recipe.batch_size=16 recipe.epochs=10000000"


@pytest.mark.parametrize("target", ["sweep model.patch_size=16 model.dropout=0", "compare model=vit seed=0"])
def test_make_asks_before_long_work(target: str) -> None:
    goal, grid = target.split(maxsplit=1)
    make = ["make", "-f", str(ROOT / "Makefile"), "-o", "setup", f"VENV={Path(sys.executable).parent.parent}", goal]
    child = spawn([*make, f"ARGS={LONG} {grid}"])
    child.expect(r"About .{,30} hours of work")
    child.expect("Start now\\?")
    child.sendline("n")
    child.expect("Nothing was started")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert not Path("runs").exists()


def test_who_is_asked_before_long_work(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    started: list[list[str]] = []
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as errors.py sets it, for its own process

    def execve(_: str, command: list[str], environment: dict[str, str]) -> None:
        assert "HYDRA_FULL_ERROR" not in environment  # or the training would show tracebacks
        started.append(command)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(estimate, "estimate", lambda overrides: 3601.0)
    monkeypatch.setattr(estimate, "is_wanted", lambda: pytest.fail("nobody is there to answer"))
    assert call(estimate.main, ["--train", "data=digits"], monkeypatch, capfd)[0] == 0  # not a terminal
    assert started.pop()[1:] == ["-m", "vit_cnn.train", "data=digits"]
    assert call(estimate.main, ["--train", "seed=0,1", "data=digits"], monkeypatch, capfd)[0] == 0
    assert started.pop()[1:] == ["-m", "vit_cnn.train", "-m", "seed=0,1", "data=digits"]
    monkeypatch.setattr(estimate, "console", Console(force_terminal=True))
    monkeypatch.setattr(sys, "stdin", open(os.openpty()[1]))
    assert call(estimate.main, ["--train", "--yes", "data=digits"], monkeypatch, capfd)[0] == 0
    assert started.pop()[1:] == ["-m", "vit_cnn.train", "data=digits"]
    monkeypatch.setattr(estimate, "is_wanted", lambda: False)
    assert call(estimate.main, ["--train", "data=digits"], monkeypatch, capfd) == (0, "Nothing was started.\n")
    assert call(estimate.main, ["data=digits"], monkeypatch, capfd)[0] == 0  # tells, and trains nothing
    assert call(estimate.main, ["--sure", "data=digits"], monkeypatch, capfd)[0] == 2
    assert started == []
    monkeypatch.setattr(estimate, "estimate", lambda overrides: 3599.0)
    assert call(estimate.main, ["--train", "data=digits"], monkeypatch, capfd)[0] == 0
    assert len(started) == 1


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_terminal_that_is_closed_stops_the_run_and_nohup_keeps_it(
    is_ignored: bool, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    try:
        with monkeypatch.context() as patch:
            stop_at(patch, 3, times=2, number=signal.SIGHUP)  # a shell that ends says it again
            code, printed = command(*TINY, "hydra.run.dir=run")
        assert code == (0 if is_ignored else 3), printed
        assert is_ignored or "Stopped at step 3 of 10" in printed
        assert command("resume=run")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, handler)


def test_a_training_whose_reader_has_gone_goes_on() -> None:
    process = subprocess.Popen(
        [*TRAIN, "hydra.run.dir=run"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout and process.stderr
    assert process.stdout.readline() == FIRST_LINE.encode()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0, errors
    assert errors == b""
    assert Path("run/result.json").exists()
