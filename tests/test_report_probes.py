"""What probes have found about the same runs is a section of their report."""

import os
import shutil
from pathlib import Path

import pytest
from helpers import TINY, call, composed

from vit_cnn import probe
from vit_cnn.report import __main__ as report
from vit_cnn.training.loop import train

WITHOUT_MODEL = [option for option in TINY if not option.startswith("model.")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT and a small CNN; for all tests of this file, which may not change them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, overrides in {"vit": TINY, "cnn": [*WITHOUT_MODEL, "model=cnn"]}.items():
        (folder / name).mkdir()
        train(composed(*overrides), folder / name)
    return folder


def test_report_shows_probes(runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(probe.main, ["agreement", str(runs)], monkeypatch, capfd)[0] == 0
    found = Path("probes/agreement.txt").read_text().splitlines()
    assert found[1:] == [str(runs / "cnn"), str(runs / "vit")]

    code, printed = call(report.main, [str(runs), "--no-inside"], monkeypatch, capfd)
    assert code == 0, printed
    page = Path("report/report.html").read_text()
    assert '<h2 id="probes">' in page
    assert found[0].split(":")[0] in page
    assert Path("report/probe_agreement.png").read_bytes() == Path("probes/agreement.png").read_bytes()


def test_report_says_which_findings_are_older_than_a_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(probe.main, ["agreement", str(runs)], monkeypatch, capfd)[0] == 0
    note = "A run is newer than this finding"
    assert call(report.main, [str(runs), "--no-inside"], monkeypatch, capfd)[0] == 0
    assert note not in Path("report/report.html").read_text()
    os.utime("probes/agreement.txt", (0, 0))
    assert call(report.main, [str(runs), "--no-inside"], monkeypatch, capfd)[0] == 0
    assert note in Path("report/report.html").read_text()


def test_report_leaves_out_what_is_not_about_its_runs(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(probe.main, ["agreement", str(runs)], monkeypatch, capfd)[0] == 0
    for said in ("probes/agreement.txt is about other runs", "probes/agreement.txt and 1 more are about other runs"):
        code, printed = call(report.main, [str(runs / "vit"), "--no-inside"], monkeypatch, capfd)
        assert code == 0, printed
        assert f"{said} and left out." in printed
        shutil.copy("probes/agreement.txt", "probes/shift.txt")
    assert '<h2 id="probes">' not in Path("report/report.html").read_text()


@pytest.mark.parametrize(("damaged", "content"), [("png", b"no picture"), ("txt", b"\xff\xfe\n"), ("txt", b"")])
def test_damaged_findings_cost_no_report(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], damaged: str, content: bytes
) -> None:
    assert call(probe.main, ["agreement", str(runs)], monkeypatch, capfd)[0] == 0
    Path(f"probes/agreement.{damaged}").write_bytes(content)
    code, printed = call(report.main, [str(runs), "--no-inside"], monkeypatch, capfd)
    assert code == 0, printed
    assert "probes/agreement.txt is left out: " in printed
    assert ("the verdict, is empty" in printed) == (content == b"")
    assert '<h2 id="probes">' not in Path("report/report.html").read_text()


def test_no_such_folder(runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, printed = call(report.main, [str(runs), "--probes", "nowhere"], monkeypatch, capfd)
    assert code == 2
    assert "--probes nowhere: there is no such folder" in printed
    assert not Path("report").exists()
