"""Whatever is typed, or stands in a file, is used or refused in one line; what was found so is a test of its own."""

import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY, composed, run
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vit_cnn import config
from vit_cnn.config.schema import flat
from vit_cnn.data import folder
from vit_cnn.errors import Refused, is_expected, one_line
from vit_cnn.images.decode import decode, why_unreadable
from vit_cnn.report.groups import label_runs
from vit_cnn.report.page import Page
from vit_cnn.report.results import add_runs, cost_of
from vit_cnn.run.display import print_results
from vit_cnn.run.reading import find_runs, read_rows
from vit_cnn.run.result import read_result

few = settings(
    max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
fewer = settings(few, max_examples=10)

VALUES = st.one_of(
    st.sampled_from(["-1", "0", "1", "2", "1e308", "1e-320", "nan", "inf", "-inf", "null", "true", "[]", "[1,2]", "{}",
                     "{a:1}", "''", "x", "[1,[2]]", "[null,1]", "[nan,nan]", "1.5", "cuda:99", "'${seed}'",
                     "${oc.env:HOME}", "${nothing}", "???", "'a b'", "é", "🙂"]),
    st.text(max_size=8), st.integers(-9, 99).map(str), st.floats().map(str),
)  # fmt: skip


@pytest.fixture(scope="module")
def keys() -> list[str]:
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        from omegaconf import OmegaConf

        return sorted(flat(OmegaConf.to_container(compose("config", overrides=TINY))))  # type: ignore[arg-type]


def checked(*overrides: str) -> Any:
    """The config, or ``None`` where it was refused in a line."""
    try:
        return composed(*TINY, *overrides)
    except Exception as error:
        assert is_expected(error), overrides
        assert "\n" not in one_line(error), overrides
        assert one_line(error).strip(), overrides
        return None


@few
@given(st.data())
def test_any_value_of_any_key(keys: list[str], data: st.DataObject) -> None:
    checked(f"{data.draw(st.sampled_from(keys))}={data.draw(VALUES)}")


NUMBERS = ["recipe.optimizer.lr", "recipe.optimizer.weight_decay", "recipe.label_smoothing", "recipe.grad_clip",
           "recipe.ema_decay", "recipe.schedule.warmup_epochs", "recipe.schedule.gamma", "recipe.augment.crop_padding",
           "model.dropout", "model.stochastic_depth", "model.patch_dropout", "model.embedding_std",
           "data.val_fraction"]  # fmt: skip


@fewer
@given(st.sampled_from(NUMBERS), st.one_of(st.floats(0, 1), st.floats(min_value=0), st.integers(0, 100)))
def test_a_number_that_is_accepted_trains_two_steps(key: str, value: float) -> None:
    from vit_cnn.training.loop import train

    if cfg := checked(f"{key}={value}", "max_steps=2", "model.num_layers=1"):
        with tempfile.TemporaryDirectory() as folder_:
            try:
                result = train(cfg, Path(folder_))
            except Exception as error:
                assert is_expected(error)
                assert "\n" not in one_line(error)
            else:
                assert math.isfinite(result["test/loss"])


def image_bytes(kind: str) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, format=kind)
    return content.getvalue()


IMAGES = [image_bytes(kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")]


@st.composite
def damaged_images(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(IMAGES)))
    for _ in range(draw(st.integers(1, 5))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))] + draw(st.binary(max_size=8)))


@pytest.mark.filterwarnings("ignore")
@settings(few, max_examples=200)
@given(
    st.one_of(damaged_images(), st.binary(max_size=64)), st.sampled_from([1, 3]), st.sampled_from(["crop", "squash"])
)
def test_bytes_are_an_image_or_named(content: bytes, channels: int, fit: str) -> None:
    try:
        array = decode(content, image_size=8, num_channels=channels, fit=fit)
    except Exception as error:
        assert "\n" not in why_unreadable("photo.jpg", content, error)
    else:
        assert (array.shape, array.dtype) == ((channels, 8, 8), np.uint8)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
ROWS = st.dictionaries(st.sampled_from(["step", "epoch", "seconds", "val/acc", "train/loss"]), JSON)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder_ = tmp_path_factory.mktemp("fuzz") / "run"
    run(str(folder_), "max_steps=2")
    return folder_


@settings(few, max_examples=100)
@given(st.lists(st.one_of(ROWS.map(json.dumps), JSON.map(json.dumps), st.text(max_size=20)), max_size=4))
def test_any_metrics(trained: Path, lines: list[str]) -> None:
    (trained / "metrics.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        rows = read_rows(trained)
    except Refused as error:
        assert "is damaged" in str(error)
    else:
        assert all(math.isfinite(row[key]) for row in rows for key in ("step", "epoch", "seconds"))


def paths(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        path for key, value in values.items()
        for path in ((*prefix, key), *(paths(value, (*prefix, key)) if isinstance(value, dict) else ()))
    ]  # fmt: skip


@settings(few, max_examples=100)
@given(st.data())
def test_any_result(trained: Path, data: st.DataObject) -> None:
    path = trained / "result.json"
    before = path.read_text()
    result = json.loads(before)
    (trained / "metrics.jsonl").write_text("")
    *outer, last = data.draw(st.sampled_from(paths(result)))
    part = result
    for key in outer:
        part = part[key]
    part[last] = data.draw(JSON)
    path.write_text(json.dumps(result))
    try:
        runs = label_runs(find_runs([trained]))
        print_results([read_result(trained)])
        cost_of(runs)
        page = Page(folder=trained / "report", title="", subtitle="", conclusion="")
        page.section("Results")
        add_runs(page, runs, [])
    except Refused as error:
        assert "result.json" in str(error)
    finally:
        path.write_text(before)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)


@fewer
@given(st.lists(NAMES, min_size=2, max_size=3, unique=True), NAMES)
def test_any_name_of_a_class_or_a_file(classes: list[str], name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        for label, each in enumerate(classes):
            inside = Path(root, "images", each)
            inside.mkdir(parents=True, exist_ok=True)
            for number in range(5):
                Image.new("RGB", (4, 4), (label, number, 0)).save(inside / f"{name}{number}.png"[-200:], format="PNG")
        try:
            data = folder(
                name="x", root=f"{root}/images", image_size=4, num_channels=3, num_classes=len(classes), fit="crop",
                val_fraction=0.3, test_fraction=0.3, max_images=None, skip_bad=False,
                train_share=1.0, cache=f"{root}/cache",
            )  # fmt: skip
        except Refused as error:
            assert str(error).isprintable()
        else:
            assert data.classes == sorted(classes)
