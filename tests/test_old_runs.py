"""Run folders of earlier versions can still be read; ``tests/data`` keeps one."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import call
from PIL import Image

from vit_cnn import compare, evaluate, predict
from vit_cnn.report import __main__ as report

OLD = Path(__file__).parent / "data" / "run_of_0.1.0"


def test_a_run_of_an_earlier_version(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(OLD, "old")
    code, printed = call(evaluate.main, ["run=old"], monkeypatch, capfd)
    assert code == 0, printed
    found = re.findall(r"(?:accuracy|loss) +([\d.]+) +([\d.]+)", printed)
    assert len(found) == 2
    for now, then in found:
        assert float(now) == pytest.approx(float(then), abs=1e-5)

    Image.new("RGB", (40, 40), "white").save("photo.png")
    code, printed = call(predict.main, ["old", "photo.png", "--attention", "attention.png"], monkeypatch, capfd)
    assert code == 0, printed
    assert np.asarray(Image.open("attention.png")).std() > 0

    code, printed = call(compare.main, ["old"], monkeypatch, capfd)
    assert code == 0, printed

    code, printed = call(report.main, ["old"], monkeypatch, capfd)
    assert code == 0, printed
    assert Path("report/attention.png").exists()
    assert [row["seeds"] for row in csv.DictReader(open("report/results.csv"))] == ["1"]
