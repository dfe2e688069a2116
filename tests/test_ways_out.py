"""TensorBoard beside W&B, and what is uploaded where a run is online."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY, composed, metrics, run, stop_at, wandb_records

from vit_cnn.config import checks
from vit_cnn.errors import Stopped
from vit_cnn.report import upload
from vit_cnn.report.upload import upload_report

Command = Callable[..., tuple[int, str]]


def curves(folder: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{folder}/tensorboard").Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_curves_of_a_run_also_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 5)
        run("run", "tensorboard=true", "trainer.log_every=2")
    run("run", "tensorboard=true", "trainer.log_every=2")
    drawn = curves("run")
    for key in ("train/loss", "val/acc", "lr", "grad_norm"):
        lines = [(line["step"], line[key]) for line in metrics("run") if key in line]
        assert [step for step, _ in drawn[key]] == [step for step, _ in lines]
        assert [value for _, value in drawn[key]] == pytest.approx([value for _, value in lines], rel=1e-6)
    run("plain")
    assert not Path("plain/tensorboard").exists()
    assert metrics("plain") == metrics("run")


def test_tensorboard_that_fails_or_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, command: Command
) -> None:
    from torch.utils import tensorboard

    class Full:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            raise OSError("no space left")

    monkeypatch.setattr(tensorboard, "SummaryWriter", Full)
    assert run("run", "tensorboard=true", "max_steps=2")["status"] == "finished"
    assert caplog.text.count("TensorBoard failed (no space left)") == 1

    find = importlib.util.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    code, printed = command(*TINY, "tensorboard=true", "hydra.run.dir=out")
    assert code == 2
    assert "pip install tensorboard" in printed
    assert not Path("out").exists()


class Online:
    """A W&B run that keeps what it is given."""

    id, url, dir = "0123abcd", "https://example.org", "wandb/online/files"

    def __init__(self, **options: Any) -> None:
        self.options, self.artifacts, self.summary = options, list[Any](), dict[str, Any]()
        self.config: dict[str, Any] = {}

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    log = finish = define_metric

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def __enter__(self) -> "Online":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> list[Online]:
    """The W&B runs that were begun."""
    import wandb

    begun: list[Online] = []

    def init(**options: Any) -> Online:
        begun.append(Online(**options))
        return begun[-1]

    monkeypatch.setattr(wandb, "init", init)
    return begun


def test_artifacts_are_uploaded_where_the_run_is_online_and_wanted(online: list[Online], tmp_path: Path) -> None:
    options = ["wandb.mode=online", "max_steps=2"]
    run("without", *options)
    assert online[0].artifacts == []
    result = run("with", *options, "wandb.artifacts=true")
    (artifact,) = online[1].artifacts
    assert artifact.type == "model"
    assert set(artifact.manifest.entries) == {"best.pt", "result.json", "config.yaml"}
    assert {Path(entry.local_path) for entry in artifact.manifest.entries.values()} == {
        Path("with/best.pt"), Path("with/result.json"), Path("with/.hydra/config.yaml"),
    }  # fmt: skip
    cfg = composed(*TINY, *options, "wandb.artifacts=true")
    upload_report(cfg, Path("with"), result["wandb"]["id"])
    (artifact,) = online[2].artifacts
    assert (online[2].options["id"], online[2].options["resume"]) == (result["wandb"]["id"], "must")
    assert set(artifact.manifest.entries) == {"report.html"}


def test_a_stop_during_the_upload_of_a_report_is_after_the_end(
    online: list[Online], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(upload, "upload_report", interrupted)
    code, printed = command(*TINY, "max_steps=1", "wandb.mode=online", "wandb.artifacts=true", "hydra.run.dir=run")
    assert (code, printed.splitlines()[-1]) == (130, "Stopped; run is finished.")


def test_nothing_is_staged_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from vit_cnn.run import wandb_run

    monkeypatch.setattr(wandb_run, "artifact_of", lambda *_: pytest.fail("an artifact was made"))
    run("run", "wandb.mode=offline", "wandb.artifacts=true", "max_steps=2")
    assert not Path("run/report").exists()


def test_wandb_knows_where_the_first_weights_came_from() -> None:
    run("first", "max_steps=2")
    run("second", "max_steps=2", "init=first", "wandb.mode=offline")
    (folder,) = Path("wandb").glob("offline-run-*")
    assert "first_weights" in str(wandb_records(folder))
