"""Torn, foreign and hostile files in a run folder are named in one line; nothing in them is run."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import call, metrics, run, stop_at
from test_resume import assert_same_run

from vit_cnn import compare, evaluate
from vit_cnn.arrays import read_arrays
from vit_cnn.errors import Refused, Stopped
from vit_cnn.images.read import read_folder
from vit_cnn.report import __main__ as report
from vit_cnn.run import checkpoint
from vit_cnn.run.reading import find_runs, read_rows
from vit_cnn.run.result import read_result

Command = Callable[..., tuple[int, str]]


class Evil:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("stolen"),)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(str(folder), "max_steps=2")
    return folder


@pytest.fixture
def folder(trained: Path) -> Path:
    """A finished run, of its own for a test."""
    shutil.copytree(trained, "run")
    return Path("run")


def refused_in_a_line(code: int, printed: str, message: str) -> None:
    assert code == 2, printed
    assert message in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) == 1
    assert not Path("stolen").exists()


RESULTS = {
    "": "cannot be read: Expecting value", "[]": "it holds a list", "null": "it holds a NoneType",
    "{}": "params is None", "[" * 100_000: "cannot be read", '{"params": "many"}': "params is 'many'",
    "\xff\0": "cannot be read",
}  # fmt: skip


@pytest.mark.parametrize("content", RESULTS, ids=range(len(RESULTS)))
def test_a_result_that_is_none(
    content: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "result.json").write_text(content, encoding="latin-1")
    for main, arguments in ((compare.main, ["run"]), (evaluate.main, ["run", "split=val"]), (report.main, ["run"])):
        refused_in_a_line(*call(main, arguments, monkeypatch, capfd), RESULTS[content])


@pytest.mark.parametrize(("key", "value"), [
    ("test/acc", None), ("val/loss", float("nan")), ("steps", 10**400), ("seconds_train", True), ("data", "Digits"),
    ("model", 3), ("versions", []), ("git", {"sha": 3}), ("continued", 3), ("continued", [3]), ("config", None),
    ("test_looks", []), ("init", "run"), ("init", {"from": 3}),
])  # fmt: skip
def test_a_result_with_a_wrong_value(key: str, value: Any, folder: Path) -> None:
    result = read_result(folder)
    (folder / "result.json").write_text(json.dumps(result | {key: value}))
    with pytest.raises(Refused, match=rf"run/result\.json is not the result of a run: {key}"):
        read_result(folder)


def test_text_of_a_stranger_is_not_taken_for_markup(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "result.json").write_text(json.dumps(read_result(folder) | {"model": "[/x]"}))
    code, printed = call(compare.main, ["run"], monkeypatch, capfd)
    assert code == 0, printed
    assert "[/x]" in printed


@pytest.mark.parametrize("line", [
    "{", "[]", "3", "null", '{"step": 1}', '{"step": "1", "epoch": 1, "seconds": 1}',
    '{"step": 1, "epoch": 1, "seconds": 1, "val/acc": "high"}', '{"step": 1, "epoch": 1, "seconds": NaN}', "[" * 10_000,
])  # fmt: skip
def test_a_damaged_line_of_metrics(line: str, folder: Path) -> None:
    whole = read_rows(folder)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(f"{line}\n")
    assert read_rows(folder) == whole  # the last one may be torn
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "epoch": 1, "seconds": 1}\n')
    with pytest.raises(Refused, match=rf"run/metrics\.jsonl, line {len(whole) + 1}, is damaged"):
        read_rows(folder)


def test_a_damaged_line_costs_a_resumed_run_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(Stopped):
            run("run")
    before = Path("run/metrics.jsonl").read_text().splitlines()
    Path("run/metrics.jsonl").write_text("\n".join([before[0], "\0" * 20, *before[2:], ""]))
    run("run")
    assert "metrics.jsonl, line 2, is damaged and left out" in caplog.text
    assert [line["step"] for line in metrics("run")] == [2, 5, 6, 8, 10, 10]


@pytest.mark.parametrize("status", ["[]", '{"status": "running", "pid": "x"}', '{"status": 3}', '{"message": []}'])
def test_a_status_that_is_none(status: str, folder: Path) -> None:
    (folder / "result.json").unlink()
    (folder / "status.json").write_text(status)
    with pytest.raises(Refused, match=r"run/status\.json"):
        find_runs([folder])
    (folder / "status.json").write_text('{"status": "running", "pid": ' + "9" * 30 + "}")
    assert find_runs([folder])[0].status == "broken off"


def savez(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


@pytest.mark.parametrize(("change", "message"), [
    ({"test_logits": np.array([Evil()], dtype=object)}, "allow_pickle"),
    ({"test_logits": np.zeros(3)}, "does not hold logits"),
    ({"test_labels": np.zeros(2, dtype=np.int64)}, ", 2 labels and"),
    ({"val_labels": np.full(143, 10)}, "beyond its 10 classes"),
    ({"val_labels": np.full(143, -1)}, "beyond its 10 classes"),
    ({"val_labels": np.zeros((143, 1), dtype=np.int64)}, "labels"),
    ({"test_indices": None}, "test_indices"),
])  # fmt: skip
def test_predictions_that_are_none(
    change: dict[str, Any], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    arrays = {**read_arrays(folder / "predictions.npz"), **change}
    savez(folder / "predictions.npz", **{name: array for name, array in arrays.items() if array is not None})
    code, printed = call(report.main, ["run"], monkeypatch, capfd)
    refused_in_a_line(code, printed, message)
    assert "run/predictions.npz cannot be read" in printed


def test_predictions_that_are_a_pickle(folder: Path) -> None:
    (folder / "predictions.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Refused, match="predictions"):
        find_runs([folder])[0].predictions()
    assert not Path("stolen").exists()


def flip_stored(path: Path) -> None:
    """Flip a bit of the first array's numbers, which a reader that trusts the sizes in the file never checks."""
    with zipfile.ZipFile(path) as archive:
        info = max(archive.infolist(), key=lambda each: each.file_size)
        position = info.header_offset + 30 + len(info.filename) + info.file_size // 2
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_predictions_is_told(folder: Path) -> None:
    flip_stored(folder / "predictions.npz")
    with pytest.raises(Refused, match=r"run/predictions\.npz cannot be read: .*(checksum|CRC)"):
        find_runs([folder])[0].predictions()


def test_predictions_of_other_images_under_the_same_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run("other", "max_steps=2", "seed=5")
    arrays = read_arrays(Path("other/predictions.npz"))
    savez(Path("other/predictions.npz"), **arrays | {"test_labels": arrays["test_labels"][::-1]})
    code, printed = call(report.main, ["run", "other"], monkeypatch, capfd)
    refused_in_a_line(code, printed, "the labels in their predictions.npz differ")


def test_a_cache_of_other_images_is_made_anew(image_tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"image_size": 8, "num_channels": 3, "fit": "crop", "skip_bad": False}
    first = read_folder(image_tree, cache=Path("cache"), **options)
    (cached,) = Path("cache").iterdir()
    arrays = read_arrays(cached)
    for change in (
        {"images/train": arrays["images/train"][:, :, :4]},
        {"images/train": arrays["images/train"].astype(np.float32)},
        {"images/train": arrays["images/train"][:5], "labels/train": arrays["labels/train"][:5]},
        {"images/train": np.array([Evil()], dtype=object)},
    ):
        savez(cached, **arrays | change)
        caplog.clear()
        again = read_folder(image_tree, cache=Path("cache"), **options)
        assert "is damaged" in caplog.text
        assert np.array_equal(first.images["train"], again.images["train"])
    flip_stored(cached)
    caplog.clear()
    assert np.array_equal(
        first.images["train"], read_folder(image_tree, cache=Path("cache"), **options).images["train"]
    )
    assert "is damaged" in caplog.text
    assert not Path("stolen").exists()


@pytest.mark.parametrize("content", [
    [1, 2], {}, {"model": 3}, {"model": {}, "mean": torch.zeros(3), "std": torch.ones(3), "classes": "ten"},
    {"model": {}, "mean": 0, "std": 1, "classes": []}, Evil(),
], ids=["list", "empty", "number", "text", "plain", "evil"])  # fmt: skip
def test_weights_that_are_none(
    content: Any, folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, folder / "best.pt")
    refused_in_a_line(*call(evaluate.main, ["run"], monkeypatch, capfd), "run/best.pt is ")
    torch.save(content, folder / "last.pt")
    code, printed = command("resume=run")
    assert code == 2
    assert "run/last.pt is " in printed
    assert "Traceback" not in printed
    assert not Path("stolen").exists()


def test_a_foreign_last_checkpoint_gives_way_to_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    run("whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(Stopped):
            run("parts")
    checkpoint.save(Path("parts/last.pt"), {"model": {}})
    run("parts")
    assert_same_run("whole", "parts")
