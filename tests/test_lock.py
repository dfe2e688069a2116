"""Two processes never write into one run folder, and a lock does not outlive its process."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import TINY, run

from vit_cnn.errors import Refused
from vit_cnn.report import jobs
from vit_cnn.run import lock
from vit_cnn.run.lock import only_writer

Command = Callable[..., tuple[int, str]]

HOLD = """
import sys
from pathlib import Path
from vit_cnn.run.lock import only_writer
with only_writer(Path("run")):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process that writes in ``run``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=-1, stdout=-1, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def content(folder: str) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(folder).rglob("*") if path.is_file()}


def test_a_second_writer_is_refused_and_touches_nothing(
    command: Command, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "write_report", lambda folders, sweep_dir: None)
    run("run", "max_steps=2")
    Path("run/result.json").unlink()
    process = request.getfixturevalue("holder")
    before = content("run")
    owner = f"process {process.pid} on {socket.gethostname()}"
    code, printed = command("resume=run")
    assert code == 2
    assert f"error: run is being written by {owner}: wait for it, or stop it first" in printed.splitlines()
    assert "Traceback" not in printed
    code, printed = command("-m", *TINY, "max_steps=2", "hydra.sweep.dir=.", "hydra.sweep.subdir=run")
    assert code == 1
    assert f"is being written by {owner}" in printed
    assert content("run") == before
    process.kill()
    process.wait()
    assert Path("run/.hydra/lock").exists()
    assert command("resume=run")[0] == 0
    assert not Path("run/.hydra/lock").exists()


def test_a_job_of_a_second_sweep_does_not_begin_where_one_has_not_written_its_config(
    command: Command, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "write_report", lambda folders, sweep_dir: None)
    request.getfixturevalue("holder")
    code, printed = command("-m", *TINY, "hydra.sweep.dir=.", "hydra.sweep.subdir=run")
    assert code == 1
    assert "is being written by process" in printed
    assert [path.name for path in Path("run").rglob("*")] == [".hydra", "lock"]


def test_the_lock_is_held_until_the_result_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from vit_cnn.training import finish

    write, seen = finish.write_json, []

    def looking(path: Path, value: dict[str, object]) -> None:
        write(path, value)
        done = subprocess.run([sys.executable, "-c", HOLD], input="", capture_output=True, text=True)
        seen.append(done.stderr.splitlines()[-1])

    monkeypatch.setattr(finish, "write_json", looking)
    run("run", "max_steps=1")
    assert f"is being written by process {os.getpid()} on" in seen[0]


def test_a_refused_start_leaves_no_lock(command: Command) -> None:
    with pytest.raises(Refused, match="above the 100 training images"):
        run("run", "recipe.batch_size=1000", "data.max_images=100")
    assert not list(Path("run").iterdir())


def test_a_lock_file_removed_by_its_last_owner_is_not_taken_for_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    flock, path = lock.lock, Path("run/.hydra/lock")

    def late(file: object, where: Path) -> None:
        monkeypatch.setattr(lock, "lock", flock)
        path.unlink()  # the owner ends between the opening and the locking of its file
        flock(file, where)

    monkeypatch.setattr(lock, "lock", late)
    with only_writer(Path("run")):
        assert str(os.getpid()) in path.read_text()


def test_a_file_system_without_locks_costs_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unknown)
    with only_writer(Path("run")), only_writer(Path("run")):
        assert "cannot be locked" in caplog.text


def test_a_read_only_folder_is_refused(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    run("run", "max_steps=2")
    Path("run/result.json").unlink()

    def denied(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(lock, "open", denied, raising=False)
    code, printed = command("resume=run")
    assert code == 2
    assert "error: run cannot be written: Read-only file system" in printed


def test_what_a_kill_left_half_written_is_removed_by_the_next_writer() -> None:
    run("run", "max_steps=2")
    Path("run/result.json").unlink()
    torn, theirs = [Path("run/.last.pt.1.tmp"), Path("run/.hydra/.config.yaml.1.tmp")], Path("run/.notes.old.tmp")
    for path in [*torn, theirs]:
        path.write_bytes(b"half")
    run("run", "max_steps=2")
    assert not any(path.exists() for path in torn)
    assert theirs.exists()
