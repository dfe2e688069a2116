"""Erasing, CutMix and MixUp: what becomes of images and labels, how often, until when; no step waits for a device."""

from types import SimpleNamespace
from typing import Any

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from helpers import augmentation_of, one_batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vit_cnn.config.schema import Mixing
from vit_cnn.data.dataset import Split
from vit_cnn.processes.together import here
from vit_cnn.training.augment import Batch
from vit_cnn.training.batches import Batches, fitting, sent
from vit_cnn.training.erasing import erase
from vit_cnn.training.mixing import beta_quantiles, mix, quantile, shares

OFF = ["recipe.augment.flip=false", "recipe.augment.crop_padding=0", "recipe.augment.crop_scale=null"]
EVERYTHING = [
    "recipe.augment.flip=alternating", "recipe.augment.crop_padding=4", "recipe.augment.policy=autoaugment",
    "recipe.augment.erasing_probability=0.5", "recipe.mixing.probability=0.5",
]  # fmt: skip


def uniform(*shape: int, seed: int = 5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_erasing_cuts_out_rectangles_of_the_asked_size() -> None:
    images = torch.ones(5000, 3, 32, 32)
    erased = uniform(5000, seed=6) < 0.25
    holes = erase(images, erased, uniform(5000, 4), [0.1, 0.3], [0.5, 2.0]) == 0
    assert torch.equal(holes.flatten(1).any(dim=1), erased)
    assert torch.equal(holes[:, 0], holes[:, 2])
    rows, columns = holes[erased, 0].any(dim=2), holes[erased, 0].any(dim=1)
    height, width = rows.sum(dim=1), columns.sum(dim=1)
    assert torch.equal(holes[erased, 0].sum(dim=(1, 2)), height * width)  # all of it, in one piece
    area, ratio = height * width / 32**2, width / height
    assert area.min() == pytest.approx(0.1, abs=0.02)
    assert area.max() == pytest.approx(0.3, abs=0.02)
    assert area.mean() == pytest.approx(0.2, abs=0.01)
    assert ratio.log().mean() == pytest.approx(0, abs=0.03)
    often = holes[erased, 0].float().mean(dim=0)
    assert often[0, 0] > 0  # it reaches into every corner
    torch.testing.assert_close(often, often.flip(0, 1), rtol=0, atol=0.06)


def test_a_fixed_area_is_cutout() -> None:
    every = torch.ones(50, dtype=torch.bool)
    holes = erase(torch.ones(50, 1, 32, 32), every, uniform(50, 4), [0.25, 0.25], [1, 1]) == 0
    assert (holes.sum(dim=(1, 2, 3)) == 16**2).all()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_shares_are_drawn_from_a_beta_distribution(alpha: float) -> None:
    drawn = quantile(beta_quantiles(alpha), uniform(20_000))
    assert scipy.stats.kstest(drawn.numpy(), scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


def mixing(**changed: float) -> Mixing:
    values = {"probability": 1.0, "switch_probability": 0.0, "cutmix_alpha": 1.0, "mixup_alpha": 1.0, "end": 1.0}
    return Mixing(**values | changed)


def drawn_shares(recipe: Mixing, *, number: int, size: int = 32) -> Tensor:
    tables = torch.stack([beta_quantiles(recipe.cutmix_alpha), beta_quantiles(recipe.mixup_alpha)])
    mixed, drawn = uniform(number, seed=6) < recipe.probability, uniform(number, 4)
    return shares(mixed, drawn, tables, recipe, h=size, w=size)


def test_cutmix_takes_a_rectangle_as_torchvision_does() -> None:
    share = drawn_shares(mixing(switch_probability=1.0), number=4000)[:, 0]
    assert set(share.unique().tolist()) == {0.0, 1.0}
    rows, columns = share.amax(dim=2), share.amax(dim=1)
    assert torch.equal(share, rows[:, :, None] * columns[:, None, :])
    _, level, x, y = uniform(4000, 4).T  # λ of Beta(1, 1) is the number itself
    for number in range(200):
        half, cx, cy = int(0.5 * (1 - level[number]).sqrt() * 32), int(x[number] * 32), int(y[number] * 32)
        box = torch.zeros(32, 32)
        box[max(cy - half, 0) : min(cy + half, 32), max(cx - half, 0) : min(cx + half, 32)] = 1
        assert torch.equal(share[number], box)


def test_how_many_images_are_mixed_and_how() -> None:
    share = drawn_shares(mixing(probability=0.6, switch_probability=0.25), number=8000).flatten(1)
    mixed, whole = (share > 0).any(dim=1), (share == 1).any(dim=1)
    assert mixed.float().mean() == pytest.approx(0.6, abs=0.03)  # few rectangles have no pixel
    assert whole.sum() / mixed.sum() == pytest.approx(0.25, abs=0.03)
    assert share[~whole].std(dim=1).max() == 0  # MixUp is the same everywhere
    assert not drawn_shares(mixing(probability=0), number=10).any()


def test_images_and_labels_are_mixed_alike() -> None:
    images, labels = uniform(4, 3, 8, 8), torch.tensor([0, 1, 2, 2])
    share = torch.zeros(4, 1, 8, 8)
    share[1] = 0.3
    share[2, :, :6] = 1
    share[3, :, :2, :4] = 1
    mixed, targets, largest = mix(images, labels, share=share, num_classes=4, batches=1)
    assert torch.equal(mixed[0], images[0])
    torch.testing.assert_close(mixed[1], 0.7 * images[1] + 0.3 * images[0])
    assert torch.equal(mixed[2, :, :6], images[1, :, :6])
    assert torch.equal(mixed[2, :, 6:], images[2, :, 6:])
    expected = torch.tensor([[1, 0, 0, 0], [0.3, 0.7, 0, 0], [0, 0.75, 0.25, 0], [0, 0, 1, 0]])
    torch.testing.assert_close(targets, expected)
    assert largest.tolist() == [0, 1, 1, 2]
    logits = uniform(4, 4)
    torch.testing.assert_close(F.cross_entropy(logits[:1], targets[:1]), F.cross_entropy(logits[:1], labels[:1]))


def test_mixing_ends_with_its_share_of_the_epochs() -> None:
    augmentation = augmentation_of(*OFF, "recipe.mixing.probability=1", "recipe.mixing.end=0.5", "recipe.epochs=5")
    chosen = torch.arange(30)
    steps_per_epoch = len(augmentation.data.train) // 30
    assert steps_per_epoch == 5
    ends = {}
    for step in range(5 * steps_per_epoch):
        epoch, batch = divmod(step, steps_per_epoch)
        _, targets, labels = one_batch(augmentation, chosen, epoch=epoch, batch=batch)
        ends[step] = torch.equal(targets, F.one_hot(labels, 10).float())
    assert [step for step, ended in ends.items() if ended] == list(range(13, 25))  # from 2.5 epochs on


class Operators(TorchDispatchMode):
    """Notes the operators that are called, and the sizes of what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        self.called.append((name, result.shape if isinstance(result, Tensor) else None))
        if name == "index":
            assert torch.bool not in {index.dtype for index in args[1] if index is not None}
        return result


@pytest.mark.parametrize("more", ([], ["recipe.augment.crop_scale=[0.5,1]", "recipe.augment.policy=trivial"]))
def test_nothing_in_a_batch_waits_for_the_device(more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not reading a number, no sizes that depend on one, and no tensors from Python's numbers."""
    augmentation, chosen = augmentation_of(*EVERYTHING, *more), torch.arange(30)
    calls = []
    for batch in range(3):
        draws = augmentation.draw(chosen, epoch=0, batch=batch)  # on the CPU, whatever the device
        monkeypatch.setattr(augmentation, "draw", lambda *_, draws=draws, **__: draws)
        with Operators() as operators:
            list(Batches(augmentation).make([(batch, chosen)] * 2, epoch=0))
        monkeypatch.undo()
        calls.append(operators.called)
    assert calls[0] == calls[1] == calls[2]
    names = {name for name, _ in calls[0]}
    assert "grid_sampler_2d" in names
    waits = {"_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "is_nonzero", "lift_fresh", "equal"}
    assert not names & waits


def test_a_batch_depends_on_nothing_that_came_before() -> None:
    """So a run that was stopped goes on as if it had not been."""
    straight, resumed = Batches(augmentation_of(*EVERYTHING)), Batches(augmentation_of(*EVERYTHING))
    whole = [list(straight.of_epoch(epoch)) for epoch in range(2)]
    assert len(whole[1]) == 5
    assert same(whole[1][2:], list(resumed.of_epoch(1, first=2)))
    assert not same(whole[0], whole[1])


@pytest.mark.parametrize("at_once", [2, 5, 8])
def test_batches_are_the_same_however_many_are_made_at_once(at_once: int) -> None:
    """And a compiler sees one size, also where an epoch ends or a resumed one begins within a group."""
    augmentation = augmentation_of(*EVERYTHING)
    one_by_one = list(Batches(augmentation, at_once=1).of_epoch(3))
    sizes, apply = set(), augmentation.apply

    def noting(images: Tensor, *arguments: Any) -> Any:
        sizes.add(len(images))
        return apply(images, *arguments)

    augmentation.apply = noting
    batches = Batches(augmentation, at_once=at_once)
    assert same(list(batches.of_epoch(3)), one_by_one)
    assert same(list(batches.of_epoch(3, first=1)), one_by_one[1:])
    assert sizes == {30 * at_once}


def test_how_many_batches_a_gpu_makes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are enough work for it, but no more than an epoch has, and few in vain: ten are two groups of five."""

    def at_once(images: int, size: int, batch_size: int, *, device: str = "cuda") -> int:
        nothing = torch.empty(images, 3, size, size, device="meta")
        mean = SimpleNamespace(device=torch.device(device))
        data: Any = SimpleNamespace(train=Split(nothing, nothing[:, 0, 0, 0], nothing), mean=mean)
        return fitting(data, batch_size=batch_size)

    assert [at_once(45_000, 32, 128), at_once(45_000, 32, 256), at_once(45_000, 224, 128)] == [8, 4, 1]
    assert [at_once(45_000, 8, 16), at_once(1_280, 32, 128), at_once(400, 32, 128)] == [8, 5, 3]
    assert at_once(45_000, 32, 128, device="cpu") == 1
    monkeypatch.setattr(here, "number", 2)
    assert at_once(45_000, 32, 256) == 8  # of each it makes a half


def test_nobody_waits_for_what_is_sent_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)  # as if that were the memory it is copied to
    monkeypatch.setattr(Tensor, "to", lambda *arguments, **options: copied.append((*arguments, options)))
    sent(torch.tensor([4]), torch.device("cuda"))
    assert copied == [(torch.tensor([5]), torch.device("cuda"), {"non_blocking": True})]


def same(some: list[Batch], others: list[Batch]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(one, other) for pair in pairs for one, other in zip(*pair, strict=True))


def test_the_pure_part_compiles_whole() -> None:
    """Without code: that it is one graph, and that it says the same."""
    augmentation = augmentation_of(*EVERYTHING)
    compiled = torch.compile(augmentation.apply, fullgraph=True, backend="aot_eager")
    for batch in range(2):
        images, labels = (each[:30] for each in (augmentation.data.train.images, augmentation.data.train.labels))
        draws = augmentation.draw(torch.arange(30), epoch=1, batch=batch)
        plain_batch, compiled_batch = augmentation.apply(images, labels, draws, 3), compiled(images, labels, draws, 3)
        for plain, other in zip(plain_batch, compiled_batch, strict=True):
            torch.testing.assert_close(plain, other)
