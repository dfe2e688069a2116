"""Where disk, memory or file handles end, one line says so and what to do; what was written before is whole."""

import errno
import json
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, call, run
from test_resume import assert_same_run

from vit_cnn import evaluate
from vit_cnn.errors import Failed, Refused, one_line
from vit_cnn.images import read
from vit_cnn.report import __main__ as report
from vit_cnn.run import checkpoint, files
from vit_cnn.run.files import write_atomically
from vit_cnn.training import loop

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_checkpoint_that_does_not_fit_says_by_how_much(small_disk: Path) -> None:
    path = small_disk / "last.pt"
    checkpoint.save(path, {"model": {"small": torch.zeros(1000)}})
    before = path.read_bytes()
    with pytest.raises(Failed, match=r"No space left on device .*; what stood there before is whole") as failed:
        checkpoint.save(path, {"model": {"large": torch.zeros(1_000_000)}})
    needed, free = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:bytes )?are", str(failed.value))
    )
    assert 4_000_000 < needed < 4_010_000
    assert 1_000_000 < free + len(before) <= 1 << 20
    assert path.read_bytes() == before
    assert os.listdir(small_disk) == ["last.pt"]
    with pytest.raises(Failed, match="are needed"):
        write_atomically(small_disk / "predictions.npz", lambda file: np.savez(file, logits=np.zeros(1_000_000)))


@pytest.mark.parametrize("left", [0, 3000, 300_000])  # for the first line, for some of the metrics, for one checkpoint
def test_a_run_on_a_full_disk_says_so_and_goes_on_after_it(left: int, small_disk: Path, command: Command) -> None:
    run("whole", "trainer.log_every=1")
    folder = small_disk / "run"
    ballast = small_disk / "ballast"
    with open(ballast, "wb") as file:
        file.write(bytes(os.statvfs(small_disk).f_bavail * 4096 - left // 4096 * 4096))
    options = [*TINY, "trainer.log_every=1", f"hydra.run.dir={folder}"]
    code, printed = command(*options)
    assert code in (1, 2), printed
    assert "No space left on device" in printed
    assert "Traceback" not in printed
    assert len([line for line in printed.splitlines() if line.startswith("error: ")]) == 1
    ballast.unlink()
    code, printed = command(f"resume={folder}") if (folder / ".hydra" / "config.yaml").exists() else command(*options)
    assert code == 0, printed
    assert_same_run("whole", str(folder))


def test_metrics_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match=r"run/metrics\.jsonl cannot be written: No space left on device"):
        Path("run").mkdir()
        Path("run/metrics.jsonl").symlink_to("/dev/full")
        monkeypatch.setattr("vit_cnn.run.tracking.rewind", lambda path, step: None)
        run("run")
    assert json.loads(Path("run/status.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
], ids=["host", "GPU", "CPU"])  # fmt: skip
def test_out_of_memory_names_what_to_lower(error: Exception, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(loop, "training_step", full)
    code, printed = command(*TINY, "hydra.run.dir=run")
    assert code == 1
    line = "out of memory on cpu with recipe.batch_size=30 and data.image_size=32: lower the first"
    assert [line in each for each in printed.splitlines() if each.startswith("error")] == [True]
    assert "Traceback" not in printed


def test_out_of_memory_for_real(command: Command) -> None:
    code, printed = command(*TINY, "model.hidden_dim=100000000000000")
    assert code in (1, 2)
    assert "memory" in printed.splitlines()[-1]
    assert "Traceback" not in printed


def test_too_few_file_handles(command: Command, image_tree: Path) -> None:
    """For the processes that decode images, which then have read none of them."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(set(range(used + 2)) - set(map(int, os.listdir("/proc/self/fd")))), limits[1])
        )
        options: dict[str, Any] = {"image_size": 8, "num_channels": 3, "fit": "crop", "cache": Path("cache")}
        with pytest.raises(OSError, match="Too many open files") as error:
            read.read_folder(image_tree, skip_bad=True, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert one_line(error.value).startswith("too many files are open: raise the limit, which ulimit -n shows")


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_the_machines_limit_is_not_the_images_fault(
    error: Exception, image_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(read, "decode", failing)
    with pytest.raises(type(error)):
        read.decode_files([image_tree / "train" / "grün" / "0.png"], image_size=8, num_channels=3, fit="crop")


def test_a_full_disk_says_what_it_takes_and_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=56))
    full = OSError(errno.ENOSPC, "full")
    said = files.why(full, tmp_path / "last.pt", lambda file: file.write(bytes(1234)))
    assert said == "No space left on device (1,234 bytes are needed, 56 are free)"


def test_a_read_only_run_folder(monkeypatch: pytest.MonkeyPatch, small_disk: Path, capfd: Any) -> None:
    (small_disk / "run").mkdir()
    run(str(small_disk / "run"), "max_steps=2")
    (small_disk / "run" / "result.json").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(Refused, match="run cannot be written: Read-only file system"):
        run(str(small_disk / "run"), "max_steps=2")
    code, printed = call(evaluate.main, [str(small_disk / "run")], monkeypatch, capfd)
    assert code == 0, printed  # to be read is what it is there for
    code, printed = call(
        report.main, [str(small_disk / "run"), "--out", str(small_disk / "report")], monkeypatch, capfd
    )
    assert code == 1
    assert printed == f"error: {small_disk}/report: Read-only file system\n"


def test_a_place_that_cannot_be_written_is_told_in_a_line(command: Command, monkeypatch: Any, capfd: Any) -> None:
    run("run", "max_steps=2")
    Path("taken").write_text("a file")
    Path("full").mkdir()
    Path("full/runs.csv").symlink_to("/dev/full")
    for out, code, said in ("taken", 2, "taken: File exists"), ("full", 1, "the disk is full: No space left on device"):
        ended, printed = call(report.main, ["run", "--out", out], monkeypatch, capfd)
        assert (ended, printed.splitlines()[-1]) == (code, f"error: {said}")


@pytest.mark.parametrize("name", ["metrics.jsonl", "status.json", ".hydra"])
def test_a_disk_that_is_broken_is_told_in_a_line(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Any, *arguments: Any, **options: Any) -> Any:
        if name in str(path) and "run" in Path(path).parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *arguments, **options)

    module = {"metrics.jsonl": "vit_cnn.run.tracking", "status.json": "vit_cnn.run.files", ".hydra": "vit_cnn.run.lock"}
    real = open
    monkeypatch.setattr(f"{module[name]}.open", broken, raising=False)
    code, printed = command(*TINY, "max_steps=2", "hydra.run.dir=run")
    assert code in (1, 2)
    assert "Input/output error" in printed.splitlines()[-1]
    assert "Traceback" not in printed
