"""Policies against torchvision's own operations, one image at a time."""

import itertools
import math

import pytest
import torch
from helpers import augmentation_of
from torch import Tensor
from torchvision.transforms import autoaugment
from torchvision.transforms import functional as reference

from vit_cnn.training.colour import recolour
from vit_cnn.training.geometry import mirror, move, padded_crop
from vit_cnn.training.policy import OPERATIONS, SIGNED, build_policy

# Their name in torchvision, in the order of OPERATIONS.
NAMES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
         "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert")  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    """Images with all of what a colour could stumble over: dull, bright, flat in one channel, flat in all."""
    generator = torch.Generator().manual_seed(7)
    waves = torch.rand(12, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(waves, size=(32, 32), mode="bilinear")
    images = (images + 0.1 * torch.rand(12, 3, 32, 32, generator=generator)).clamp(0, 1)
    images[1] = images[1] * 0.3 + 0.4
    images[2] = images[2] * 0.1
    images[3, 0] = 0.5
    images[4] = 0.2
    images[5] = (images[5] > 0.5).float()
    return (images * 255).round()


def amounts_of(operation: str, amount: float, number: int) -> Tensor:
    amounts = torch.zeros(number, len(OPERATIONS))
    amounts[:, OPERATIONS.index(operation)] = amount
    return amounts


def by_torchvision(images: Tensor, operation: str, magnitude: float) -> Tensor:
    name = NAMES[OPERATIONS.index(operation)]
    nearest = reference.InterpolationMode.NEAREST
    return torch.stack([
        autoaugment._apply_op(image.byte(), name, magnitude, interpolation=nearest, fill=None) for image in images
    ]).float()  # fmt: skip


@pytest.mark.parametrize(("operation", "amount", "magnitude"), [
    ("brightness", 0.66, 0.66), ("brightness", -0.9, -0.9), ("color", 0.75, 0.75), ("color", -0.5, -0.5),
    ("contrast", 0.75, 0.75), ("contrast", -0.9, -0.9), ("sharpness", 0.75, 0.75), ("sharpness", -0.875, -0.875),
    ("posterize", 3, 6), ("posterize", 63, 2), ("solarize", 86, 170), ("solarize", 1, 255), ("solarize", 256, 0),
    ("autocontrast", 1, 0), ("equalize", 1, 0), ("invert", 1, 0), ("brightness", 0, 0),
])  # fmt: skip
def test_colours_are_torchvisions(images: Tensor, operation: str, amount: float, magnitude: float) -> None:
    ours = recolour(images, amounts_of(operation, amount, len(images)))
    error = (ours - by_torchvision(images, operation, magnitude)).abs()
    assert error.max() <= 1  # of 255, where a product falls on the other side of a whole number
    assert (error > 0).float().mean() < 0.002
    assert torch.equal(ours, ours.round())
    if amount:
        assert (ours != images).float().mean() > 0.04


def test_grey_images_have_colours_too() -> None:
    images = torch.arange(256.0).view(1, 1, 16, 16)
    for operation, amount, magnitude in (("contrast", 0.5, 0.5), ("equalize", 1, 0), ("invert", 1, 0)):
        ours = recolour(images, amounts_of(operation, amount, 1))
        torch.testing.assert_close(ours, by_torchvision(images, operation, magnitude), rtol=0, atol=1)


@pytest.mark.parametrize(("operation", "amount", "magnitude"), [
    ("shear_x", 0.29, 0.29), ("shear_x", -0.97, -0.97), ("shear_y", 0.43, 0.43), ("shear_y", -0.3, -0.3),
    ("translate_x", 9, 9), ("translate_x", -32, -32), ("translate_y", 14, 14), ("translate_y", -1, -1),
    ("rotate", math.radians(30), 30), ("rotate", math.radians(-117), -117),
])  # fmt: skip
def test_moves_are_torchvisions(images: Tensor, operation: str, amount: float, magnitude: float) -> None:
    recipe = augmentation_of("recipe=modern", "recipe.augment.crop_padding=0").recipe.augment
    ours = move(images, {"amounts": amounts_of(operation, amount, len(images))[:, None]}, recipe)
    # Points half way between two pixels may go to either.
    assert (ours != by_torchvision(images, operation, magnitude)).float().mean() < 0.01
    assert (ours != images).float().mean() > 0.3


def test_every_image_gets_its_own(images: Tensor) -> None:
    """The batch is the same as one image at a time, for colours and moves."""
    rows = torch.cat([amounts_of(name, 0.5 if name in SIGNED else 1, 1) for name in OPERATIONS])
    images = images[:1].expand(len(rows), -1, -1, -1)
    recipe = augmentation_of("recipe=modern", "recipe.augment.crop_padding=0").recipe.augment

    def changed(images: Tensor, rows: Tensor) -> Tensor:
        return recolour(move(images, {"amounts": rows[:, None]}, recipe), rows)

    together = changed(images, rows)
    alone = torch.cat([changed(images[:1], row[None]) for row in rows])
    assert torch.equal(together, alone)
    assert len({image.numpy().tobytes() for image in together}) > len(rows) - 3


def test_two_moves_follow_each_other(images: Tensor) -> None:
    """The second does not bring back what the first has moved out of sight."""
    recipe = augmentation_of("recipe=modern", "recipe.augment.crop_padding=0").recipe.augment
    there, back = (amounts_of("translate_y", amount, len(images)) for amount in (14, -14))
    moved = move(images, {"amounts": torch.stack([there, back], dim=1)}, recipe)
    expected = images.clone()
    expected[..., -14:, :] = 0
    assert torch.equal(moved, expected)


def test_without_a_move_crop_and_flip_are_the_usual_ones(images: Tensor) -> None:
    recipe = augmentation_of("recipe=modern").recipe.augment
    generator = torch.Generator().manual_seed(3)
    shift = torch.randint(0, 9, (len(images), 2), generator=generator)
    flip = torch.rand(len(images), generator=generator) < 0.5
    nothing = torch.zeros(len(images), 2, len(OPERATIONS))
    moved = move(images, {"amounts": nothing, "shift": shift, "flip": flip}, recipe)
    assert torch.equal(moved, mirror(padded_crop(images, shift, 4), flip))


def test_trivial_augment_is_torchvisions_space() -> None:
    space = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    policy = build_policy("trivial", image_size=32)
    assert (policy.probability == 1).all()
    rows = [(name, level) for name in space for level in range(31)]
    assert set(space) == {"Identity", *NAMES[:-1]}
    assert policy.amounts.shape == (2 * len(rows), 1, len(OPERATIONS))
    for pair, (name, level) in zip(policy.amounts[:, 0].split(2), rows, strict=True):
        for row, sign in zip(pair, (-1, 1), strict=True):
            expected = expected_amounts(name, *space[name], level) * sign_of(name, sign)
            torch.testing.assert_close(row, expected)


def test_autoaugment_is_torchvisions_policy() -> None:
    theirs = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy.CIFAR10)
    space = theirs._augmentation_space(10, (32, 32))
    policy = build_policy("autoaugment", image_size=32)
    signs = list(itertools.product((-1, 1), repeat=2))
    rows = [(row, sign) for row in theirs.policies for sign in signs]
    for amounts, probability, (row, sign) in zip(*policy, rows, strict=True):
        assert probability.tolist() == pytest.approx([likely for _, likely, _ in row])
        for stage, (name, _, level) in enumerate(row):
            expected = expected_amounts(name, *space[name], level or 0) * sign_of(name, sign[stage])
            torch.testing.assert_close(amounts[stage], expected)


def expected_amounts(name: str, magnitudes: Tensor, signed: bool, level: int) -> Tensor:
    """The amounts of a row, without signs: torchvision's magnitude of one operation, 0 of the others."""
    expected = torch.zeros(len(OPERATIONS))
    if name != "Identity":
        assert signed == (OPERATIONS[NAMES.index(name)] in SIGNED)
        expected[NAMES.index(name)] = as_amount(name, float(magnitudes.view(-1)[level if magnitudes.ndim else 0]))
    return expected


def sign_of(name: str, sign: int) -> int:
    return sign if name in NAMES[:9] else 1


def as_amount(name: str, magnitude: float) -> float:
    """A magnitude of torchvision in our units; half of the way over 32 pixels is 15.999999 there."""
    if name in ("AutoContrast", "Equalize", "Invert"):
        return 1.0
    if name.startswith("Translate"):
        return int(magnitude + 1e-4)
    return {"Rotate": math.radians(magnitude), "Posterize": 2 ** (8 - magnitude) - 1, "Solarize": 256 - magnitude}.get(
        name, magnitude
    )


@pytest.mark.parametrize("policy", ["trivial", "autoaugment"])
def test_a_policy_is_drawn_as_often_as_it_should_be(policy: str) -> None:
    augmentation = augmentation_of("recipe=modern", f"recipe.augment.policy={policy}")
    amounts = augmentation.draw(torch.zeros(40_000, dtype=torch.int64), epoch=0, batch=0)["amounts"]
    often = (amounts != 0).float().mean(dim=0)  # [stages, operations]
    table, probability = augmentation.policy
    torch.testing.assert_close(often, ((table != 0) * probability[..., None]).mean(dim=0), rtol=0, atol=0.01)
    if policy == "trivial":
        assert often[0, OPERATIONS.index("equalize")] == pytest.approx(1 / 14, abs=0.005)
    signs = amounts[..., OPERATIONS.index("brightness")].sign()
    assert signs.mean() == pytest.approx(0, abs=0.01)
