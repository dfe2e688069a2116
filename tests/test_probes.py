"""The probes: what each leaves behind for tiny runs, what it refuses, and the mathematics behind it."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, call, composed, metrics, weights
from PIL import Image

from vit_cnn import probe
from vit_cnn.models.hybrid import Hybrid
from vit_cnn.models.permuted import KINDS, Permuted, permutation
from vit_cnn.models.size import count
from vit_cnn.probes import agreement, patches, shift
from vit_cnn.probes.cka import cka
from vit_cnn.probes.conditions import SEVERITIES, corrupted
from vit_cnn.probes.corruptions import FAMILIES
from vit_cnn.probes.hardest import hardest
from vit_cnn.probes.intervals import Interval, difference, interval, only
from vit_cnn.probes.permutation import verdict_of
from vit_cnn.run.looks import count_looks
from vit_cnn.training.loop import train

Probe = Callable[..., tuple[int, str]]

WITHOUT_MODEL = [option for option in TINY if not option.startswith("model.")]
SMALL_VIT = [option for option in TINY if option.startswith("model.")]


def run(folder: Path, *overrides: str) -> None:
    folder.mkdir(parents=True)
    train(composed(*WITHOUT_MODEL, "recipe.augment.flip=false", *overrides), folder)


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
    """The figure is a picture, and the sentence is the one that was printed; returns it."""
    assert Image.open(f"probes/{name}.png").width > 400
    said = Path(f"probes/{name}.txt").read_text().strip()
    assert "".join(said.split()) in "".join(printed.split())
    assert "nan" not in said
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


def test_the_hardest_images_come_from_all_over_the_list() -> None:
    wrong = np.array([3] * 2 + [1] * 5 + [2] * 30 + [3])
    assert list(hardest(wrong, 3)) == [0, 1, 37]
    assert list(hardest(wrong, 6)) == [0, 1, 37, 7, 21, 36]  # and three of the thirty that are equally hard
    assert sorted(hardest(wrong, 50)) == list(range(38))
    assert list(hardest(np.array([0, 1, 0, 2]), 3)) == [3, 1]  # nobody is wrong about the others


def test_few_mistakes_have_an_interval_all_the_same() -> None:
    a, b = np.ones(100), np.ones(100)
    a[:2], b[1:3] = 0, 0
    found = interval(agreement.kappa, [np.stack([a, b, a == b])])
    assert -1 <= found.low < found.value < found.high <= 1
    assert np.isnan(interval(agreement.kappa, [np.ones((3, 100))]).low)


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
    assert len(rows) == 2 * 3 * 4
    assert {row["change"] for row in rows} == {"shuffled", "dropped", "occluded"}


def test_no_point_of_the_patches_lies_outside_its_panel() -> None:
    low, high = Interval(0.3, 0.2, 0.4), Interval(0.98, 0.97, 1.0)
    figure = patches.draw({"shuffled": {"ViT": [low, low]}, "occluded": {"ViT": [high, high]}}, [2, 4])
    assert all(axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 1 for axes in figure.axes)


def test_corruption(runs: Path, probing: Probe) -> None:
    code, printed = probing("corruption", runs / "vit3", runs / "cnn3", "--images", 20)
    assert code == 0, printed
    said = check_files("corruption", printed)
    assert said.endswith("Images: made here.")
    assert all(f"{family} ViT" in said for family in FAMILIES)
    assert len(table("corruption")) == 2 * SEVERITIES * 12


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


# What is refused, in a line


def test_bad_input_is_refused_in_a_line(runs: Path, probing: Probe, tmp_path: Path) -> None:
    run(tmp_path / "other_size", "model=cnn", "data.image_size=16")
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
        (["shift", vit, "other_size"], "data.image_size is 32 and 16"),
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
    assert before is not None
    assert probing("shift", "vit", "cnn", "--images", 10)[0] == 0
    assert count_looks(Path("vit")) == before
    assert probing("shift", "vit", "cnn", "--images", 10, "--split", "test")[0] == 0
    assert count_looks(Path("vit")) == before + 1


# The mathematics


def test_kappa() -> None:
    right = np.random.default_rng(0).random((2, 200_000)) < [[0.8], [0.6]]

    def kappa(a: Any, b: Any) -> float:
        return float(agreement.kappa(np.stack([a, b, a == b]).mean(axis=1)))

    assert kappa(right[0], right[0]) == pytest.approx(1)
    assert kappa(right[0], right[1]) == pytest.approx(0, abs=0.01)  # drawn independently
    assert kappa(right[0], ~right[0]) < 0
    both = np.arange(100) < np.array([[89], [77]])  # every mistake of the first is one of the second
    assert kappa(*both) == pytest.approx(0.585, abs=0.001)
    everything = np.ones(10, dtype=bool)
    assert np.isnan(kappa(everything, everything))


def test_intervals() -> None:
    random = np.random.default_rng(0)
    right = (random.random((1, 2000)) < 0.7).astype(float)
    found = interval(only(0), [right])
    assert found.value == right.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.7 * 0.3 / 2000) ** 0.5, rel=0.15)
    none = difference(only(0), [right], [right])
    assert (none.value, none.low, none.high) == (0, 0, 0)  # the same images, drawn alike
    seeds = [np.full((1, 4), value) for value in (0.5, 0.6, 0.7)]
    over_seeds = interval(only(0), seeds)
    assert over_seeds.value == pytest.approx(0.6)
    assert over_seeds.high - over_seeds.value == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)  # Student's t, 2 degrees
    assert difference(only(0), seeds, [each + 0.5 for each in seeds]).choose("", "below", "") == "below"


def test_shifts_are_shifts() -> None:
    images = torch.arange(2 * 3 * 12 * 12).view(2, 3, 12, 12)
    assert shift.shifted(images, down=0, right=0).equal(images)
    moved = shift.shifted(images, down=3, right=-2)
    assert moved[..., 3:, :-2].equal(images[..., :-3, 2:])
    assert moved[..., 2, :-2].equal(images[..., 1, 2:])  # the border is mirrored at the first row, which moved to 3
    assert len(list(shift.all_shifted(images))) == 1 + 8 * 4


def test_squares_are_shuffled_dropped_and_occluded() -> None:
    images = torch.arange(1, 1 + 2 * 3 * 8 * 8).view(2, 3, 8, 8).float()
    mean = torch.zeros(3, 1, 1)

    def changed(name: str, size: int) -> torch.Tensor:
        return patches.CHANGES[name](images, size, mean, torch.Generator().manual_seed(0))

    shuffled = changed("shuffled", 2)
    assert shuffled.flatten(1).sort().values.equal(images.flatten(1))
    assert not shuffled.equal(images)
    corners = {tuple(square) for square in shuffled[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).reshape(-1, 4).tolist()}
    assert corners == {tuple(square) for square in images[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).reshape(-1, 4).tolist()}
    assert (changed("dropped", 2) == 0).float().mean() == 0.5
    assert (changed("occluded", 4) == 0).sum(dim=(1, 2, 3)).tolist() == [3 * 16, 3 * 16]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_corruptions_change_images_more_and_more(family: str, channels: int) -> None:
    smooth = torch.nn.functional.interpolate(
        torch.rand(4, channels, 8, 8, generator=torch.Generator().manual_seed(0)), scale_factor=4, mode="bilinear"
    )
    images = (255 * smooth).to(torch.uint8)
    for name in FAMILIES[family]:
        weakest, strongest = (corrupted(images, family, name, severity) for severity in (1, 5))
        assert (weakest.dtype, weakest.shape) == (torch.uint8, images.shape)
        assert corrupted(images, family, name, 1).equal(weakest)
        little, much = ((each.float() - images).abs().mean() for each in (weakest, strongest))
        assert 0 < much < 128, name
        assert little < much or name == "elastic_transform", name  # whose severities are of different kinds


def test_cka_of_a_layer_with_itself_is_1_whatever_its_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    layer, other = torch.randn(2, 60, 40, generator=generator, dtype=torch.float64)
    orthogonal = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64)).Q
    gram, turned = layer @ layer.T, (3 * layer @ orthogonal) @ (3 * layer @ orthogonal).T
    assert cka(gram, gram) == pytest.approx(1)
    assert cka(gram, turned) == pytest.approx(1)
    moved = layer + 5
    assert cka(gram, moved @ moved.T) == pytest.approx(1)
    assert abs(cka(gram, other @ other.T)) < 0.2  # unrelated, though there are nearly as many neurons as images


# Permuted and hybrid networks


@pytest.mark.parametrize("kind", KINDS)
def test_permutations_are_permutations(kind: str) -> None:
    order = permutation(kind, 16, 12, np.random.default_rng(0))
    assert sorted(order) == list(range(16 * 12))
    by_patch = order.reshape(16, 12)
    stays = (by_patch // 12 == np.arange(16)[:, None]).all()
    together = all(len(set(patch // 12)) == 1 for patch in by_patch)
    alike = len({tuple(patch % 12) for patch in by_patch}) == 1
    expected = {
        "nothing": (True, True, True),
        "patches": (False, True, True),
        "within": (True, True, False),
        "everything": (False, False, False),
    }
    assert (stays, together, alike) == expected[kind]


def test_permuted_moves_pixels_alone() -> None:
    options = {"network": torch.nn.Identity(), "image_size": 8, "num_channels": 3, "patch_size": 4}
    images = torch.rand(2, 3, 8, 8)
    assert Permuted(**options, permute="nothing", permutation_seed=0)(images).equal(images)
    permuted = Permuted(**options, permute="patches", permutation_seed=0)
    assert permuted(images).flatten(1).sort().values.equal(images.flatten(1).sort().values)
    assert permuted.state_dict().keys() == {"order"}
    with pytest.raises(ValueError, match="permute=pixels must be one of nothing, patches, within, everything"):
        Permuted(**options, permute="pixels", permutation_seed=0)


def losses(folder: str) -> list[float]:
    return [row["train/loss"] for row in metrics(folder) if "train/loss" in row]


def test_a_vit_on_permuted_patches_trains_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The theorem: with the weights at the start permuted too, nothing but the names of numbers differs."""
    from vit_cnn.training import state

    build = state.build_network
    vit = [option.replace("model.", "model.network.") for option in SMALL_VIT]
    options = ["model=permuted_vit", *vit, "model.network.dropout=0", "trainer.log_every=1"]

    def with_permuted_weights(model: Any, **others: Any) -> torch.nn.Module:
        network = build(model, **others)
        order = network.order.view(16, 3 * 64)
        with torch.no_grad():
            inside = network.network
            inside.embed_patches.weight.copy_(inside.embed_patches.weight[:, order[0] % (3 * 64)])
            inside.positions[1:] = inside.positions[1:][order[:, 0] // (3 * 64)]
        return network

    run(Path("plain"), *options, "model.permute=nothing")
    run(Path("another_start"), *options, "model.permute=patches")
    monkeypatch.setattr(state, "build_network", with_permuted_weights)
    run(Path("same_start"), *options, "model.permute=patches")
    run(Path("no_theorem"), *options, "model.permute=within")
    assert losses("same_start") == pytest.approx(losses("plain"), rel=1e-5)
    heads = [weights(folder)["network.head.weight"] for folder in ("same_start", "plain", "no_theorem")]
    assert torch.allclose(heads[0], heads[1], atol=1e-4)
    assert not torch.allclose(heads[2], heads[1], atol=1e-3)
    assert losses("another_start") != pytest.approx(losses("plain"), rel=1e-3)
    assert losses("no_theorem") != pytest.approx(losses("plain"), rel=1e-3)


def test_the_hybrid_has_the_parameters_of_the_vit() -> None:
    from vit_cnn.config.network import build_network

    hybrid, vit = (
        build_network(composed(f"model={name}", "data=digits", "trainer=cpu").model) for name in ("hybrid", "vit")
    )
    assert count(hybrid) == pytest.approx(count(vit), rel=0.01)
    assert hybrid(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match="patch_size=6 must be 2, 4, 8 or another power of 2"):
        Hybrid(network=vit, num_channels=3, patch_size=6)


def test_the_hybrid_sees_across_patches() -> None:
    hybrid = Hybrid(network=torch.nn.Identity(), num_channels=3, patch_size=4).eval()
    images = torch.rand(1, 3, 16, 16)
    changed = images.clone()
    changed[:, :, 3, 3] += 1  # the last pixel of the first patch
    difference = (hybrid(images) - hybrid(changed)).abs().sum(dim=(0, 1))
    assert difference[4:8, 4:8].sum() > 0  # reaches the patch beyond its corner
    assert difference[8:, 8:].sum() == 0


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
        small = [each.replace("model.", "model.network.") for each in SMALL_VIT] if network == "vit" else []
        for kind in KINDS:
            run(
                Path("runs") / network / kind,
                f"model=permuted_{network}",
                *small,
                f"model.permute={kind}",
                "max_steps=6",
            )
    code, printed = probing("permutation", "runs")
    assert code == 0, printed
    said = check_files("permutation", printed)
    assert said.startswith("Permuting patches changes the ViT's accuracy by ")
    assert said.endswith("Seeds: 1.")
    rows = table("permutation")
    assert len(rows) == 8
    assert {row["change"] for row in rows if row["permuted"] == "nothing"} == {"0.0"}


def test_scaling(probing: Probe) -> None:
    for share in (0.2, 0.5, 1):
        run(Path(f"runs/vit{share}"), *SMALL_VIT, f"data.train_share={share}")
        run(Path(f"runs/cnn{share}"), "model=cnn", f"data.train_share={share}")
    code, printed = probing("scaling", "runs")
    assert code == 0, printed
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
    for cnn, said in (
        (Interval(-0.2, -0.25, -0.15), "as predicted"),
        (Interval(-0.02, -0.03, -0.01), "against the prediction"),
        (Interval(-0.1, -0.2, -0.01), "unclear"),
    ):
        assert f"{cnn.points()} ({said})" in verdict_of(change | {("CNN", "patches"): cnn}, samples)
