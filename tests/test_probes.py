"""The probes: what each leaves behind for tiny runs, and what it refuses."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, call, composed
from PIL import Image

from vit_cnn import probe
from vit_cnn.errors import Refused
from vit_cnn.models.permuted import KINDS
from vit_cnn.probes import agreement, conditions, patches
from vit_cnn.probes.conditions import SEVERITIES
from vit_cnn.probes.corruptions import FAMILIES
from vit_cnn.probes.hardest import hardest, mistake
from vit_cnn.probes.intervals import Interval, interval
from vit_cnn.probes.permutation import verdict_of
from vit_cnn.run.looks import count_looks
from vit_cnn.training.loop import train

Probe = Callable[..., tuple[int, str]]

WITHOUT_MODEL = [option for option in TINY if not option.startswith("model.")]
SMALL_VIT = [option for option in TINY if option.startswith("model.")]


def run(folder: Path, *overrides: str) -> None:
    folder.mkdir(parents=True)
    train(composed(*WITHOUT_MODEL, "data.image_size=16", "recipe.augment.flip=false", *overrides), folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a small ViT and one of the CNN; for all tests of this file, which may not change them."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "vit3", *SMALL_VIT)
    run(folder / "vit4", *SMALL_VIT, "seed=4")
    run(folder / "cnn3", "model=cnn")
    return folder


@pytest.fixture
def probing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Probe:
    def probing(name: str, *arguments: Any) -> tuple[int, str]:
        return call(probe.main, [name, *map(str, arguments)], monkeypatch, capfd)

    return probing


def table(name: str) -> list[dict[str, str]]:
    with open(f"probes/{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def check_files(name: str, printed: str) -> str:
    """The figure is a picture, and the sentence is the one that was printed, with the images; returns it."""
    assert Image.open(f"probes/{name}.png").width > 400
    said, *_ = Path(f"probes/{name}.txt").read_text().splitlines()
    assert "".join(said.split()) in "".join(printed.split())
    assert "nan" not in said
    assert re.search(rf"\. Seen: {int(table(name)[0]['images']):,} (validation|test) images\.$", said), said
    return said


# Probes of any runs


def test_agreement(runs: Path, probing: Probe) -> None:
    code, printed = probing("agreement", runs)
    assert code == 0, printed
    said = check_files("agreement", printed)
    assert said.startswith("Mistakes in common beyond what accuracy alone gives: two networks κ = ")
    assert "two seeds of one setting κ = " in said
    rows = table("agreement")
    assert [row["pair"] for row in rows].count("two networks") == 2
    for row in rows:
        assert float(row["kappa_low"]) <= float(row["kappa"]) <= float(row["kappa_high"])
        assert float(row["kappa"]) <= float(row["kappa_at_most"]) + 1e-9
    assert "their accuracies alone allow κ up to " in said


def test_other_recipes_are_told(runs: Path, probing: Probe) -> None:
    run(Path("smooth"), "model=cnn", "recipe.label_smoothing=0.1", "max_steps=1")
    code, printed = probing("agreement", runs / "vit3", "smooth")
    assert code == 0, printed
    said = check_files("agreement", printed)
    assert f"Mind: smooth was trained otherwise than {runs / 'vit3'}: recipe.label_smoothing is 0.1 and 0.0." in said


def test_the_hardest_images_come_from_all_over_the_list() -> None:
    wrong = np.array([3] * 2 + [1] * 5 + [2] * 30 + [3])
    assert list(hardest(wrong, 3)) == [0, 1, 37]
    assert list(hardest(wrong, 6)) == [0, 1, 37, 7, 21, 36]  # and three of the thirty that are equally hard
    assert sorted(hardest(wrong, 50)) == list(range(38))


def test_a_hard_image_is_taken_for_what_those_say_that_are_wrong() -> None:
    assert mistake(np.array([1, 1, 1, 5, 4, 5]), np.array([False, False, False, True, True, True])) == 5
    assert list(hardest(np.array([0, 1, 0, 2]), 3)) == [3, 1]  # nobody is wrong about the others


def test_few_mistakes_have_an_interval_all_the_same() -> None:
    a, b = np.ones(100), np.ones(100)
    a[:2], b[1:3] = 0, 0
    found = interval(agreement.kappa, [np.stack([a, b, a == b])])
    assert -1 <= found.low < found.value < found.high <= 1
    assert np.isnan(interval(agreement.kappa, [np.ones((3, 100))]).low)


def test_a_seed_that_was_run_twice_counts_once(runs: Path, probing: Probe) -> None:
    shutil.copytree(runs / "vit3", "again")
    code, printed = probing("agreement", runs, "again")
    assert code == 0
    assert "again repeats seed 3 of " in printed or f"{runs / 'vit3'} repeats seed 3 of again" in printed
    assert len(table("agreement")) == 3


def test_agreement_needs_no_images(runs: Path, probing: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise OSError

    monkeypatch.setattr("sklearn.datasets.load_digits", gone)
    code, printed = probing("agreement", runs)
    assert code == 0, printed


def test_shift(runs: Path, probing: Probe) -> None:
    code, printed = probing("shift", runs, "--images", 40)
    assert code == 0, printed
    said = check_files("shift", printed)
    assert "ViT keeps" in said
    assert said.count("between whole periods") + said.count("no clear dip") == 2
    rows = table("shift")
    assert [row["offset_pixels"] for row in rows] == 2 * [str(offset) for offset in range(9)]
    assert {row["unchanged"] for row in rows if row["offset_pixels"] == "0"} == {"1.0"}


def test_patches(runs: Path, probing: Probe) -> None:
    code, printed = probing("patches", runs, "--images", 40)
    assert code == 0, printed
    said = check_files("patches", printed)
    assert said.count("suffers more") + said.count("no clear difference") == 3
    rows = table("patches")
    assert len(rows) == 2 * 3 * 3
    assert {row["change"] for row in rows} == {"shuffled", "dropped", "occluded"}


def test_no_point_of_the_patches_lies_outside_its_panel() -> None:
    low, high = Interval(0.3, 0.2, 0.4), Interval(0.98, 0.97, 1.0)
    figure = patches.draw({"shuffled": {"ViT": [low, low]}, "occluded": {"ViT": [high, high]}}, [2, 4])
    assert all(axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 1 for axes in figure.axes)


def test_images_that_one_size_of_square_divides_have_one_sentence_for_it() -> None:
    conditions = [("shuffled", 2), ("dropped", 2)]
    samples = {name: [np.ones((3, 8))] for name in ("ViT", "CNN")}
    said = patches.verdict_of(samples, ("ViT", "CNN"), conditions, [2])
    assert said.count("with squares of 2 px shuffled") == said.count("with squares of 2 px dropped") == 1


def test_corruption(runs: Path, probing: Probe) -> None:
    code, printed = probing("corruption", runs / "vit3", runs / "cnn3", "--images", 20)
    assert code == 0, printed
    said = check_files("corruption", printed)
    assert said.endswith("Images: made here. Seen: 20 validation images.")
    assert all(f"{family} ViT" in said for family in FAMILIES)
    assert len(table("corruption")) == 2 * SEVERITIES * 12


def test_a_benchmark_without_labels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_CNN_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "CIFAR-10-C").mkdir(parents=True)
    (tmp_path / "data" / "CIFAR-10-C" / "fog.npy").write_bytes(b"damaged")
    with pytest.raises(Refused, match=r"CIFAR-10-C/labels\.npy cannot be read: .*No such file"):
        conditions.cifar10_c(10)
    np.save(tmp_path / "data" / "CIFAR-10-C" / "labels.npy", np.zeros(50))
    with pytest.raises(Refused, match=r"CIFAR-10-C/fog\.npy cannot be read"):
        conditions.cifar10_c(10)[0].make()


def test_inside(runs: Path, probing: Probe) -> None:
    code, printed = probing("inside", runs, "--images", 60)
    assert code == 0, printed
    said = check_files("inside", printed)
    assert " of 2 heads of the first block are local" in said
    rows = table("inside")
    same = [row for row in rows if row["quantity"] == "CKA" and row["first"] == row["second"]]
    assert len(same) == 2 + 9  # the ViT's blocks, the CNN's convolutions and linear layers
    assert all(float(row["value"]) == pytest.approx(1) for row in same)
    heads = [row for row in rows if row["second"].startswith("head")]
    assert len(heads) == 4
    assert all(0 < float(row["value"]) < 32 for row in heads)

    run(Path("longer"), *SMALL_VIT, "recipe.epochs=3")
    code, printed = probing("inside", runs, "longer", "--images", 60)
    assert code == 0, printed
    blocks = {row["first"] for row in table("inside") if row["second"].startswith("head")}
    assert len(blocks) == 4  # two of each setting of the ViT
    assert "; ViT " in check_files("inside", printed)


# What is refused, in a line


def test_bad_input_is_refused_in_a_line(runs: Path, probing: Probe, tmp_path: Path) -> None:
    run(tmp_path / "other_size", "model=cnn", "data.image_size=32")
    run(tmp_path / "small", "model=cnn", "data.image_size=8")
    shutil.copytree(runs / "cnn3", tmp_path / "unfinished")
    Path("unfinished/result.json").unlink()
    vit, cnn = runs / "vit3", runs / "cnn3"
    for arguments, expected in (
        (["shft", vit], "shft is not a probe; there are agreement, shift, patches"),
        (["shift", tmp_path / "nothing"], "holds no run"),
        (["shift", vit, "--split", "train"], "--split train must be val or test"),
        (["shift", vit, "--images", "1"], "--images 1 must be at least 2"),
        (["shift", "unfinished"], "unfinished cannot be probed: it has no result.json"),
        (["shift", vit, "other_size"], "data.image_size is 16 and 32"),
        (["shift", "small"], "small: its images are 8 pixels wide"),
        (["agreement", cnn], "cnn3: agreement compares two runs or more"),
        (["patches", runs / "vit3", runs / "vit4"], "but all runs are of the ViT"),
        (["corruption", cnn], "cnn3: this probe compares two networks, but all runs are of the CNN"),
        (["inside", cnn], "cnn3: a CNN has no attention to look at"),
        (["inside", vit], "vit3: this probe compares two networks, but all runs are of the ViT"),
        (["inside", vit, cnn, "--images", 10], "inside needs 20 images or more, not 10"),
        (["permutation", vit, cnn], "none is of the ViT with permute=patches"),
        (["scaling", vit, cnn], "scaling needs runs with two numbers of training images or more"),
        (["hybrid", vit, cnn], "none is of the Hybrid; experiment=hybrid trains it"),
    ):
        code, printed = probing(*arguments)
        assert code == 2, (arguments, printed)
        assert expected in printed, (arguments, printed)
        assert len(printed.strip().splitlines()) == 1, printed
    assert not Path("probes").exists()


def test_images_that_are_not_here_are_refused(runs: Path, probing: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise OSError("no such file")

    monkeypatch.setattr("sklearn.datasets.load_digits", gone)
    code, printed = probing("shift", runs)
    assert code == 2
    assert "its images are not here" in printed
    assert "no such file" in printed


def test_a_look_at_the_test_images_is_counted(runs: Path, probing: Probe) -> None:
    shutil.copytree(runs / "vit3", "vit")
    shutil.copytree(runs / "cnn3", "cnn")
    before = count_looks(Path("vit"))
    assert probing("patches", "vit", "--split", "test")[0] == 2  # it needs two networks, and has looked at nothing
    assert before is not None
    assert probing("shift", "vit", "cnn", "--images", 10)[0] == 0
    assert count_looks(Path("vit")) == before
    code, printed = probing("shift", "vit", "cnn", "--images", 10, "--split", "test")
    assert code == 0
    assert check_files("shift", printed).endswith("Seen: 10 test images.")
    assert count_looks(Path("vit")) == before + 1


# Data at fixed steps


def test_a_share_of_the_training_images_is_part_of_a_larger_one() -> None:
    from hydra.utils import instantiate

    def load(share: float) -> Any:
        return instantiate(composed("data=digits", f"data.train_share={share}", "trainer=cpu").data)

    tenth, half, whole = load(0.1), load(0.5), load(1)
    sets = [set(data.train.indices.tolist()) for data in (tenth, half, whole)]
    assert sets[0] < sets[1] < sets[2]
    assert [len(data.train) for data in (tenth, half)] == [len(whole.train)] * 2
    assert tenth.describe()["train"] == len(sets[0]) == pytest.approx(0.1 * len(whole.train), abs=5)
    assert tenth.test.indices.equal(whole.test.indices)
    assert tenth.val.indices.equal(whole.val.indices)
    assert len({data.fingerprint for data in (tenth, half, whole)}) == 3
    counts = torch.bincount(tenth.train.labels)
    assert counts.max() < 1.5 * counts.min()


def test_a_share_without_images_of_a_class_is_refused(command: Callable[..., tuple[int, str]]) -> None:
    code, printed = command(*WITHOUT_MODEL, "model=cnn", "data.train_share=0.001")
    assert code == 2
    assert "data.train_share=0.001" in printed
    code, printed = command(*WITHOUT_MODEL, "model=cnn", "data.train_share=0")
    assert (code, "data.train_share=0.0 must be above 0 and at most 1" in printed) == (2, True)


# Probes of runs that were trained for them


def test_permutation(probing: Probe) -> None:
    for network in ("vit", "cnn"):
        small = ["model.patch_size=8"]  # of both
        if network == "vit":
            small = [each.replace("model.", "model.network.") for each in SMALL_VIT]
        for kind in KINDS:
            run(
                Path("runs") / network / kind,
                f"model=permuted_{network}",
                *small,
                f"model.permute={kind}",
                "max_steps=1",
            )
    code, printed = probing("permutation", "runs")
    assert code == 0, printed
    said = check_files("permutation", printed)
    assert said.startswith("Permuting patches changes the ViT's accuracy by ")
    assert said.endswith("Seeds: 1. Seen: 143 validation images.")
    rows = table("permutation")
    assert len(rows) == 8
    assert {row["change"] for row in rows if row["permuted"] == "nothing"} == {"0.0"}
    run(
        Path("runs/other"),
        "model=permuted_cnn",
        "model.patch_size=8",
        "model.permute=patches",
        "model.permutation_seed=1",
        "max_steps=1",
    )
    code, printed = probing("permutation", "runs")
    assert (code, "model.permutation_seed is " in printed) == (2, True)


def test_scaling(probing: Probe) -> None:
    for share in (0.2, 0.5, 1):
        run(Path(f"runs/vit{share}"), *SMALL_VIT, f"data.train_share={share}")
        run(Path(f"runs/cnn{share}"), "model=cnn", f"data.train_share={share}")
    run(Path("runs/hybrid"), "model=hybrid", *[each.replace("model.", "model.network.") for each in SMALL_VIT])
    code, printed = probing("scaling", "runs")
    assert code == 0, printed
    assert "Left out, since this is about ViT and CNN: runs/hybrid" in printed
    said = check_files("scaling", printed)
    assert said.startswith("Exponents of the error: ViT ")
    assert "cross" in said
    rows = table("scaling")
    assert len(rows) == 6
    assert len({row["training_images"] for row in rows}) == 3
    run(Path("runs/longer"), *SMALL_VIT, "max_steps=3")
    code, printed = probing("scaling", "runs")
    assert (code, "steps is 3 and 10" in printed) == (2, True)


def test_hybrid(runs: Path, probing: Probe) -> None:
    small = [each.replace("model.", "model.network.") for each in SMALL_VIT]
    run(Path("hybrid"), "model=hybrid", *small)
    code, printed = probing("hybrid", runs, "hybrid")
    assert code == 0, printed
    said = check_files("hybrid", printed)
    assert "the hybrid is " in said
    assert [row["network"] for row in table("hybrid")] == ["ViT", "Hybrid", "CNN"]
    before = table("hybrid")
    shutil.copytree("hybrid", "twice")
    code, printed = probing("hybrid", runs, "hybrid", "twice")
    assert (code, "twice repeats seed 3 of hybrid and is not counted." in printed, table("hybrid")) == (0, True, before)
    code, printed = probing("inside", runs / "vit3", "hybrid", "--images", 40)
    assert code == 0, printed
    run(Path("begun"), "model=hybrid", *small, "init=hybrid")
    code, printed = probing("hybrid", runs, "begun")
    assert (code, "init is " in printed) == (2, True)
    run(Path("otherwise"), "model=hybrid", *small, "recipe.label_smoothing=0.1")
    code, printed = probing("hybrid", runs, "otherwise")
    assert (code, "recipe.label_smoothing is 0.1 and 0.0" in printed) == (2, True)


def test_the_theorem_is_judged_over_seeds() -> None:
    change = {("ViT", "patches"): Interval(-0.05, -0.06, -0.04), ("CNN", "patches"): Interval(-0.2, -0.25, -0.15)}
    for seeds, said in ((2, "too few seeds to tell"), (3, "a contradiction")):
        samples = {each: [np.ones((1, 4))] * seeds for each in change}
        text = verdict_of(change, samples)
        assert f"({said})" in text
        assert text.endswith(f"Seeds: {seeds}.")
        samples["ViT", "within"] = samples["CNN", "patches"][:1]  # fewer of another kind take nothing from it
        text = verdict_of(change | {("ViT", "within"): Interval(-0.1, -0.2, -0.01)}, samples)
        assert f"({said})" in text
        assert "each patch within itself: ViT -10.0 points [-20.0, -1.0], seeds: 1. Seeds" in text
    for cnn, said in (
        (Interval(-0.2, -0.25, -0.15), "as predicted"),
        (Interval(-0.02, -0.03, -0.01), "against the prediction"),
        (Interval(-0.1, -0.2, -0.01), "unclear"),
    ):
        assert f"{cnn.points()} ({said})" in verdict_of(change | {("CNN", "patches"): cnn}, samples)
