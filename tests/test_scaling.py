"""What several processes gain, and what a network between them costs."""

import csv
from pathlib import Path

import pytest
from helpers import call

from vit_cnn.bench import scaling
from vit_cnn.errors import Failed


def test_expected_speed_ups_follow_from_steps_and_gradient_bytes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """25 million parameters are 100 MB, of which two processes send 100 MB each: 0.8 s at 1 Gbit/s."""

    def trained(overrides: list[str], *, processes: int, **_: object) -> scaling.Row:
        batch = int(overrides[-1].split("=")[1])
        seconds = batch / 100 / processes + (0.2 if processes > 1 else 0)
        recipe = {"recipe": {"batch_size": batch}}
        return {"params": 25_000_000, "images_per_second": batch / seconds, "config": recipe}

    monkeypatch.setattr(scaling, "trained", trained)
    code, printed = call(scaling.main, ["--batch=40", "--out=new/processes.csv"], monkeypatch, capfd)
    assert code == 0, printed
    strong, weak, *_ = csv.DictReader(Path("new/processes.csv").open())
    assert [strong[key] for key in ("scaling", "batch", "ms_of_one", "ms", "speed_up")] == [
        "strong", "40", "400.0", "400.0", "1.0"
    ]  # fmt: skip
    assert [weak[key] for key in ("scaling", "batch", "ms", "speed_up")] == ["weak", "80", "600.0", "1.33"]
    keys = [f"expected_at_{gbit}_gbit" for gbit in (1, 10, 100)]
    assert [float(strong[key]) for key in keys] == [0.4, 1.43, 1.92]  # 0.4 / (0.2 + 0.8), …
    assert [float(weak[key]) for key in keys] == [0.67, 1.67, 1.96]  # 2 · 0.4 / (0.4 + 0.8), …


def test_a_training_that_is_refused_is_told_in_its_line() -> None:
    with pytest.raises(Failed, match=r"^error: model=nope: there is no such option, but there are [\w, ]+$"):
        scaling.trained(["model=nope"], processes=1, threads=1, steps=1)
