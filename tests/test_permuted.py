"""Networks that stand before or around the ViT for a probe: permuted images, a convolutional embedding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, composed, metrics, weights

from vit_cnn.models.hybrid import Hybrid
from vit_cnn.models.permuted import KINDS, Permuted, permutation
from vit_cnn.models.size import count
from vit_cnn.training.loop import train


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
    tiny = [option.replace("model.", "model.network.") for option in TINY]
    options = [
        "model=permuted_vit",
        *tiny,
        "model.network.dropout=0",
        "recipe.augment.flip=false",
        "trainer.log_every=1",
    ]

    def run(folder: str, permute: str) -> None:
        Path(folder).mkdir()
        train(composed(*options, f"model.permute={permute}"), Path(folder))

    def with_permuted_weights(model: Any, **others: Any) -> torch.nn.Module:
        network = build(model, **others)
        order = network.order.view(16, 3 * 64)
        with torch.no_grad():
            inside = network.network
            inside.embed_patches.weight.copy_(inside.embed_patches.weight[:, order[0] % (3 * 64)])
            inside.positions[1:] = inside.positions[1:][order[:, 0] // (3 * 64)]
        return network

    run("plain", "nothing")
    run("another_start", "patches")
    monkeypatch.setattr(state, "build_network", with_permuted_weights)
    run("same_start", "patches")
    run("no_theorem", "within")
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
