"""The cache of decoded images: used, made anew, never half, one copy of a folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_cnn.images import read as reading
from vit_cnn.images.read import Images, decode_all, read_folder


def read(root: Path, cache: Path, *, skip_bad: bool = False, image_size: int = 16) -> Images:
    return read_folder(root, image_size=image_size, num_channels=3, fit="crop", skip_bad=skip_bad, cache=cache)


def test_the_cache_is_used_until_a_file_changes(
    image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def counting(paths: list[Path], **options: object) -> object:
        decoded.append(len(paths))
        return decode_all(paths, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "decode_all", counting)
    first, again = read(image_tree, tmp_path / "c"), read(image_tree, tmp_path / "c")
    assert decoded == [40, 12]
    assert again.fingerprint == first.fingerprint
    for split in ("train", "test"):
        assert np.array_equal(first.images[split], again.images[split])
        assert np.array_equal(first.labels[split], again.labels[split])

    victim = image_tree / "train" / "grün" / "3.png"
    before = victim.stat()
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1  # a byte of the checksum at a PNG's very end, which no decoder looks at
    victim.write_bytes(content)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))  # hides the change from whoever trusts mtime
    changed = read(image_tree, tmp_path / "c")
    assert len(decoded) == 4
    assert changed.fingerprint != first.fingerprint
    (image_tree / "test" / "grün" / "0.png").rename(image_tree / "test" / "grün" / "zero.png")
    assert read(image_tree, tmp_path / "c").fingerprint not in (first.fingerprint, changed.fingerprint)
    assert len(decoded) == 6


def test_a_damaged_cache_is_made_anew(image_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = read(image_tree, tmp_path / "c")
    (cached,) = (tmp_path / "c").iterdir()
    content = bytearray(cached.read_bytes())
    content[2000] ^= 255
    cached.write_bytes(content)
    again = read(image_tree, tmp_path / "c")
    assert "is damaged" in caplog.text
    assert np.array_equal(first.images["train"], again.images["train"])
    cached.write_bytes(content[:500])
    assert np.array_equal(first.images["train"], read(image_tree, tmp_path / "c").images["train"])


def test_a_cache_that_cannot_be_written_costs_nothing_else(
    image_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c").write_text("a file where a folder should be")
    assert len(read(image_tree, tmp_path / "c").images["train"]) == 40
    assert "data.cache" in caplog.text


def test_an_old_cache_that_cannot_be_removed_costs_nothing_else(
    image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    read(image_tree, tmp_path / "c")
    next((image_tree / "train").rglob("*.png")).touch()
    monkeypatch.setattr(Path, "unlink", refused)
    assert len(read(image_tree, tmp_path / "c").images["train"]) == 40
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_full_disk_leaves_no_half_cache(
    image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        assert len(read(image_tree, tmp_path / "c").images["train"]) == 40
    assert "No space left on device" in caplog.text
    assert list((tmp_path / "c").iterdir()) == []
    read(image_tree, tmp_path / "c")
    assert len(list((tmp_path / "c").iterdir())) == 1


SLOW = """
import sys, time
from pathlib import Path
from vit_cnn.images import read
decode = read.decode
def slow(*arguments, **options):
    time.sleep(0.05)
    Path("decoding").touch()
    return decode(*arguments, **options)
read.decode = slow
read.read_folder(Path(sys.argv[1]), image_size=16, num_channels=3, fit="crop", skip_bad=False, cache=Path("c"))
"""


def test_killed_while_decoding(image_tree: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(image_tree)])
    while not Path("decoding").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("c").exists()
    assert len(read(image_tree, tmp_path / "c").images["train"]) == 40


def test_what_a_killed_process_left_half_written_is_cleared_away(image_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    old, young = tmp_path / "c" / ".images.npz.1.tmp", tmp_path / "c" / ".images.npz.2.tmp"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    read(image_tree, tmp_path / "c")
    assert not old.exists()
    assert young.exists()  # another process may be writing it


def test_two_processes_at_once(image_tree: Path, tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", SLOW, str(image_tree)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(list(Path("c").iterdir())) == 1
    assert len(read(image_tree, tmp_path / "c").images["test"]) == 12


def test_the_cache_keeps_one_copy_of_a_folder(image_tree: Path, tmp_path: Path) -> None:
    """However often its files change; another folder's copy, or another size of it, stays."""
    read(image_tree, tmp_path / "c")
    read(image_tree, tmp_path / "c", image_size=8)
    for number in range(3):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(image_tree / "train" / "grün" / "0.png")
        read(image_tree, tmp_path / "c")
    assert len(list((tmp_path / "c").iterdir())) == 2
