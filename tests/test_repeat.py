"""The command that a report gives for a group of runs: it composes the same settings, and can be pasted."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from helpers import TINY, composed
from omegaconf import OmegaConf

from vit_cnn.report import repeat
from vit_cnn.report.groups import label_runs
from vit_cnn.report.repeat import command_of, overrides_of, settings_of
from vit_cnn.run.reading import find_runs


def plain(*overrides: str) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(composed(*overrides)))


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=cnn", "data=cifar10", "trainer=cpu"],
        [*TINY, "max_steps=3", "recipe.grad_clip=null"],
        ["experiment=demo", "model=cnn", "trainer=cpu"],
        ["data=digits", "data.image_size=64", "recipe=modern", "recipe.augment.crop_scale=[0.8,1]", "trainer=cpu"],
        ["data=cifar100", "data.root='a b,\\'c\\''", "data.name='true'", "recipe.optimizer.lr=1e-5", "trainer=cpu"],
    ],
    ids=lambda overrides: " ".join(overrides)[:30],
)
def test_the_overrides_give_the_same_settings(overrides: list[str]) -> None:
    config = plain(*overrides)
    again = overrides_of(config)
    assert again is not None
    assert settings_of(plain(*again)) == settings_of(config)


def test_what_the_presets_say_is_not_said_again() -> None:
    config = plain(
        "model=cnn", "data=digits", "data.image_size=64", "recipe=modern", "trainer=cpu", "wandb.mode=offline"
    )
    shortest = ["model=cnn", "data=digits", "recipe=modern", "trainer=cpu", "data.image_size=64"]
    assert overrides_of(config) == shortest  # and not model.image_size, which follows from it


def test_a_folder_of_images_need_not_be_read_again(image_tree: Path) -> None:
    config = plain("data=folder", f"data.root={image_tree}", "trainer=cpu", "model.patch_size=8")
    image_tree.rename("elsewhere")
    expected = ["model=vit", "data=folder", "recipe=deck", "trainer=cpu", "model.patch_size=8", "data.name=images"]
    expected += [f"data.root={image_tree}", "data.image_size=16", "data.num_classes=2"]
    assert overrides_of(config) == expected


def test_a_network_of_ones_own_that_conf_does_not_have() -> None:
    config = plain("model=cnn", "data=digits")
    config["model"]["_target_"] = "my_package.MyNetwork"
    assert overrides_of(config) is None


def test_a_file_of_a_fork_that_builds_on_others_in_its_own_way_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(repeat.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("defaults:\n  - backbone: small\n")
    (tmp_path / "conf" / "model" / "other.yaml").write_text("defaults:\n  - /model/vit\n")
    monkeypatch.setattr(repeat, "CONF", tmp_path / "conf")
    assert repeat.options_like("model", {"_target_": "vit_cnn.models.CNN"}) == ["cnn"]


def test_the_command_repeats_a_group(command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vit_cnn.report.jobs.write_report", lambda folders, sweep_dir: None)
    for seed in (3, 4):
        assert command(*TINY, f"seed={seed}", "max_steps=2", f"hydra.run.dir=first/{seed}")[0] == 0
    said = command_of(label_runs(find_runs([Path("first")])))
    assert said is not None
    python, dash_m, module, *arguments = shlex.split(said)
    assert (python, dash_m, module) == ("python", "-m", "vit_cnn.train")
    code, printed = command(*arguments)
    assert code == 0, printed
    results = [json.loads(path.read_text()) for path in sorted(Path().rglob("result.json"))]
    assert sorted(result["seed"] for result in results) == [3, 3, 4, 4]
    assert len({(result["seed"], result["test/loss"]) for result in results}) == 2
