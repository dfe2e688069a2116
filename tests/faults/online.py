"""Weights & Biases, in every state but the right one: the training goes on, and ends within a bounded time."""

import contextlib
import http.server
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from trainings import OPTIONS, Training, lines, missing_lines, until

from faults.kinds import TooLate, Whole

KEY = "0" * 40
SHORT = "from vit_cnn.run import wandb_run; wandb_run.START_SECONDS = wandb_run.FINISH_SECONDS = 3"
PATIENCE = 180  # seconds that a run may take, of which it trains one


def train(run: Path, whole: Whole, *, mode: str, **environment: str) -> Training:
    options = [each for each in OPTIONS if not each.startswith("wandb")]
    place = {"WANDB_DIR": str(records(run)), "WANDB_API_KEY": KEY, "WANDB_MODE": mode}
    return Training(*options, f"hydra.run.dir={run}", before=SHORT, **place | environment)


def records(run: Path) -> Path:
    """Where W&B keeps those of one run."""
    folder = run.with_name(f"{run.name}_wandb")
    folder.mkdir(exist_ok=True)
    return folder


def is_logged_offline(process: Training, run: Path, whole: Whole) -> str:
    lost = ends_in_time(process, run, whole)
    assert any(records(run).rglob("*.wandb")), f"W&B has nothing: {process.printed()}"
    return lost


def ends_in_time(process: Training, run: Path, whole: Whole) -> str:
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it hangs after {lines(run)} lines: {process.printed()}") from None
    assert code == 0, f"code {code}: {process.printed()}"
    assert "Traceback" not in process.printed(), process.printed()
    assert missing_lines(whole.run, run) == 0
    return ""


def without_network(run: Path, whole: Whole) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed from here on: whoever calls is turned away
    return is_logged_offline(train(run, whole, mode="online", WANDB_BASE_URL=f"http://127.0.0.1:{port}"), run, whole)


def a_server_that_never_answers(run: Path, whole: Whole) -> str:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:  # the system accepts, and nobody reads
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        return is_logged_offline(train(run, whole, mode="online", WANDB_BASE_URL=url), run, whole)


class WrongKey(http.server.BaseHTTPRequestHandler):
    """Answers as W&B does to a key that it does not know."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"errors": [{"message": "user is not logged in"}]}).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


def a_wrong_key(run: Path, whole: Whole) -> str:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WrongKey)
    answering = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    answering.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        return is_logged_offline(train(run, whole, mode="online", WANDB_BASE_URL=url), run, whole)
    finally:
        answering.kill()
        server.server_close()


def service(number: int) -> Callable[[Path, Whole], str]:
    """A signal to the process beside the training, through which all goes."""

    def hurt(run: Path, whole: Whole) -> str:
        process = train(run, whole, mode="offline")
        wanted = random.randint(1, 18)
        until(process, lambda: lines(run) >= wanted)
        hurt = [each for each in services() if str(process.pid) in each]
        if not hurt:
            raise TooLate
        for words in hurt:
            os.kill(int(words[0]), number)
        try:
            return ends_in_time(process, run, whole)
        finally:
            for words in hurt:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(words[0]), signal.SIGKILL)

    return hurt


def services() -> Iterator[list[str]]:
    """W&B's processes: the number of each, and its command line."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            if "wandb-core" in words[0]:
                yield [folder.name, *words]


def unwritable(run: Path, whole: Whole) -> str:
    return ends_in_time(train(run, whole, mode="offline", WANDB_DIR="/proc/nowhere"), run, whole)


KINDS: dict[str, Callable[[Path, Whole], str]] = {
    "W&B without a network": without_network,
    "W&B with a wrong key": a_wrong_key,
    "W&B killed": service(signal.SIGKILL),
    "W&B frozen": service(signal.SIGSTOP),
    "W&B in a folder that cannot be written": unwritable,
    "W&B whose server never answers": a_server_that_never_answers,
}
