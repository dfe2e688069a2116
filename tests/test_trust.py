"""A run folder of a stranger calls nothing that the user has not named; one of the user's own needs one word."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import call, run, stop_at
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from vit_cnn import evaluate, predict, probe
from vit_cnn.config.trust import check_trusted
from vit_cnn.data import sources
from vit_cnn.errors import Refused
from vit_cnn.models import cnn
from vit_cnn.report import __main__ as report
from vit_cnn.run.config import read_config

Command = Callable[..., tuple[int, str]]

OURS = {"model": {"_target_": "vit_cnn.models.ViT", "image_size": 8}, "data": {"_target_": "vit_cnn.data.digits"}}
RESNET = {"_target_": "timm.create_model", "model_name": "resnet18", "pretrained": False, "img_size": None}
TORCHVISION = {"_target_": "torchvision.models.get_model", "name": "resnet18", "num_classes": 10}

MY_PACKAGE = """
import os
from torch import nn

print("imported")

class MyNetwork(nn.Sequential):
    def __init__(self, *, num_classes: int):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))
"""

OWN = ["model._target_=my_package.MyNetwork", *(f"~model.{key}" for key in (
    "image_size", "num_channels", "patch_size", "embed_dim", "hidden_dim", "num_heads", "num_layers", "dropout",
    "stochastic_depth", "patch_dropout", "embedding_std", "mimetic"))]  # fmt: skip
SMALL = ["data=digits", "data.max_images=100", "recipe=modern", "recipe.batch_size=20", "recipe.epochs=2",
         "trainer=cpu"]  # fmt: skip


def set_in_config(folder: str, **values: Any) -> None:
    path = Path(folder, ".hydra", "config.yaml")
    config = OmegaConf.load(path)
    for key, value in values.items():
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    OmegaConf.save(config, path)


@pytest.mark.parametrize(("key", "target"), [
    ("model", {"_target_": "shutil.copyfile", "src": "secret", "dst": "stolen"}),
    ("data", {"_target_": "logging.FileHandler", "filename": "stolen"}),
    ("model.dropout", {"_target_": "shutil.copyfile", "src": "secret", "dst": "stolen"}),
    ("data.name", [{"_target_": "shutil.copyfile", "src": "secret", "dst": "stolen"}]),
])  # fmt: skip
def test_no_command_calls_what_a_strangers_folder_names(
    key: str, target: Any, command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("secret").write_text("secret")
    run("run", "max_steps=1")
    Image.new("RGB", (8, 8)).save("photo.png")
    common = {"image_size": 32, "num_channels": 3, "num_classes": 10, "name": "Digits"} if key == "data" else {}
    set_in_config("run", **{key: common | target if isinstance(target, dict) else target})
    for main, arguments in (
        (evaluate.main, ["run"]), (predict.main, ["run", "photo.png"]), (report.main, ["run"]), (None, ["resume=run"]),
    ):  # fmt: skip
        code, printed = call(main, arguments, monkeypatch, capfd) if main else command(*arguments)
        assert code == 2, printed
        assert "is not called unasked" in printed, printed
        assert "add trust=" in printed
        assert "Traceback" not in printed
        assert not Path("stolen").exists()
        assert not Path("report").exists()


def test_a_fork_may_have_networks_and_data_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def svhn() -> None: ...

    mine = type("Mine", (nn.Module,), {"__module__": "vit_cnn.models.cnn"})
    monkeypatch.setattr(cnn, "Mine", mine, raising=False)
    monkeypatch.setattr(svhn, "__module__", "vit_cnn.data.sources")
    monkeypatch.setattr(sources, "svhn", svhn, raising=False)
    network = {"_target_": "vit_cnn.models.cnn.Mine"}
    for model in (network, {"_target_": "vit_cnn.models.permuted.Permuted", "network": network}):
        check_trusted({"model": model, "data": {"_target_": "vit_cnn.data.sources.svhn"}}, "", source="run")


@pytest.mark.parametrize(("group", "change"), [
    ("model", {"_target_": "vit_cnn.run.files.write_json"}),
    ("model", {"_target_": "vit_cnn.models.parts.freeze"}),
    ("model", {"_target_": "vit_cnn.models.vit.nn.Linear"}),
    ("model", {"_target_": "vit_cnn.models.nowhere.Net"}),
    ("data", {"_target_": "vit_cnn.data.sources.Path"}),
    ("data", {"_target_": "vit_cnn.data.sources.assemble"}),
    ("model", {"_target_": "vit_cnn.models.vit.torch.hub.load"}),
    ("model", {"_target_": "vit_cnn.data.folder"}),
    ("data", {"_target_": "vit_cnn.models.ViT"}),
    ("model", {"_args_": ["x"]}),
    ("model", {"_partial_": True}),
    ("model", RESNET | {"checkpoint_path": "evil.pt"}),
    ("model", RESNET | {"pretrained_cfg": {"file": "evil.pt"}}),
    ("model", RESNET | {"model_name": "local-dir:evil"}),
    ("model", RESNET | {"_args_": ["local-dir:evil"]}),
    ("model", TORCHVISION | {"weights": "DEFAULT"}),
    ("model", TORCHVISION | {"name": "fasterrcnn_resnet50_fpn"}),
    ("model", {"_target_": "torchvision.models.get_weight", "name": "x"}),
    ("model", {"_target_": "torchvision.models.resnet.load_state_dict_from_url"}),
])  # fmt: skip
def test_what_is_not_called_unasked(group: str, change: dict[str, Any]) -> None:
    config = OURS | {group: {**OURS[group], **change}}
    with pytest.raises(Refused, match="is not called unasked"):
        check_trusted(config, "my_package", source="run")
    with pytest.raises(Refused):
        check_trusted(config, "vit,tim,torch", source="run")  # the beginning of a name is another name


@pytest.mark.parametrize("model", [
    OURS["model"], RESNET, RESNET | {"pretrained": True, "drop_path_rate": 0.1}, TORCHVISION,
    {"_target_": "torchvision.models.resnet18", "weights": None},
])  # fmt: skip
def test_what_is_called_unasked(model: dict[str, Any]) -> None:
    check_trusted(OURS | {"model": model}, "", source="run")


@pytest.mark.parametrize("around", ["vit_cnn.models.permuted.Permuted", "vit_cnn.models.hybrid.Hybrid"])
def test_ours_within_ours_is_called_unasked_and_nothing_else(around: str) -> None:
    inside = {"_target_": "vit_cnn.models.ViT", "image_size": 8}
    check_trusted({**OURS, "model": {"_target_": around, "network": inside}}, "", source="here")
    for model in (
        {"_target_": around, "network": {**inside, "_target_": "shutil.copyfile"}},
        {"_target_": around, "network": {**inside, "network": inside}},
        {"_target_": around, "other": inside},
        {"_target_": around, "network": {**inside, "_target_": ["vit_cnn.models.ViT"]}},
        {"_target_": "vit_cnn.models.ViT", "network": inside},
    ):
        with pytest.raises(Refused, match="is not called unasked"):
            check_trusted({**OURS, "model": model}, "", source="here")


def test_a_package_is_trusted_with_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my_package.py").write_text(MY_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    for trusted in ("my_package", "another:my_package", "my_package.MyNetwork"):
        check_trusted(OURS | {"model": {"_target_": "my_package.MyNetwork"}}, trusted, source="run")
    with pytest.raises(Refused, match=r"my_package\.os\.system is posix\.system, of another package"):
        check_trusted(OURS | {"model": {"_target_": "my_package.os.system"}}, "my_package", source="run")


# Each line has nine times what the one before has: a billion laughs.
BOMB = "\n".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(20))


@pytest.mark.parametrize(("text", "message"), [
    ("", "it is not the config of a run"),
    ("just words", "it is not the config of a run"),
    ("- a\n- list", "it is not the config of a run"),
    ("{model: {_target_: [1]}, data: {_target_: x}, recipe: {}, trainer: {}}", "need a _target_"),
    ("a: !!python/object/apply:os.system [touch stolen]", "could not determine a constructor"),
    ("seed: ${oc.env:HOME}", "it holds an interpolation"),
    (f"a0: &a0 [x, x]\n{BOMB}", "it holds an alias"),
    ("model: {", "while parsing"),
    ("\0", "special characters are not allowed"),
    ("[" * 300, "while parsing"),
    ("[" * 600 + "]" * 600, "recursion"),
])  # fmt: skip
def test_a_config_that_is_none(text: str, message: str) -> None:
    Path("run/.hydra").mkdir(parents=True)
    Path("run/.hydra/config.yaml").write_text(text)
    with pytest.raises(Refused, match=r"run/\.hydra/config\.yaml cannot be used: ") as refused:
        read_config(Path("run"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not Path("stolen").exists()


@pytest.mark.parametrize(("key", "value", "message"), [
    ("trainer.device", "disk", "trainer.device=disk must be cpu"),
    ("data.image_size", "wide", "data.image_size=wide must be at least 1"),
    ("recipe.epochs", "x", "recipe.epochs: Value 'x'"),
    ("recipe.optimizer", None, "recipe.optimizer"),
])  # fmt: skip
def test_wrong_values_in_a_config(key: str, value: Any, message: str) -> None:
    run("run", "max_steps=1")
    set_in_config("run", **{key: value})
    with pytest.raises(Refused, match=message):
        read_config(Path("run"))


def test_a_network_of_ones_own_needs_one_word(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("my_package.py").write_text(MY_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        code, printed = command(*OWN, *SMALL, "hydra.run.dir=run")
    assert code == 3, printed
    going_on = printed.splitlines()[-1].strip()
    assert going_on == "python -m vit_cnn.train resume=run trust=my_package"
    code, printed = command("resume=run")
    assert code == 2
    assert "add trust=my_package" in printed
    code, printed = command(*shlex.split(going_on)[3:])
    assert code == 0, printed

    Image.new("RGB", (8, 8)).save("photo.png")
    for main, arguments, word in (
        (evaluate.main, ["run"], ["trust=my_package"]),
        (predict.main, ["run", "photo.png"], ["--trust", "my_package"]),
        (probe.main, ["shift", "run", "--images", "20"], ["--trust", "my_package"]),
        (report.main, ["run"], ["--trust", "my_package"]),
    ):
        assert call(main, arguments, monkeypatch, capfd)[0] == 2
        code, printed = call(main, [*arguments, *word], monkeypatch, capfd)
        assert code == 0, printed
    assert "is left out" not in Path("report/report.html").read_text()
    monkeypatch.setenv("VIT_CNN_TRUST", "my_package")
    assert call(evaluate.main, ["run"], monkeypatch, capfd)[0] == 0


def test_a_sweep_over_ones_own_network_reports_it(command: Command, tmp_path: Path, monkeypatch: Any) -> None:
    Path("my_package.py").write_text(MY_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    code, printed = command("-m", *OWN, *SMALL, "max_steps=2", "seed=1", "hydra.sweep.dir=sweep")
    assert code == 0, printed
    assert Path("sweep/report/report.html").exists()
    code, printed = command("-m", *OWN, *SMALL, "max_steps=2", "seed=1", "hydra.sweep.dir=sweep")
    assert code == 0, printed
    assert "skipped" in printed


def test_a_report_leaves_out_what_it_cannot_trust(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("ours", "theirs"):
        run(name, "max_steps=1")
    set_in_config("theirs", model={"_target_": "shutil.copyfile"})
    code, printed = call(report.main, ["ours", "theirs", "--no-inside"], monkeypatch, capfd)
    assert code == 0, printed
    assert "theirs is left out: theirs/.hydra/config.yaml: model._target_=shutil.copyfile" in caplog.text
    assert "theirs" not in Path("report/runs.csv").read_text()


def test_a_network_of_a_billion_layers_is_refused_before_it_is_built(command: Command) -> None:
    run("run", "max_steps=1")
    Path("run/result.json").unlink()
    set_in_config("run", **{"model.num_layers": 10**9})
    code, printed = command("resume=run")
    assert code == 2, printed
    assert "num_layers=1000000000 must be at most 1000" in printed


def test_a_run_without_a_checkpoint_downloads_nothing(command: Command) -> None:
    run("run", "max_steps=1")
    Path("run/last.pt").unlink()
    model = {"_target_": "timm.create_model", "model_name": "resnet18", "pretrained": True}
    set_in_config("run", model=model)
    code, printed = command("resume=run")
    assert code == 2, printed
    assert "run has no last.pt, and model.pretrained=true would download weights" in printed
