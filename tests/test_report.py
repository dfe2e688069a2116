"""The report: what it refuses, what it says, and the page itself, in a browser where there is one."""

import csv
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY, call, composed, run
from omegaconf import OmegaConf

from vit_cnn.errors import Refused
from vit_cnn.report import __main__ as report
from vit_cnn.report import curves, deck
from vit_cnn.report.build import build
from vit_cnn.report.claims import all_of_training, check_claims, gap
from vit_cnn.report.figures import per_class
from vit_cnn.report.groups import by_label, label_runs
from vit_cnn.run.lock import only_writer
from vit_cnn.run.reading import Run, find_runs
from vit_cnn.training.loop import train

# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a small ViT and one of the CNN, finished; for all tests of this file."""
    folder = tmp_path_factory.mktemp("trained")
    run(str(folder / "vit3"))
    run(str(folder / "vit4"), "seed=4")
    (folder / "cnn").mkdir()
    settings = [option for option in TINY if not option.startswith("model.")]
    train(composed("model=cnn", *settings), folder / "cnn")
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of its own for a test, in ``runs``."""
    shutil.copytree(trained, tmp_path / "runs")
    return Path("runs")


def fake(model: str, seed: int, accuracies: list[float], **result: Any) -> Run:
    config = {"model": {"_target_": f"vit_cnn.models.{model}"}, "seed": seed, "recipe": {"batch_size": 10}}
    rows = [
        {"step": 10 * n, "epoch": n, "seconds": n, "val/acc": value, "train/acc": value}
        for n, value in enumerate(accuracies, start=1)
    ]
    return Run(Path(f"{model}{seed}"), "finished", "", config, result, rows, label=model)


def test_verdicts_can_come_out_either_way() -> None:
    vit = [fake("ViT", 0, [0.2, 0.5, 0.72], **{"train/acc": 1.0, "val/acc": 0.72, "test/acc": 0.7})]
    cnn = [fake("CNN", 0, [0.6, 0.8, 0.88], **{"train/acc": 0.999, "val/acc": 0.88, "test/acc": 0.69})]
    fewer, training, val, test = check_claims(vit, cnn)
    assert [fewer.holds, training.holds, val.holds, test.holds] == [True, True, True, False]
    assert "99.5 %" in training.rule
    assert "every CNN is above every ViT" in test.rule
    assert "70% validation: ViT after 30 steps, CNN after 20" in fewer.found
    assert "here by 16.0 points" in val.found
    fewer, training, val, test = check_claims(cnn, vit)  # the names the wrong way round
    assert [fewer.holds, val.holds, test.holds] == [False, False, True]


def test_a_run_without_a_curve_leaves_the_verdict_open() -> None:
    figures = {"train/acc": 1.0, "val/acc": 0.72, "test/acc": 0.7}
    fewer, _, val, _ = check_claims([fake("ViT", 0, [], **figures)], [fake("CNN", 0, [0.9], **figures)])
    assert (fewer.holds, fewer.found) == (None, "a run has no curve")
    assert val.found.startswith("here by 0.0 points")


def test_seeds_that_overlap_leave_the_verdict_open() -> None:
    vit = [fake("ViT", seed, [acc], **{"test/acc": acc}) for seed, acc in enumerate((0.70, 0.75))]
    cnn = [fake("CNN", seed, [acc], **{"test/acc": acc}) for seed, acc in enumerate((0.74, 0.80))]
    assert gap(vit, cnn, "test").holds is None
    assert gap(vit, cnn[1:], "test").holds is True


def test_all_of_training_is_about_the_clean_images_not_about_a_lucky_window() -> None:
    """A window of one step can be all right by chance."""
    runs = {kind: [fake(kind, 0, [0.7, 1.0, 0.8], **{"train/acc": 0.811})] for kind in ("ViT", "CNN")}
    claim = all_of_training(runs["ViT"], runs["CNN"])
    assert claim.holds is False
    assert "81.10%" in claim.found


def test_a_curve_is_the_mean_over_seeds_on_every_axis() -> None:
    drawn = curves.curve([fake("ViT", 0, [0.2, 0.4]), fake("ViT", 1, [0.4, 0.8, 0.9])], "val/acc", flops=3000)
    assert drawn is not None
    np.testing.assert_allclose(drawn.mean, [0.3, 0.6, 0.9])  # the second run is further on
    # As in the tables, the deviation of a sample: n - 1.
    np.testing.assert_allclose(drawn.high - drawn.mean, [np.std([0.2, 0.4], ddof=1), np.std([0.4, 0.8], ddof=1), 0])
    assert drawn.x["steps"].tolist() == [10, 20, 30]
    assert drawn.x["FLOPs"].tolist() == [30_000, 60_000, 90_000]
    assert curves.curve([fake("ViT", 0, [])], "val/acc", flops=1) is None
    assert len(curves.thin(np.arange(10_000))) <= curves.MOST_POINTS
    assert curves.thin(np.arange(2 * curves.MOST_POINTS - 1))[-1] == 2 * curves.MOST_POINTS - 2.5  # the end is there


def test_labels_tell_settings_apart_but_not_seeds(runs: Path) -> None:
    run("runs/other", "model.dropout=0.1")
    labels = {each.folder.name: each.label for each in label_runs(find_runs([runs]))}
    assert labels == {"vit3": "ViT dropout=0.2", "vit4": "ViT dropout=0.2", "other": "ViT dropout=0.1", "cnn": "CNN"}
    assert len(by_label(label_runs(find_runs([runs])))["ViT dropout=0.2"]) == 2
    change(Path("runs/other"), **{"recipe.optimizer.name": "muon"})
    labels = {each.folder.name: each.label for each in label_runs(find_runs([runs]))}
    assert labels["other"] == "ViT dropout=0.1 optimizer=muon"
    change(Path("runs/other"), **{"recipe.name": "mine"})  # which says all of that, and the rest of the recipe
    labels = {each.folder.name: each.label for each in label_runs(find_runs([runs]))}
    assert labels["other"] == "ViT recipe=mine"
    change(Path("runs/other"), **{"trainer.precision": "bf16"})  # of which no recipe's name tells
    labels = {each.folder.name: each.label for each in label_runs(find_runs([runs]))}
    assert labels["other"] == "ViT recipe=mine precision=bf16"
    recipe = labels["vit3"].removeprefix("ViT ")
    assert recipe.startswith("recipe=") and recipe.endswith(" precision=fp32") and labels["vit4"] == labels["vit3"]


def change(folder: Path, **changes: Any) -> None:
    """Change a run's result, and values of its config by their path."""
    result = json.loads((folder / "result.json").read_text())
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    for key, value in changes.items():
        if key in result:
            result[key] = value
        else:
            OmegaConf.update(config, key, value)
    (folder / "result.json").write_text(json.dumps(result))
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")


@pytest.mark.parametrize("changes", [
    {"device": "another processor, 8 threads"}, {"trainer.channels_last": False}, {"trainer.precision": "bf16"},
    {"continued": [{"step": 4, "schedule": "extended from 4 epochs"}]},
])  # fmt: skip
def test_what_can_change_a_figure_is_in_the_label(runs: Path, changes: dict[str, Any]) -> None:
    change(runs / "vit4", **changes)
    assert len({each.label for each in label_runs(find_runs([runs])) if each.model == "ViT"}) == 2
    probed = label_runs(find_runs([runs]), machines=False)  # which ask what was learned, and not how fast
    assert len({each.label for each in probed if each.model == "ViT"}) == (
        1 if {"device", "trainer.channels_last"} & changes.keys() else 2
    )


def test_an_argument_that_only_some_networks_were_given_tells_them_apart(runs: Path) -> None:
    change(runs / "vit4", **{"model.extra": 0.1})
    labels = {each.folder.name: each.label for each in label_runs(find_runs([runs]))}
    assert (labels["vit3"], labels["vit4"]) == ("ViT", "ViT extra=0.1")


def test_a_class_without_test_images_has_no_accuracy() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colours = {"ViT": "#000000"}
        figure = per_class(["a", "b"], {"ViT": [np.array([True, False])] * 2}, np.array([0, 0]), colours)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths[0] == 0.5
    assert np.isnan(widths[1])


def test_seeds_of_several_machines_can_be_put_together_without_their_times(runs: Path) -> None:
    change(runs / "vit4", device="another processor, 8 threads")
    for any_machine, seeds in ((False, ["1", "1"]), (True, ["2"])):
        build(find_runs([runs]), Path("out"), look_inside=False, any_machine=any_machine)
        rows = [row for row in csv.DictReader(open("out/results.csv")) if row[""].startswith("ViT")]
        assert [row["seeds"] for row in rows] == seeds
    cost = next(row for row in csv.DictReader(open("out/cost.csv")) if row[""] == "ViT")
    assert "another processor, 8 threads" in cost["device"]
    assert (cost["training time"], cost["images/s"]) == ("–", "–")


def test_equal_seeds_of_equal_settings_are_one_observation(runs: Path) -> None:
    for name in ("vit3", "cnn"):
        shutil.copytree(runs / name, runs / f"{name} again")
    change(runs / "vit3 again", **{"trainer.log_every": 7})
    text = build(find_runs([runs]), Path("out"), look_inside=False).read_text()
    rows = {row[""]: row for row in csv.DictReader(open("out/results.csv"))}
    assert (rows["ViT"]["seeds"], rows["CNN"]["seeds"]) == ("2", "1")
    assert "±" not in rows["CNN"]["test"]
    assert len(list(csv.DictReader(open("out/mcnemar.csv")))) == 1
    assert "runs/vit3 again repeats seed 3 of runs/vit3 and is not counted." in text
    assert len(list(csv.DictReader(open("out/runs.csv")))) == 5


def test_the_deck_stands_beside_cifar10_only(runs: Path) -> None:
    build(find_runs([runs]), Path("out"), look_inside=False)
    columns = next(csv.DictReader(open("out/results.csv")))
    assert not [column for column in columns if "deck" in column]
    assert {"seeds", "ECE", "epochs", "train loss"} <= columns.keys()
    cost = next(csv.DictReader(open("out/cost.csv")))
    assert {"PFLOP", "device", "precision", "training time"} <= cost.keys()
    for name in ("vit3", "vit4", "cnn"):
        data = json.loads((runs / name / "result.json").read_text())["data"]
        change(runs / name, data=data | {"name": "CIFAR-10 (lossless)"})
        change(runs / name, **{"data.name": "CIFAR-10 (lossless)"})
    build(find_runs([runs]), Path("out"), look_inside=False)
    rows = {row[""]: row for row in csv.DictReader(open("out/results.csv"))}
    assert rows["ViT"]["deck: test"] == "77%"
    assert rows["CNN"]["deck: test loss"] == "0.86"
    assert {row["observation"] for row in csv.DictReader(open("out/observations.csv"))}
    assert "images were others" not in Path("out/report.html").read_text()


# The page


@pytest.mark.usefixtures("static_curves")
def test_the_report(runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    page = build(find_runs([runs]), Path("out"))
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text.split("</script>")[-1]), "not self-contained"
    for name in ("curves_epochs", "curves_flops", "per_class", "confusion", "reliability", "samples", "patches",
                 "attention", "attention_distance", "positions", "filters_vit", "filters_cnn"):  # fmt: skip
        assert (Path("out") / f"{name}.png").stat().st_size > 300, name
    for name in ("results", "runs", "mcnemar", "observations", "calibration", "sizes_vit", "sizes_cnn"):
        rows_of_csv = len((Path("out") / f"{name}.csv").read_text().splitlines())
        assert len((Path("out") / f"{name}.md").read_text().splitlines()) == rows_of_csv + 1  # the line below the head
    drawn = Path("out/curves_flops.png").read_bytes()
    Path("again").mkdir()
    Path("out/curves.csv").rename("again/curves.csv")
    code, printed = call(curves.main, ["again/curves.csv"], monkeypatch, capfd)
    assert code == 0, printed
    assert abs(len(Path("again/curves_flops.png").read_bytes()) - len(drawn)) < 0.1 * len(drawn)
    Path("again/curves.csv").write_text("nothing\n1\n")
    assert call(curves.main, ["again/curves.csv"], monkeypatch, capfd)[0] == 2
    rows = {row[""]: row for row in csv.DictReader(open("out/results.csv"))}
    accuracies = [json.loads((runs / name / "result.json").read_text())["test/acc"] for name in ("vit3", "vit4")]
    expected = f"{np.mean(accuracies):.2%} ± {np.std(accuracies, ddof=1):.2%}".rstrip("%")
    assert rows["ViT"]["test"] == expected
    assert (rows["ViT"]["seeds"], rows["CNN"]["seeds"]) == ("2", "1")
    assert html.escape("Digits") in text
    labels = np.load(runs / "vit3" / "predictions.npz")["test_labels"].tolist()
    assert f"each time gets {max(map(labels.count, labels)) / len(labels):.1%} (test)" in text
    assert "images were others: CIFAR-10." in text


def test_three_networks_are_compared_pair_by_pair(runs: Path) -> None:
    (runs / "another").mkdir()
    settings = [option for option in TINY if not option.startswith("model.")]
    train(composed("model=torchvision", "model.name=resnet18", *settings), runs / "another")
    text = build(find_runs([runs]), Path("out")).read_text()
    labels = ["ViT", "CNN", "resnet18"]
    assert [row[""] for row in csv.DictReader(open("out/results.csv"))] == labels
    for a, b in itertools.combinations(labels, 2):
        with open(f"out/mcnemar_{a.lower()}_{b.lower()}.csv") as file:
            assert f"only {b} right" in next(csv.reader(file))
        assert f"{a} is right, {b} is not" in text or f"{b} is right, {a} is not" in text


def test_running_failed_and_broken_off_runs_are_listed(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, status in {"a": "running", "b": "failed", "c": "stopped"}.items():
        shutil.copytree(runs / "vit3", runs / name)
        (runs / name / "result.json").unlink()
        said = {"status": status, "message": f"message {name}", "pid": 2**22 + 1}  # above any process
        (runs / name / "status.json").write_text(json.dumps(said))
    shutil.copytree(runs / "a", runs / "d")
    (runs / "d" / ".hydra" / "lock").write_text("process 9 on another machine")
    for name in "ef":  # a process has the number, but that of the first may be another by now
        shutil.copytree(runs / "a", runs / name)
        (runs / name / "status.json").write_text(json.dumps({"status": "running", "pid": os.getpid()}))
    with open(runs / "a" / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "tor')
    config = runs / "c" / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("num_heads: 2", "num_heads: 3"))
    (runs / "e" / ".hydra" / "lock").touch()
    with only_writer(runs / "f"):
        build(find_runs([runs]), Path("out"), look_inside=False)
    assert "ViT num_heads=3 is left out of the curves: " in caplog.text
    listed = {row["folder"]: row for row in csv.DictReader(open("out/runs.csv"))}
    assert [listed[f"runs/{name}"]["status"] for name in "abcd"] == ["broken off", "failed", "stopped", "running"]
    assert [listed[f"runs/{name}"]["status"] for name in "ef"] == ["broken off", "running"]
    assert listed["runs/b"]["message"] == "message b"
    best = json.loads((runs / "vit3" / "result.json").read_text())["val/acc"]
    assert listed["runs/b"]["best validation"].startswith(f"{best:.2%}, epoch ")
    assert (listed["runs/b"]["epochs"], listed["runs/b"]["planned"]) == ("2", "2")


def test_whatever_comes_from_a_file_is_escaped(image_tree: Path) -> None:
    (image_tree / "train" / "grün").rename(image_tree / "train" / "<script>alert(1)")
    (image_tree / "test" / "grün").rename(image_tree / "test" / "<script>alert(1)")
    (image_tree / "train" / "blue sky").rename(image_tree / "train" / "$no \\formula$")
    (image_tree / "test" / "blue sky").rename(image_tree / "test" / "$no \\formula$")
    image_tree.rename("<script>alert(2)")
    folder = Path("<script>alert(3)")
    folder.mkdir()
    root = f"data.root='{Path('<script>alert(2)').absolute()}'"
    train(composed(*TINY, "data=folder", root, "recipe.batch_size=18"), folder)
    shutil.copytree(folder, "failed")
    (Path("failed") / "result.json").unlink()
    said = {"status": "failed", "message": "<script>alert(4)</script>"}
    (Path("failed") / "status.json").write_text(json.dumps(said))
    text = build(find_runs([folder, Path("failed")]), Path("out")).read_text()
    assert "<script>alert" not in text
    for number in range(1, 5):
        assert f"&lt;script&gt;alert({number})" in text, number


def test_a_report_of_other_runs_is_not_overwritten(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def report_of(*arguments: str) -> tuple[int, str]:
        return call(report.main, [*arguments, "--no-inside", "--out", "out"], monkeypatch, capfd)

    assert report_of("runs/vit3") == (0, "Report: out/report.html\n")
    code, printed = report_of("runs/vit3", "runs/cnn")  # the same and more
    assert (code, "This replaces the report of 2" in printed) == (0, True)
    before = Path("out/report.html").read_bytes()
    code, printed = report_of("runs/vit4")
    assert code == 2
    assert "is about other runs (runs/vit3): choose another folder with --out, or add --replace" in printed
    assert Path("out/report.html").read_bytes() == before
    assert report_of("runs/vit4", "--replace") == (0, "Report: out/report.html\n")


def test_runs_that_have_only_begun_make_a_report() -> None:
    run("run", "max_steps=2")
    for name in ("result.json", "best.pt", "predictions.npz"):
        (Path("run") / name).unlink()
    Path("run/metrics.jsonl").write_text("")
    text = build(find_runs([Path("run")]), Path("out")).read_text()
    assert "On Digits, no run has finished yet" in text
    assert not re.search(r"<tbody>\s*</tbody>", text), "an empty table"
    assert not Path("out/results.csv").exists()


def test_without_the_images_the_look_inside_is_left_out(image_tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("run").mkdir()
    train(composed(*TINY, "data=folder", f"data.root={image_tree}", "recipe.batch_size=18"), Path("run"))
    image_tree.rename("elsewhere")
    text = build(find_runs([Path("run")]), Path("out")).read_text()
    assert "Left out: the images are not here" in text
    assert "; where they are FOLDER/images, VIT_CNN_DATA=FOLDER finds them" in caplog.text


def test_a_sweep_gets_heat_maps() -> None:
    for patch in (8, 16):
        for dropout in (0, 0.1):
            run(f"p{patch}d{dropout}", f"model.patch_size={patch}", f"model.dropout={dropout}", "max_steps=2")
    build(find_runs(list(Path().glob("p*d*"))), Path("out"), look_inside=False)
    assert (Path("out") / "sweep.png").stat().st_size > 5000
    run("third", "model.patch_size=8", "model.dropout=0", "recipe.optimizer.lr=1e-4", "max_steps=2")
    text = build(find_runs([*Path().glob("p*d*"), Path("third")]), Path("three"), look_inside=False).read_text()
    assert "these runs differ in model.patch_size, model.dropout, recipe.optimizer.lr" in text
    assert not (Path("three") / "sweep.png").exists()


def test_refusals(runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(arguments: list[str], message: str) -> None:
        code, printed = call(report.main, [*arguments, "--out", "out"], monkeypatch, capfd)
        assert code == 2, printed
        assert message in printed
        assert "Traceback" not in printed
        assert not Path("out").exists()

    refused(["nowhere"], "nowhere holds no run")
    shutil.copytree(runs, "damaged")
    lines = Path("damaged/cnn/metrics.jsonl").read_text().splitlines()
    Path("damaged/cnn/metrics.jsonl").write_text("\n".join([lines[0], "{broken", *lines[1:]]))
    refused(["damaged"], "damaged/cnn/metrics.jsonl, line 2, is damaged: '{broken'")
    Path("damaged/cnn/metrics.jsonl").write_text("\n".join(lines))
    Path("damaged/cnn/predictions.npz").unlink()
    refused(["damaged"], "damaged/cnn/predictions.npz cannot be read")
    run("other", "data.val_fraction=0.2")
    refused(["runs", "other"], "cannot compare runs/cnn with other: data.val_fraction is 0.1 and 0.2")
    shutil.copytree(runs / "cnn", "changed")
    result = json.loads(Path("changed/result.json").read_text())
    result["data"]["fingerprint"] = "0" * 16
    Path("changed/result.json").write_text(json.dumps(result))
    refused(["runs", "changed"], "their images or splits differ")
    with pytest.raises(Refused, match="no runs"):
        find_runs([])


# Clicks on each axis button, then says in the title where the first curve begins, and which errors came up.
PROBE = """<script>
const errors = []; window.onerror = (message) => errors.push(message);
window.addEventListener("load", () => setTimeout(() => {
  const plot = document.querySelector(".js-plotly-plot"), seen = [];
  for (const button of plot.querySelectorAll(".updatemenu-button")) {
    button.dispatchEvent(new MouseEvent("click")); seen.push(plot.data[0].x[0]);
  }
  const broken = [...document.images].filter((image) => !image.naturalWidth).length;
  const overhang = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.title = JSON.stringify({seen, broken, images: document.images.length, errors, overhang});
}, 500));
</script>"""


def test_in_a_browser(runs: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here to open the report in")
    page = build(find_runs([runs]), Path("out"))
    page.write_text(page.read_text().replace("<head>", f"<head>{PROBE}", 1))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    options += [
        f"--user-data-dir={Path('profile').absolute()}",
        "--virtual-time-budget=5000",
        "--window-size=500,900",  # as narrow as it gets
        "--enable-logging=stderr",
    ]
    done = subprocess.run([browser, *options, "--dump-dom", page.absolute().as_uri()], capture_output=True, text=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found, done.stdout[:500]
    told = json.loads(html.unescape(found[1]))
    assert told["errors"] == []
    assert told["overhang"] == 0  # tables scroll, the page does not
    assert told["broken"] == 0
    assert told["images"] >= 12
    assert len(set(told["seen"])) == len(curves.AXES), told  # each button shows another axis


def test_the_first_figure_of_the_readme(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Drawn from the points that are kept in the lab book."""
    kept = Path(__file__).parent.parent / "experiments" / "close_the_gap" / "recipes_curves.csv"
    Path("curves.csv").write_text(kept.read_text())
    code, printed = call(deck.main, ["curves.csv"], monkeypatch, capfd)
    assert code == 0, printed
    assert Path("accuracy.png").stat().st_size > 10_000
    texts = [text.get_text() for text in deck.accuracy(curves.read_csv(kept)["val/acc"]).axes[0].texts]
    assert {"ours: CNN deck, 180 epochs, n = 3", "ours: ViT strong, 200 epochs, n = 3"} <= set(texts)
    assert "the deck's ViT,\n77% test" in texts
    other = {"Hybrid": curves.read_csv(kept)["val/acc"]["ViT deck"]}  # of which the deck knows nothing
    assert any("Hybrid" in text.get_text() for text in deck.accuracy(other).axes[0].texts)
    code, printed = call(deck.main, ["nothing.csv"], monkeypatch, capfd)
    assert (code, "nothing.csv cannot be read as curves" in printed) == (2, True)
