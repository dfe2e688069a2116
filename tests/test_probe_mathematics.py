"""The mathematics behind the probes."""

from typing import Any

import numpy as np
import pytest
import torch

from vit_cnn.probes import agreement, patches, shift
from vit_cnn.probes.cka import cka
from vit_cnn.probes.conditions import corrupted
from vit_cnn.probes.corruptions import FAMILIES
from vit_cnn.probes.intervals import difference, interval, kept, only


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


def test_what_accuracies_allow_is_a_mean_over_pairs() -> None:
    """Where every mistake is shared, κ is all that the accuracies allow, also over pairs that differ."""
    accuracies = (0.76, 0.916), (0.88, 0.942), (0.5, 0.9)
    pairs = [np.arange(1000) < 1000 * np.array(each)[:, None] for each in accuracies]
    samples = [np.stack([a, b, a == b]).astype(float) for a, b in pairs]
    highest = np.mean([float(agreement.kappa(sample.mean(axis=1))) for sample in samples])
    text = agreement.verdict_of({"networks": np.concatenate(samples), "seeds": samples[0]})
    assert f"their accuracies alone allow κ up to {highest:.2f}" in text
    assert f"two networks κ = {highest:.2f}" in text


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


def test_shares_of_nothing_are_left_out_of_an_interval() -> None:
    """With 2 of 20 images right, one set in eight that is drawn anew holds neither of them."""
    right = np.zeros((2, 20))
    right[:, :2] = 1
    found = interval(kept([1]), [right])
    assert (found.value, found.low, found.high) == (1, 1, 1)
