"""Weights & Biases mirrors a run, and whatever happens to it changes nothing."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, composed, history, metrics, run, stop_at, wandb_history, wandb_records, weights

from vit_cnn.errors import Stopped
from vit_cnn.run import wandb_run
from vit_cnn.run.display import RunDisplay
from vit_cnn.run.wandb_run import choose_mode


def test_an_offline_run_holds_config_and_curves(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Stopped):
            run("run", "wandb.mode=offline", "wandb.tags=[mine]")
    result = run("run", "wandb.mode=offline", "wandb.tags=[mine]")
    assert result["wandb"]["mode"] == "offline"
    assert "wandb leet" in caplog.text
    assert "wandb sync" in caplog.text
    folders = sorted(Path("wandb").glob("offline-run-*"))
    # The resumed part goes on with the run; W&B puts a number behind where both began within a second.
    assert all(f"-{result['wandb']['id']}" in folder.name for folder in folders)

    # W&B replaces the one folder by the other when both are uploaded, so the last has the whole run.
    last = json.dumps(history(wandb_records(folders[-1])))
    for line in metrics("run"):
        assert re.search(rf'"step\W+{line["step"]}\b', last), line["step"]
    assert "That folder has the whole run" in caplog.text
    records = [record for folder in folders for record in wandb_records(folder)]
    started = next(record["run"] for record in records if record["type"] == "run")
    assert started["display_name"] == "vit-digits-deck-seed3"
    assert started["run_group"] == "vit-digits-deck"
    assert set(started["tags"]) == {"ViT", "Digits", "deck", "mine"}
    assert started["config"]["update"]["model"]["patch_size"] == 8
    logged = json.dumps(history(records))
    for line in metrics("run"):
        for key in line.keys() - {"step", "epoch"}:
            assert key in logged
    assert len(history(records)) >= len({line["step"] for line in metrics("run")})
    assert "val/acc" in json.dumps([record for record in records if record["type"] == "metric"])


class BrokenRun:
    """A W&B run that fails wherever it is touched."""

    id, url, dir = "broken", "", "wandb/broken/files"

    def __getattr__(self, name: str) -> Any:
        raise OSError(f"no more {name}")


def break_init(monkeypatch: pytest.MonkeyPatch, init: Callable[..., Any]) -> None:
    import wandb

    monkeypatch.setattr(wandb, "init", init)


@pytest.mark.parametrize("moment", ["init", "log", "finish"])
def test_a_failing_wandb_changes_nothing(
    moment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run("plain")

    def init(**_: Any) -> Any:
        if moment == "init":
            raise ConnectionError("service is gone")
        broken = BrokenRun()
        if moment == "finish":
            broken.define_metric = broken.log = lambda *_, **__: None
            broken.summary = {}
        return broken

    break_init(monkeypatch, init)
    result = run("broken", "wandb.mode=online")
    assert result["status"] == "finished"
    assert (result["wandb"]["mode"] == "disabled") == (moment != "finish")
    assert metrics("broken") == metrics("plain")
    ours, theirs = weights("plain"), weights("broken")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert caplog.text.count("W&B failed") == 1
    assert "metrics.jsonl has everything" in caplog.text


def test_an_upload_that_hangs_does_not_hold_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    never = threading.Event()
    hanging = BrokenRun()
    hanging.define_metric = hanging.log = lambda *_, **__: None
    hanging.summary = {}
    hanging.finish = lambda **_: never.wait(60)
    break_init(monkeypatch, lambda **_: hanging)
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 0.1)
    assert run("run", "wandb.mode=online", "max_steps=2")["status"] == "finished"
    assert "W&B did not finish" in caplog.text
    never.set()


FREEZING = """
import os, signal
from vit_cnn import errors, train
from vit_cnn.run import wandb_run
from vit_cnn.training import loop
wandb_run.FINISH_SECONDS = 1
learning_rate = loop.learning_rate
def freezing(done, **options):
    if done == 3:
        (service,) = open(f"/proc/self/task/{os.getpid()}/children").read().split()
        open("frozen", "w").write(service)
        os.kill(int(service), signal.SIGSTOP)
    return learning_rate(done, **options)
loop.learning_rate = freezing
errors.exit_with_code(train.main)
"""


def test_a_service_that_hangs_does_not_hold_the_end_of_the_process() -> None:
    """W&B's own hook at the end of a process waits for it, for ever if need be."""
    call = [sys.executable, "-c", FREEZING, *TINY, "hydra.run.dir=run", "wandb.mode=offline"]
    variables = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    with open("printed", "wb") as printed:  # a pipe would be held open by the service
        process = subprocess.Popen(call, stdout=printed, stderr=printed, env=variables)
    try:
        assert process.wait(60) == 0, Path("printed").read_text()
    finally:
        process.kill()
        if Path("frozen").exists():
            os.kill(int(Path("frozen").read_text()), signal.SIGKILL)
    assert "W&B did not finish within 1 s" in Path("printed").read_text()
    assert "Traceback" not in Path("printed").read_text()


class Silent(http.server.BaseHTTPRequestHandler):
    """A server that never answers."""

    def do_POST(self) -> None:
        time.sleep(30)


class WrongKey(http.server.BaseHTTPRequestHandler):
    """A server that does not know the key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "user is not logged in"}]}')


@pytest.mark.parametrize("kind", [Silent, WrongKey])
def test_a_server_that_does_not_help_costs_seconds_and_nothing_else(
    kind: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run("plain")
    monkeypatch.setattr(wandb_run, "START_SECONDS", 3)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert run("here", "wandb.mode=online")["wandb"]["mode"] == "offline"
    server.shutdown()
    assert "W&B cannot be reached" in caplog.text
    assert "W&B failed" not in caplog.text
    assert len(wandb_history()) >= len({line["step"] for line in metrics("here")})
    assert metrics("here") == metrics("plain")


def test_an_online_start_that_fails_falls_back_to_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    asked = []
    real = wandb.init

    def init(**options: Any) -> Any:
        asked.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("no route to host")
        return real(**options)

    break_init(monkeypatch, init)
    assert run("run", "wandb.mode=online", "max_steps=2")["wandb"]["mode"] == "offline"
    assert asked == ["online", "offline"]


def test_the_mode_is_chosen_without_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert choose_mode("disabled") == "disabled"
    for key, mode in ((True, "online"), (False, "offline")):
        monkeypatch.setattr(wandb, "login", lambda key=key, **_: key)
        assert choose_mode("auto") == mode
    monkeypatch.setattr(wandb, "login", lambda **_: 1 / 0)
    assert choose_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode("auto") == "disabled"
    assert choose_mode("offline") == "offline"


def test_lines_off_a_terminal(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO")
    display = RunDisplay(total_steps=10, steps_per_epoch=5, epochs=2, step=0)
    figures = {"train/loss": 1.5, "train/acc": 0.25, "lr": 3e-4, "images_per_second": 1234.5, "share_of_peak": 0.42}
    display.train_metrics(2, figures)
    assert caplog.text == ""  # not a line for every measurement
    display.last_line -= 31
    display.train_metrics(4, figures)
    assert "step 4/10  loss 1.500  acc 25.0%  lr 3.0e-04  1,234 images/s (42% of peak)" in caplog.text
    display.val_metrics(1.0, {"val/acc": 0.5, "val/loss": 1.25}, is_best=True)
    assert "epoch 1/2: validation accuracy 50.00 %, loss 1.2500, best" in caplog.text
    display.close()


def test_composed_config_reaches_wandb_resolved() -> None:
    assert composed(*TINY).wandb.group == "vit-digits-deck"
