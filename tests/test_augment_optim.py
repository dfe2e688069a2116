"""Augmentation and the learning rate: each option does what its name says, per image, reproducibly."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import augmentation_of, composed, one_batch
from torch import Tensor, nn

from vit_cnn.data.batches import normalise
from vit_cnn.training.augment import Augmentation
from vit_cnn.training.geometry import padded_crop, resized_crop
from vit_cnn.training.optim import build_optimizer, learning_rate, set_learning_rate


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


OFF = ["recipe.augment.flip=false", "recipe.augment.crop_padding=0", "recipe.augment.crop_scale=null"]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(64, 3, 12, 12, generator=generator(7))


def applied(augmentation: Augmentation, *, epoch: int = 0, batch: int = 0, number: int = 120) -> Tensor:
    """The first images as they are in a batch, or as if they were."""
    return one_batch(augmentation, torch.arange(number) % len(augmentation.data.train), epoch=epoch, batch=batch)[0]


def test_flip_mirrors_half_of_the_images() -> None:
    images = applied(augmentation_of(*OFF), number=1200)
    flipped = applied(augmentation_of(*OFF, "recipe.augment.flip=true"), number=1200)
    kept = (flipped == images).flatten(1).all(dim=1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(kept, ~mirrored)
    assert kept.float().mean() == pytest.approx(0.5, abs=0.05)


def test_alternating_flip_shows_each_image_both_ways_in_two_epochs() -> None:
    images = applied(augmentation_of(*OFF))
    alternating = augmentation_of(*OFF, "recipe.augment.flip=alternating")
    first, second, third = (applied(alternating, epoch=epoch, batch=epoch) for epoch in range(3))
    assert torch.equal(second, first.flip(-1))
    assert torch.equal(third, first)
    mirrored = (first != images).flatten(1).any(dim=1)
    assert 0.3 < mirrored.float().mean() < 0.7
    other = applied(augmentation_of(*OFF, "recipe.augment.flip=alternating", seed=4))
    assert not torch.equal(first, other)


def test_padded_crop_shifts_each_image_on_its_own(images: Tensor) -> None:
    moved = padded_crop(images, torch.randint(0, 5, (64, 2), generator=generator()), 2)
    padded = F.pad(images, (2,) * 4, mode="reflect")
    found = set()
    for image, source in zip(moved, padded, strict=True):
        at = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, source[:, y : y + 12, x : x + 12])]
        assert len(at) == 1
        found.add(at[0])
    assert len(found) > 15  # of 25 places


def test_resized_crop_of_everything_changes_nothing(images: Tensor) -> None:
    drawn = torch.rand(len(images), 4, generator=generator())
    torch.testing.assert_close(resized_crop(images, drawn, [1, 1], [1, 1]), images, rtol=0, atol=1e-5)


def test_resized_crop_cuts_the_share_it_is_told_to() -> None:
    """On a ramp of coordinates a crop is a ramp too, from which its window can be read."""
    ramp = torch.arange(64.0) + 0.5
    images = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64)]).expand(2000, 2, 64, 64)
    crops = resized_crop(images, torch.rand(2000, 4, generator=generator()), [0.3, 0.6], [0.8, 1.25])
    width = (crops[:, 0, 0, -1] - crops[:, 0, 0, 0]) * 64 / 63
    height = (crops[:, 1, -1, 0] - crops[:, 1, 0, 0]) * 64 / 63
    area, ratio = width * height / 64**2, width / height
    assert 0.29 < area.min() < 0.31
    assert 0.59 < area.max() < 0.61
    assert area.mean() == pytest.approx(0.45, abs=0.01)
    assert 0.79 < ratio.min() < 0.82
    assert 1.22 < ratio.max() < 1.26
    assert ratio.log().mean() == pytest.approx(0, abs=0.01)
    left = crops[:, 0, 0, 0] - width / 128
    assert left.min() >= -1e-3
    assert (left + width).max() <= 64.001


@pytest.mark.parametrize("on", [
    "augment.flip=true", "augment.crop_padding=2", "augment.crop_scale=[0.5,0.9]", "augment.policy=trivial",
    "augment.policy=autoaugment", "augment.erasing_probability=0.5", "mixing.probability=0.5",
])  # fmt: skip
def test_each_switch_of_the_recipe_has_its_effect(on: str) -> None:
    augmentation = augmentation_of(*OFF, f"recipe.{on}")
    data = augmentation.data
    images = normalise(data.train.images[:120], data.mean, data.std)
    assert torch.equal(applied(augmentation_of(*OFF)), images)
    first, again, other = (applied(augmentation, batch=batch) for batch in (0, 0, 1))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, images)


def rates(*overrides: str, steps_per_epoch: int = 10) -> list[float]:
    recipe = composed("trainer=cpu", *overrides).recipe
    steps = range(recipe.epochs * steps_per_epoch)
    return [learning_rate(step, recipe=recipe, steps_per_epoch=steps_per_epoch) for step in steps]


def test_multistep_drops_at_the_milestones() -> None:
    lr = rates("recipe=deck")
    assert len(set(lr[:1000])) == 1
    assert lr[999] == pytest.approx(3e-4)
    assert lr[1000] == lr[1499] == pytest.approx(3e-5)
    assert lr[1500] == lr[-1] == pytest.approx(3e-6)


def test_cosine_warms_up_and_ends_near_zero() -> None:
    lr = rates("recipe=modern", "recipe.epochs=6", "recipe.schedule.warmup_epochs=1.5", "recipe.optimizer.lr=1")
    assert lr[:15] == pytest.approx([(step + 1) / 15 for step in range(15)])
    assert lr[15] == pytest.approx(1)
    assert lr[15:] == sorted(lr[15:], reverse=True)
    assert lr[-1] == pytest.approx((1 - math.cos(math.pi / 45)) / 2)


def test_constant_stays() -> None:
    assert set(rates("recipe.schedule.name=constant", "recipe.epochs=3")) == {3e-4}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_optimiser_gets_the_recipes_values(name: str, kind: type) -> None:
    recipe = composed("trainer=cpu", f"recipe.optimizer.name={name}", "recipe.optimizer.weight_decay=0.3").recipe
    optimizer = build_optimizer(nn.Linear(2, 2), recipe.optimizer)
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (3e-4, 0.3)
    assert group.get("betas", (0.9, 0.999)) == (0.9, 0.999)
    assert group.get("momentum", 0.9) == 0.9


def test_an_optimiser_goes_on_wherever_it_was() -> None:
    """A GPU keeps the learning rate in a tensor, a CPU does not; a run may move from one to the other."""
    recipe = composed("trainer=cpu").recipe
    network = nn.Linear(2, 2)
    network(torch.ones(1, 2)).sum().backward()
    optimizer = build_optimizer(network, recipe.optimizer)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"].item() == 0.25
    optimizer.step()
    again = build_optimizer(network, recipe.optimizer, optimizer.state_dict())
    assert again.state_dict()["state"][0]["step"] == 1
    set_learning_rate(again, 0.125)
    assert again.param_groups[0]["lr"] == 0.125
    again.step()
