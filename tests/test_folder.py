"""Folders of images: every kind of file, every fault, and the cache that must notice any change."""

import contextlib
import io
import multiprocessing
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, composed
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image

from vit_cnn.data import Dataset
from vit_cnn.errors import Refused
from vit_cnn.images.decode import decode
from vit_cnn.images.read import Images, read_folder
from vit_cnn.images.tree import class_names, common_image_size

Command = Callable[..., tuple[int, str]]


def load(*overrides: str) -> Dataset:
    data: Dataset = instantiate(composed("trainer=cpu", "data=folder", *overrides).data)
    return data


def read(root: Path, cache: Path, *, skip_bad: bool = False, image_size: int = 16) -> Images:
    return read_folder(root, image_size=image_size, num_channels=3, fit="crop", skip_bad=skip_bad, cache=cache)


@pytest.fixture
def class_tree(tmp_path: Path) -> Path:
    """A folder of classes without train and test: 30 images each, at different depths."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(30):
            folder = tmp_path / "pets" / name / ("" if number < 20 else "more/of them")
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 + number, 30), (number, 100 * label, 50)).save(folder / f"{number}.png")
    return tmp_path / "pets"


# What can be read


def test_train_and_test_folders(image_tree: Path) -> None:
    data = load(f"data.root={image_tree}")
    assert data.name == "images"
    assert data.classes == ["blue sky", "grün"]
    assert (len(data.train), len(data.val), len(data.test)) == (36, 4, 12)
    assert data.train.images.shape == (36, 3, 16, 16)  # the size of the files
    with Image.open(image_tree / "test" / "grün" / "0.png") as image:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    position = (data.test.labels == 1).nonzero()[0, 0]
    assert torch.equal(data.test.images[position], pixels)
    assert load(f"data.root={image_tree}", "data.image_size=24").train.images.shape[1:] == (3, 24, 24)
    assert load(f"data.root={image_tree}", "data.num_channels=1").train.images.shape[1:] == (1, 16, 16)


def test_a_folder_val_holds_the_validation_images(image_tree: Path) -> None:
    without = load(f"data.root={image_tree}")
    shutil.copytree(image_tree / "test", image_tree / "val")
    data = load(f"data.root={image_tree}")
    assert (len(data.train), len(data.val), len(data.test)) == (40, 12, 12)
    assert torch.equal(data.val.images, data.test.images)
    assert data.fingerprint != without.fingerprint
    (image_tree / "val" / "grün").rename(image_tree / "val" / "green")
    with pytest.raises(Refused, match=r"class 'green' is in val but not in train"):
        class_names(image_tree)


def test_one_folder_of_classes_is_split_the_same_way_every_time(class_tree: Path) -> None:
    options = [f"data.root={class_tree}", "data.image_size=16"]
    data = load(*options)
    assert (len(data.train), len(data.val), len(data.test)) == (44, 4, 12)
    for split, each in (("train", 22), ("val", 2), ("test", 6)):
        assert torch.bincount(getattr(data, split).labels).tolist() == [each, each], split
    seen = torch.cat([data.train.images, data.val.images, data.test.images]).flatten(1)
    assert len(seen.unique(dim=0)) == 60  # no image in two splits
    assert load(*options, "seed=4").fingerprint == data.fingerprint
    other = load(*options, "data.test_fraction=0.5")
    assert len(other.test) == 30
    assert other.fingerprint != data.fingerprint


def test_oblong_images_need_a_size(class_tree: Path) -> None:
    with pytest.raises(
        Refused, match=r"data\.image_size has to be given, such as data\.image_size=32: the images are 20×30"
    ):
        common_image_size(class_tree)


def test_crop_and_squash(class_tree: Path) -> None:
    for path in class_tree.rglob("*.png"):
        stripes = np.zeros((10, 30, 3), dtype=np.uint8)
        stripes[:, 10:20] = 255  # the central square is white, what lies beside it black
        Image.fromarray(stripes).save(path)
    options = [f"data.root={class_tree}", "data.image_size=8"]
    assert load(*options).train.images.float().mean() > 250
    assert 80 < load(*options, "data.fit=squash").train.images.float().mean() < 90


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    small = decode((tmp_path / "board.png").read_bytes(), image_size=8, num_channels=1, fit="crop")
    assert np.abs(small.astype(int) - 128).max() < 10  # every other pixel would be all black or all white


GREY = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=2)


def save_kinds(folder: Path) -> dict[str, np.ndarray]:
    """One image in many formats and modes; what each should become, to within compression."""
    colour, grey = Image.fromarray(COLOUR), Image.fromarray(GREY)
    three_greys = np.stack([GREY] * 3, axis=2)
    holes = np.zeros((32, 32), dtype=np.uint8)
    holes[:16] = 255  # the lower half is transparent
    on_white = COLOUR.copy()
    on_white[16:] = 255
    expected = {}

    def save(name: str, image: Image.Image, becomes: np.ndarray, **options: object) -> None:
        image.save(folder / name, **options)
        expected[name] = becomes

    save("rgb.png", colour, COLOUR)
    save("rgb.JPG", colour, COLOUR, quality=95, subsampling=0)
    save("rgb.jpeg", colour, COLOUR, quality=95, subsampling=0, progressive=True)
    save("rgb.webp", colour, COLOUR, lossless=True)
    save("rgb.bmp", colour, COLOUR)
    save("rgb.tif", colour, COLOUR, compression="tiff_lzw")
    save("cmyk.jpg", colour.convert("CMYK"), COLOUR, quality=95, subsampling=0)
    save("cmyk.tiff", colour.convert("CMYK"), COLOUR)
    save("grey.png", grey, three_greys)
    save("grey.jpg", grey, three_greys, quality=95)
    save("bits.png", grey.point(lambda value: 255 * (value > 127)).convert("1"), (three_greys > 127) * 255)
    save("palette.png", colour.quantize(256), COLOUR)
    save("animation.gif", colour, COLOUR, save_all=True, append_images=[Image.new("RGB", (32, 32))])
    alpha = colour.copy()
    alpha.putalpha(Image.fromarray(holes))
    save("alpha.png", alpha, on_white)
    save("alpha.webp", alpha, on_white, lossless=True)
    save(
        "grey alpha.png",
        Image.merge("LA", [grey, Image.fromarray(holes)]),
        np.where(holes[..., None], three_greys, 255),
    )
    hollow = grey.convert("P")
    save("hollow.png", hollow, np.where(three_greys == 0, 255, three_greys), transparency=0)
    sixteen = Image.fromarray(GREY.astype(np.uint16) * 257)
    save("16 bits.png", sixteen, three_greys)
    save("16 bits.tif", sixteen, three_greys)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side: to be turned by 90°
    save("turned.jpg", colour.rotate(90), COLOUR, exif=exif, quality=95, subsampling=0)
    return expected


def test_every_kind_of_image(tmp_path: Path) -> None:
    for name, expected in save_kinds(tmp_path).items():
        pixels = decode((tmp_path / name).read_bytes(), image_size=32, num_channels=3, fit="crop").transpose(1, 2, 0)
        worst = 60 if name in ("palette.png", "animation.gif") else 20  # 256 colours for 1,024
        difference = np.abs(pixels.astype(int) - expected)
        assert difference.max() <= worst, (name, difference.max())
        assert difference.mean() < worst / 6, (name, difference.mean())
        grey = decode((tmp_path / name).read_bytes(), image_size=20, num_channels=1, fit="squash")
        assert grey.shape == (1, 20, 20), name


@pytest.mark.parametrize("classes", [1, 1000])
def test_number_of_classes(classes: int, tmp_path: Path) -> None:
    for label in range(classes):
        (tmp_path / "many" / f"{label:04}").mkdir(parents=True)
        for number in range(4 if classes > 1 else 20):
            Image.new("L", (8, 8), (label + number) % 256).save(tmp_path / "many" / f"{label:04}" / f"{number}.bmp")
    data = load("data.root=many", "data.test_fraction=0.5", "data.val_fraction=0.5", "model=cnn")
    assert len(data.classes) == classes
    assert len(data.test.labels.unique()) == classes


# Faults


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG image that claims this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def tiff_of_numbers() -> bytes:
    content = io.BytesIO()
    Image.new("F", (8, 8)).save(content, "TIFF")
    return content.getvalue()


BAD = {
    "empty": b"",
    "text": b"not an image",
    "truncated": None,
    "bomb": png_of(100_000, 100_000),
    "header only": png_of(16, 16),
    "numbers": tiff_of_numbers(),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_or_skipped(kind: str, image_tree: Path, command: Command) -> None:
    victim = image_tree / "train" / "grün" / "7.png"
    victim.write_bytes(victim.read_bytes()[:300] if BAD[kind] is None else BAD[kind])
    options = [*TINY, "data=folder", f"data.root={image_tree}", "model.patch_size=8", "hydra.run.dir=run"]
    code, printed = command(*options)
    assert code == 2
    assert f"data.root: {victim} cannot be read as an image" in printed
    assert "data.skip_bad=true" in printed
    assert not Path("run").exists()
    assert not list(Path("cache").rglob("*.npz")), "half a cache"

    for _ in range(2):  # decoded, then from the cache
        code, printed = command(*options, "data.skip_bad=true", "max_steps=1")
        assert code == 0, printed
        (skipped,) = Path("run/skipped.txt").read_text().splitlines()
        assert skipped.startswith(f"{victim} cannot be read as an image: ")
        shutil.rmtree("run")
    code, printed = command(*options)  # what the cache holds does not make the file good
    assert code == 2
    assert str(victim) in printed


def test_one_bad_file_among_many(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "many" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "many" / name / "0.bmp")
        for number in range(1, 1500):
            os.link(tmp_path / "many" / name / "0.bmp", tmp_path / "many" / name / f"{number}.bmp")
    (tmp_path / "many/b/1234.bmp").unlink()
    (tmp_path / "many/b/1234.bmp").write_bytes(b"BM broken")
    with pytest.raises(Refused, match=r"many/b/1234\.bmp cannot be read"):
        read(tmp_path / "many", tmp_path / "c")
    found = read(tmp_path / "many", tmp_path / "c", skip_bad=True)
    assert len(found.skipped) == 1
    assert len(found.images["all"]) == len(found.labels["all"]) == 2999
    assert multiprocessing.active_children() == []


def test_a_file_without_permission_is_named(image_tree: Path) -> None:
    shared = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    shutil.copytree(image_tree, shared / "images")
    shared.chmod(0o755)
    (shared / "images" / "test" / "grün" / "2.png").chmod(0)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(PermissionError):
            os.seteuid(65534)  # root may read everything
        try:
            read(shared / "images", shared / "c")
        except Refused as refusal:
            os._exit(0 if "2.png cannot be read as an image: Permission denied" in str(refusal) else 1)
        os._exit(2)
    _, status = os.waitpid(child, 0)
    shutil.rmtree(shared)
    assert os.waitstatus_to_exitcode(status) == 0


def test_links(image_tree: Path, tmp_path: Path) -> None:
    inside = image_tree / "train" / "grün" / "linked.png"
    inside.symlink_to(image_tree / "train" / "grün" / "0.png")
    assert len(read(image_tree, tmp_path / "c").images["train"]) == 41
    inside.unlink()
    inside.symlink_to(image_tree / "train" / "grün" / "nothing.png")
    with pytest.raises(Refused, match=r"linked\.png cannot be read as an image: No such file"):
        read(image_tree, tmp_path / "c")
    inside.unlink()
    Image.new("RGB", (16, 16)).save(tmp_path / "outside.png")
    inside.symlink_to(tmp_path / "outside.png")
    with pytest.raises(Refused, match=r"the link .*linked\.png leaves .*images"):
        read(image_tree, tmp_path / "c")
    inside.unlink()
    inside.symlink_to(image_tree / "train")  # would go round in circles
    with pytest.raises(Refused, match=r"linked\.png is a link to a folder"):
        read(image_tree, tmp_path / "c")


@pytest.mark.parametrize(
    "name", ["with space", "line\nbreak", "日本 é", b"\xff bytes".decode("utf-8", "surrogateescape")]
)
def test_odd_names(name: str, image_tree: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (image_tree / split / "grün").rename(image_tree / split / name)
        (image_tree / split / name / "0.png").rename(image_tree / split / name / f"{name}.png")
    assert len(read(image_tree, tmp_path / "c").images["train"]) == 40
    assert name in class_names(image_tree)
    (image_tree / "train" / name / f"{name}.png").write_bytes(b"broken")
    with pytest.raises(Refused) as refusal:
        read(image_tree, tmp_path / "c")
    message = str(refusal.value)
    assert "cannot be read" in message
    assert "\n" not in message
    message.encode()  # can be printed


def test_trees_that_cannot_be_used_are_refused(image_tree: Path, tmp_path: Path) -> None:
    def refused(root: Path, match: str) -> None:
        with pytest.raises(Refused, match=match):
            read(root, tmp_path / "c")

    (image_tree / "train" / "empty").mkdir()
    refused(image_tree, r"class 'empty' is in train but not in test")
    (image_tree / "test" / "empty").mkdir()
    refused(image_tree, r"class folder .*train/empty holds no images")
    for split in ("train", "test"):
        (image_tree / split / "empty").rmdir()
        (image_tree / split / "GRÜN").mkdir()
    refused(image_tree, r"the classes 'GRÜN' and 'grün' differ only by case")
    refused(tmp_path / "nowhere", r"data\.root=.*nowhere: there is no such folder")
    (tmp_path / "bare").mkdir()
    refused(tmp_path / "bare", r"holds no class folders")
    (tmp_path / "bare" / "train").mkdir()
    refused(tmp_path / "bare", r"there is a folder train but no folder test")
    (tmp_path / "bare" / "val").mkdir()
    refused(tmp_path / "bare", r"there are folders train and val but no folder test")
    (image_tree / "Validation").mkdir()
    refused(image_tree, r"Validation is not the name of a split: they are train, test and, if you like, val")
    (tmp_path / "valuable" / "val").mkdir(parents=True)
    refused(tmp_path / "valuable", r"the folder val needs train and test beside it; if val is a class, rename it")
    (tmp_path / "alike" / "training").mkdir(parents=True)
    refused(tmp_path / "alike", r"class folder .*training holds no images")
    (tmp_path / "alike" / "Valid").mkdir()
    refused(tmp_path / "alike", r"Valid is not the name of a split")


def test_too_few_images_for_three_splits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "few" / name / "0.png")
    with pytest.raises(Exception, match=r"few has too few images, 2 training, 0 validation and 0 test images"):
        load("data.root=few", "model=cnn")


def test_a_class_without_training_images_is_named_before_the_start(image_tree: Path) -> None:
    for path in (image_tree / "train" / "grün").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(InstantiationException, match="no training image of 1 of its classes, such as 'grün'"):
        instantiate(composed("data=folder", f"data.root={image_tree}", "data.skip_bad=true", "trainer=cpu").data)
