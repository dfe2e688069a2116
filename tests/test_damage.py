"""A bit that a disk has flipped is told, and costs at most what came after the checkpoint before."""

import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import run, stop_at
from test_resume import assert_same_run

from vit_cnn.errors import Refused, Stopped
from vit_cnn.run import checkpoint
from vit_cnn.training.state import State, progress_in


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def test_a_flipped_bit_is_told_or_changes_nothing() -> None:
    run("run", "max_steps=2")
    path = Path("run/best.pt")
    whole, content = checkpoint.load(path), path.read_bytes()
    random.seed(0)
    told = 0
    for position in random.sample(range(len(content)), 150):
        path.write_bytes(content)
        flip(path, position)
        try:
            found = checkpoint.load(path)
        except Refused as error:
            assert "run/best.pt is damaged" in str(error)
            told += 1
        else:  # padding between the parts of the file, or a date
            assert all(torch.equal(found["model"][name], tensor) for name, tensor in whole["model"].items())
            assert {**found, "model": 0, "mean": 0, "std": 0} == {**whole, "model": 0, "mean": 0, "std": 0}
    assert told > 75


def test_a_damaged_checkpoint_costs_what_came_after_the_one_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run("whole")
    for step in (3, 6):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Stopped):
                run("parts")
    last = Path("parts/last.pt")
    flip(last, last.stat().st_size // 2)
    run("parts")
    assert "last.pt is damaged" in caplog.text
    assert "Going on from the checkpoint before it, step 3." in caplog.text
    assert_same_run("whole", "parts")
    assert not Path("parts/previous.pt").exists()  # a finished run needs one checkpoint


def test_the_checkpoint_before_is_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a kill or a full disk between the link and the new file."""
    Path("run").mkdir()
    run_dir = Path("run")
    for step in range(4):
        if step == 2:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(checkpoint, "save", interrupted)
                checkpoint.save_last(run_dir, {"step": step})
        checkpoint.save_last(run_dir, {"step": step})
    assert checkpoint.load(run_dir / "last.pt") == {"step": 3}
    assert checkpoint.load(run_dir / "previous.pt") == {"step": 2}
    assert {path.name for path in run_dir.iterdir()} == {"last.pt", "previous.pt"}


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_kill_before_the_last_best_weights_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    run("whole")
    write_best = State.write_best

    def until_the_end(state: State, *arguments: Any) -> None:
        if state.progress.step == 10:
            raise KeyboardInterrupt
        write_best(state, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(State, "write_best", until_the_end)
        with pytest.raises(Stopped):
            run("parts")
    assert checkpoint.load(Path("parts/last.pt"))["progress"]["step"] == 10
    run("parts")
    assert_same_run("whole", "parts")


def test_a_run_that_has_lost_its_checkpoint_loses_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    run("whole")
    Path("whole/last.pt").unlink()
    before = {path: path.read_bytes() for path in Path("whole").iterdir() if path.is_file()}
    with pytest.raises(Refused, match=r"^whole has lost its last\.pt and cannot go on; init=whole begins"):
        run("whole")
    assert {path: path.read_bytes() for path in Path("whole").iterdir() if path.is_file()} == before
    for step in (3, 6):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Stopped):
                run("parts")
    Path("parts/last.pt").unlink()  # the one before it is still there
    Path("whole/result.json").unlink()
    Path("whole/best.pt").unlink()
    run("whole")
    run("parts")
    assert_same_run("whole", "parts")


def test_a_finished_run_gets_its_best_weights_back() -> None:
    run("run")
    best = Path("run/best.pt").read_bytes()
    Path("run/best.pt").unlink()
    with pytest.raises(Refused, match=r"run/best\.pt does not exist; resume=run writes it again from last\.pt$"):
        checkpoint.load_best(Path("run"))
    run("run")
    assert Path("run/best.pt").read_bytes() == best
    Path("run/best.pt").write_bytes(best[:-1000])
    run("run")
    assert Path("run/best.pt").read_bytes() == best
    Path("run/last.pt").write_bytes(b"no checkpoint")
    with pytest.raises(Refused, match=r"run/last\.pt is damaged: .*; init=run begins a new run with its best weights$"):
        run("run")


def test_damage_that_no_reader_has_words_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run("run", "max_steps=2")
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: raised(EOFError()))
    with pytest.raises(Refused, match=r"run/best\.pt is damaged: EOFError$"):
        checkpoint.load(Path("run/best.pt"))


def raised(error: Exception) -> None:
    raise error


def test_a_checkpoint_of_a_later_version_is_refused_in_a_line() -> None:
    with pytest.raises(Refused, match="which keeps mood in it"):
        progress_in({"progress": {"step": 1, "mood": 1}})


def test_where_both_are_damaged_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Stopped):
            run("run")
    metrics = Path("run/metrics.jsonl").read_bytes()
    for name in ("last.pt", "previous.pt"):
        Path("run", name).write_bytes(b"PK" + bytes(1000))
    with pytest.raises(Refused, match=r"run/previous\.pt is damaged"):
        run("run")
    assert Path("run/metrics.jsonl").read_bytes() == metrics
