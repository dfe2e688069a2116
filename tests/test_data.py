"""Data sets: the split, the statistics, CIFAR's archives. Folders of images: test_folder.py."""

import json
import pickle
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import composed
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5

from vit_cnn.data import Dataset, Split
from vit_cnn.data.batches import AUGMENTATION, ORDER, normalise, seeded, shuffled
from vit_cnn.data.dataset import pixel_statistics, repeated, stratified_split


def load(*overrides: str) -> Dataset:
    data: Dataset = instantiate(composed("trainer=cpu", *overrides).data)
    return data


def test_digits() -> None:
    data = load("data=digits")
    assert (len(data.train), len(data.val), len(data.test)) == (1295, 143, 359)
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape[1:] == (3, 32, 32)
    everything = torch.cat([data.train.indices, data.val.indices, data.test.indices])
    assert everything.sort().values.tolist() == list(range(1797))


def test_the_split_is_stratified_and_always_the_same() -> None:
    labels = torch.arange(10).repeat_interleave(5000)[
        torch.randperm(50_000, generator=torch.Generator().manual_seed(1))
    ]
    train, val = stratified_split(labels, fraction=0.1)
    assert (len(train), len(val)) == (45_000, 5_000)
    assert torch.bincount(labels[val]).tolist() == [500] * 10
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(50_000))
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(stratified_split(labels, fraction=0.1)[1], val)
    a, b = load("data=digits", "seed=0", "model=cnn"), load("data=digits", "seed=5", "model=vit")
    assert a.fingerprint == b.fingerprint
    assert torch.equal(a.val.indices, b.val.indices)
    assert load("data=digits", "data.val_fraction=0.2").fingerprint != a.fingerprint


def test_statistics_come_from_the_training_split() -> None:
    data = load("data=digits")
    pixels = data.train.images.double() / 255
    torch.testing.assert_close(data.mean.double(), pixels.mean(dim=(0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(data.std.double(), pixels.std(dim=(0, 2, 3), correction=0), rtol=1e-6, atol=1e-6)
    normal = normalise(data.train.images, data.mean, data.std)
    assert normal.mean().abs() < 1e-4
    assert (normal.std() - 1).abs() < 1e-3
    _, std = pixel_statistics(torch.full((3, 1, 4, 4), 7, dtype=torch.uint8))
    assert std > 0  # a constant channel can be divided by


def test_max_images_shrinks_every_split_class_by_class() -> None:
    data = load("data=digits", "data.max_images=100")
    assert (len(data.train), len(data.val), len(data.test)) == (100, 100, 100)
    assert torch.bincount(data.train.labels).min() >= 9


def test_batches_drop_the_rest_and_go_on_where_they_stopped() -> None:
    split = Split(torch.zeros(103, 1, 1, 1, dtype=torch.uint8), torch.zeros(103, dtype=torch.long), torch.arange(103))
    whole = list(shuffled(split, batch_size=10, seed=1, epoch=4, first=0))
    assert [batch for batch, _ in whole] == list(range(10))
    assert len(torch.cat([chosen for _, chosen in whole]).unique()) == 100
    rest = list(shuffled(split, batch_size=10, seed=1, epoch=4, first=7))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(whole[7:], rest, strict=True))
    other = list(shuffled(split, batch_size=10, seed=1, epoch=5, first=0))
    assert not torch.equal(whole[0][1], other[0][1])


CIFAR = {10: ("cifar10", datasets.CIFAR10, "labels"), 100: ("cifar100", datasets.CIFAR100, "fine_labels")}


def write_cifar(root: Path, classes: int) -> Path:
    """A small archive in CIFAR's own layout: 20 images a class in each file. Returns the folder that it holds."""
    _, archive, labels = CIFAR[classes]
    base = root / archive.base_folder
    base.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in [entry[0] for entry in archive.train_list + archive.test_list]:
        pixels = generator.integers(0, 256, (20 * classes, 3072), dtype=np.uint8)
        (base / name).write_bytes(pickle.dumps({"data": pixels, labels: list(range(classes)) * 20}))
    names = {archive.meta["key"]: [f"class {i}" for i in range(classes)]}
    (base / archive.meta["filename"]).write_bytes(pickle.dumps(names))
    with tarfile.open(root / archive.filename, "w:gz") as tar:
        tar.add(base, arcname=archive.base_folder)
    return base


def trust_cifar(base: Path, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torchvision expect the checksums of these files."""
    archive = CIFAR[classes][1]
    for attribute in ("train_list", "test_list"):
        entries = [[name, calculate_md5(base / name)] for name, _ in getattr(archive, attribute)]
        monkeypatch.setattr(archive, attribute, entries)
    monkeypatch.setattr(archive, "meta", archive.meta | {"md5": calculate_md5(base / archive.meta["filename"])})


@pytest.mark.parametrize("classes", CIFAR)
def test_cifar_reads_torchvisions_files(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, archive, _ = CIFAR[classes]
    base = write_cifar(tmp_path / "archive", classes)
    trust_cifar(base, classes, monkeypatch)
    data = load(f"data={name}", "data.root=archive")
    files = len(archive.train_list)
    assert (len(data.train), len(data.val), len(data.test)) == (18 * files * classes, 2 * files * classes, 20 * classes)
    assert data.name == f"CIFAR-{classes}"
    assert data.classes == [f"class {i}" for i in range(classes)]
    assert data.train.images.shape[1:] == (3, 32, 32)
    raw = pickle.loads((base / archive.test_list[0][0]).read_bytes())["data"]
    assert torch.equal(data.test.images[3].flatten(), torch.from_numpy(raw[3]))


@pytest.mark.parametrize("classes", CIFAR)
def test_a_wrong_cifar_archive_is_refused_by_its_checksum(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, archive, _ = CIFAR[classes]
    shutil.rmtree(write_cifar(tmp_path / "archive", classes))  # what is left is the archive itself

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(Exception, match=rf"data\.root=archive: .*{archive.filename} has not the checksum .*no network"):
        load(f"data={name}", "data.root=archive")


def test_a_damaged_cifar_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_cifar(tmp_path / "archive", 10)
    trust_cifar(base, 10, monkeypatch)
    (base / "data_batch_2").write_bytes(b"damaged")
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", lambda *_, **__: None)
    with pytest.raises(Exception, match=r"data\.root=archive: CIFAR-10 is not there whole.*corrupted"):
        load("data=cifar10", "data.root=archive")


def test_cifar_has_one_size() -> None:
    with pytest.raises(Exception, match="CIFAR is 32×32 with 3 channels"):
        load("data=cifar10", "data.image_size=64")


def test_describe_can_be_written_as_json() -> None:
    described = json.loads(json.dumps(load("data=digits").describe()))
    assert described["train"] == 1295
    assert len(described["fingerprint"]) == 16


def test_few_images_are_blamed_on_what_makes_them_few() -> None:
    with pytest.raises(InstantiationException, match=r"data.max_images=4: Digits has too few images, 0 training"):
        instantiate(composed("data=digits", "data.max_images=4", "trainer=cpu").data)
    with pytest.raises(InstantiationException, match=r"data.val_fraction=0.001: Digits has too few images"):
        instantiate(composed("data=digits", "data.val_fraction=0.001", "trainer=cpu").data)


def test_order_and_augmentation_draw_different_numbers() -> None:
    """NumPy's hash pads with zeros: an epoch's order and the augmentation of its batch 0 were one stream."""
    order, augmentation = seeded(ORDER, 3, 7), seeded(AUGMENTATION, 3, 7, 0)
    assert not torch.equal(torch.rand(9, generator=order), torch.rand(9, generator=augmentation))


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_share_of_the_training_images_keeps_the_classes_balanced(share: float) -> None:
    """In a source that is sorted by class, as folders are."""
    labels = torch.arange(10).repeat_interleave(100)
    split = Split(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), labels, torch.arange(1000))
    kept = repeated(split, share)
    assert len(kept) == 1000
    assert kept.labels.bincount().max() - kept.labels.bincount().min() < 25
    assert len(kept.distinct()) == round(1000 * share)
    assert kept.distinct().labels.bincount().tolist() == [round(100 * share)] * 10
    assert split.distinct() is split


def test_an_error_in_a_data_set_of_ones_own_names_its_line(
    command: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = "from torch import nn\ndef network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))\n"
    Path("of_mine.py").write_text(f"{network}def images(**about):\n    return {{}}['x']\n")
    monkeypatch.syspath_prepend(tmp_path)
    for folder in ("data", "model"):
        Path("my_conf", folder).mkdir(parents=True)
    Path("my_conf/model/mine.yaml").write_text("_target_: of_mine.network\n")
    mine = ["--config-dir", "my_conf", "data=mine", "model=mine"]
    preset = Path("my_conf/data/mine.yaml")
    needed = "_target_: of_mine.images\nname: Mine\nnum_channels: 3\nnum_classes: 10\n"
    preset.write_text(f"{needed}image_size: 8\n")
    code, printed = command(*mine)
    assert (code, "KeyError('x'), of_mine.py, line 5" in printed) == (2, True), printed
    preset.write_text(needed)
    code, printed = command(*mine)
    assert (code, printed.splitlines()[-1]) == (2, "error: data.image_size is missing"), printed
