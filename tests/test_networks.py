"""Networks of other people: what a YAML names is trained, measured and reported as ours are, or refused in a line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import call, composed
from PIL import Image

from vit_cnn import estimate, evaluate, predict
from vit_cnn.config.network import build_network
from vit_cnn.config.target import arguments, network_name
from vit_cnn.errors import Refused
from vit_cnn.report.build import build
from vit_cnn.run import media
from vit_cnn.run.reading import find_runs
from vit_cnn.run.trained import load_run
from vit_cnn.training.loop import train
from vit_cnn.training.state import build_state

Command = Callable[..., tuple[int, str]]

SMALL = ["data=digits", "data.max_images=64", "recipe=modern", "recipe.batch_size=16", "max_steps=2", "trainer=cpu"]

PRESETS = {
    "mobilenetv3_small_050": ["model=timm", "model.model_name=mobilenetv3_small_050"],
    "vit_tiny_patch16_224": ["model=timm", "model.model_name=vit_tiny_patch16_224", "+model.depth=2"],
    "gmlp_ti16_224": ["model=timm", "model.model_name=gmlp_ti16_224"],
    "shufflenet_v2_x0_5": ["model=torchvision", "model.name=shufflenet_v2_x0_5"],
    "mobilenet_v3_small": ["model=torchvision", "model.name=mobilenet_v3_small"],
}

RESNET = ["model=timm", "model.model_name=resnet18"]

NETWORKS = """
import enum
from typing import TYPE_CHECKING, Callable, Literal

import torch
from torch import nn

Pool = enum.Enum("Pool", ["MEAN", "MAX"])

class Unusual(nn.Sequential):
    def __init__(
        self,
        num_classes: int,
        kernel: int | tuple[int, int] = (3, 3),
        width: int | None = None,
        act: type[nn.Module] = nn.ReLU,
        norm: Callable[..., nn.Module] | None = None,
        mode: Literal["same", "valid"] = "same",
        pool: Pool = Pool.MEAN,
        **kwargs: object,
    ) -> None:
        width = 4 if width is None else width
        convolution = nn.Conv2d(3, width, kernel, padding=mode, **kwargs)
        super().__init__(convolution, act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
        self.rate = torch.linspace(0, 1, 3)[1].item()  # impossible on the meta device

def plain(num_classes: int = 10, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, width), nn.Linear(width, num_classes))

def noted(num_classes: int, pretrained: bool) -> nn.Module:
    network = plain(num_classes)
    network.is_pretrained = pretrained
    return network

class Broken(nn.Module):
    def forward(self, images):
        return self.head(images)

class Missing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = {}["width"]

def nothing() -> int:
    return 3

def frozen(num_classes: int = 10) -> nn.Module:
    return plain(num_classes).requires_grad_(False)

def lazy(num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 4, 4), nn.Linear(4 * 8 * 8, 10)
    def forward(self, images):
        features = self.convolution(images)
        return self.head(features.view(len(features), -1))

class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = plain()
    def forward(self, images):
        return (self.network(images), images) if self.training else self.network(images)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Write a YAML file for a target in ``networks_of_mine.py``; returns the overrides that choose it."""
    (tmp_path / "networks_of_mine.py").write_text(NETWORKS)
    (tmp_path / "error_of_mine.py").write_text("def net(:\n")
    (tmp_path / "import_of_mine.py").write_text("\nimport no_such_library\n")
    (tmp_path / "conf" / "model").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)

    def write(target: str, *lines: str) -> list[str]:
        (tmp_path / "conf" / "model" / "own.yaml").write_text("\n".join([f"_target_: {target}", *lines]))
        return ["hydra.searchpath=[file://conf]", "model=own", *SMALL]

    return write


@pytest.mark.parametrize("name", PRESETS)
def test_presets_train_at_32_pixels(name: str) -> None:
    Path("run").mkdir()
    cfg = composed(*PRESETS[name], *SMALL)
    assert cfg.name == f"{name.replace('_', '-')}-digits"
    result = train(cfg, Path("run"))
    assert (result["model"], result["steps"]) == (name, 2)
    assert result["flops_per_image"] > 0


def test_a_vit_of_torchvision_takes_its_size_with_a_plus() -> None:
    vit = ["model=torchvision", "model.name=vit_b_16", *SMALL]
    with pytest.raises(Refused, match=r"Wrong image height! Expected 224 but got 32! \(torchvision.models.get_model\)"):
        composed(*vit)
    assert composed(*vit, "+model.image_size=32").model.image_size == 32


def test_a_network_that_takes_one_memory_format_alone(own: Callable[..., list[str]]) -> None:
    mine = [*own("networks_of_mine.Viewing"), *SMALL]
    with pytest.raises(Refused, match=r"Use .reshape\(...\) instead. .*networks_of_mine.py, line \d+"):
        composed(*mine)
    composed(*mine, "trainer.channels_last=false")


def test_layers_of_other_networks_all_learn_alike() -> None:
    with pytest.raises(Refused, match=r"not those of ResNet: give recipe.freeze_blocks=0 recipe.layer_decay=1"):
        composed(*RESNET, *SMALL, "recipe.layer_decay=0.75")


def test_sizes_flow_into_timm() -> None:
    grey = composed("model=timm", "model.model_name=test_vit", *SMALL, "data.num_channels=1", "data.image_size=64")
    assert (grey.model.in_chans, grey.model.img_size, grey.model.num_classes) == (1, 64, 10)
    assert not grey.model.pretrained
    assert composed("model=timm", "model.model_name=test_resnet", *SMALL).model.img_size is None


def test_what_follows_a_training(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Evaluation, prediction, the report and pictures of attention of a network of timm."""
    code, printed = command("model=timm", "model.model_name=test_resnet", *SMALL)
    assert code == 0, printed
    (run_dir,) = Path("runs/test-resnet-digits").iterdir()
    code, printed = call(evaluate.main, [str(run_dir), "split=val"], monkeypatch, capfd)
    assert code == 0, printed
    assert "test_resnet on Digits" in printed
    result = json.loads((run_dir / "result.json").read_text())
    assert f"{result['val/acc']:.6f}" in printed

    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save("photo.png")
    code, printed = call(predict.main, [str(run_dir), "photo.png"], monkeypatch, capfd)
    assert code == 0, printed
    code, printed = call(predict.main, [str(run_dir), "photo.png", "--attention", "a.png"], monkeypatch, capfd)
    assert code == 2
    assert "has no attention maps" in printed

    page = build(find_runs([run_dir]), Path("report")).read_text()
    assert "test_resnet on Digits" in page
    assert "left out" not in page
    assert Path("report/sizes_test_resnet.csv").exists()
    assert not Path("report/attention.png").exists()


def test_pictures_of_attention_are_absent() -> None:
    network = build_network(composed("model=timm", "model.model_name=test_resnet", *SMALL).model)
    assert media.Media.attention(None, network) == {}


@pytest.mark.parametrize(("overrides", "message"), [
    (["model=timm"], "model.model_name is missing: give it on the command line, model.model_name=…"),
    (["model=torchvision"], "model.name is missing: give it on the command line, model.name=…"),
    (["model=timm", "model.model_name=resnt18"], "model: Unknown model (resnt18) (timm.create_model)"),
    (["model=torchvision", "model.name=resnt18"], "model: Unknown model resnt18 (torchvision.models.get_model)"),
    ([*RESNET, "+model.widht=3"],
     "model: ResNet.__init__() got an unexpected keyword argument 'widht' (timm.create_model)"),
    ([*PRESETS["mobilenet_v3_small"], "+model.weights=DEFAULT"], "expected value 1000 but got 10 instead"),
    ([*RESNET, "model.patch_size=4"],
     "which has model_name, pretrained, num_classes, in_chans, img_size; +model.patch_size=… hands it to"),
    (["model=timm", "model.model_nam=resnet18"], "model.model_nam is not a key: did you mean model.model_name?"),
    ([*RESNET, "model.pretrained=perhaps"], "model.pretrained: Value 'perhaps' is not a valid bool"),
    (["model._target_=torchvision.models.resnt18"],
     "torchvision.models has no class or function resnt18: did you mean resnet18?"),
    (["+model.dropot=0.1"], "model.dropot is not a key: did you mean model.dropout?"),
])  # fmt: skip
def test_mistakes_with_networks_of_others(command: Command, overrides: list[str], message: str) -> None:
    code, printed = command(*overrides, *SMALL)
    assert code == 2
    assert message in printed
    assert len(printed.splitlines()) == 2  # the first says that it starts


def test_without_timm_it_says_what_to_install(
    command: Command, own: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NotInstalled:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "timm":
                raise ModuleNotFoundError("No module named 'timm'", name=name)

    monkeypatch.setattr(sys, "meta_path", [NotInstalled, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    code, printed = command(*RESNET, *SMALL)
    assert code == 2
    assert printed.endswith("\nerror: model=timm needs timm: pip install timm\n")
    code, printed = command(*own("timm.create_model", "model_name: resnet18"))
    assert code == 2
    assert printed.endswith("\nerror: model._target_=timm.create_model needs timm: pip install timm\n")


@pytest.mark.parametrize(("target", "lines", "message"), [
    ("networks_of_mine.plain", ["widht: 3"], "model.widht is not a key: did you mean model.width?"),
    ("networks_of_mine.plain", ["width: two"], "model.width: Value 'two' of type 'str' could not be converted to Int"),
    ("networks_of_mine.plain", ["num_classes: 7"], "into [2, 7], not into logits [2, 10]"),
    ("networks_of_mine.plan", [], "networks_of_mine has no class or function plan: did you mean plain?"),
    ("networks_of_yours.plain", [], "there is no module networks_of_yours in this folder, on PYTHONPATH or installed"),
    ("networks_of_mine.Unusual", [], "model.num_classes is missing: Unusual needs num_classes"),
    ("networks_of_mine.Unusual", ["num_classes: 10", "widht: 3"],
     "got an unexpected keyword argument 'widht' (networks_of_mine.Unusual, networks_of_mine.py, line 23)"),
    ("networks_of_mine.Broken", [],
     "'Broken' object has no attribute 'head' (networks_of_mine.Broken, networks_of_mine.py, line 37)"),
    ("networks_of_mine.Missing", [], "KeyError: 'width' (networks_of_mine.Missing, networks_of_mine.py, line 42)"),
    ("networks_of_mine.nothing", [], "networks_of_mine.nothing returns a int, not a torch.nn.Module"),
    ("networks_of_mine.frozen", [], "networks_of_mine.frozen has no parameters that can be trained"),
    ("networks_of_mine.lazy", [], "networks_of_mine.lazy has lazy layers"),
    ("networks_of_mine.Two", [], "networks_of_mine.Two, in training, turns images [2, 3, 32, 32] into tuple"),
    ("error_of_mine.net", [], "cannot be imported: SyntaxError: invalid syntax (error_of_mine.py, line 1)"),
    ("import_of_mine.Net", [],
     "cannot be imported: ModuleNotFoundError: No module named 'no_such_library', import_of_mine.py, line 2"),
    ("", [], "model._target_ is missing: it takes the dotted path of a class or function"),
])  # fmt: skip
def test_mistakes_in_a_network_of_ones_own(
    command: Command, own: Callable[..., list[str]], target: str, lines: list[str], message: str
) -> None:
    code, printed = command(*own(target, *lines))
    assert code == 2
    assert message in printed
    assert len(printed.splitlines()) == 2  # the first says that it starts
    assert not Path("runs").exists()


def test_unusual_annotations_and_a_look_at_values(command: Command, own: Callable[..., list[str]]) -> None:
    """A union with a list, a class, an enumeration, ``**kwargs``, and ``.item()`` in the constructor."""
    lines = ["num_classes: ${data.num_classes}", "kernel: [1, 3]", "width: 5", "bias: false"]
    code, printed = command(*own("networks_of_mine.Unusual", *lines))
    assert code == 0, printed
    (path,) = Path("runs/unusual-digits").glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["params"] == 5 * 3 * 1 * 3 + 5 * 10 + 10
    assert result["config"]["model"] == {
        "_target_": "networks_of_mine.Unusual", "num_classes": 10, "kernel": [1, 3], "width": 5, "norm": None,
        "mode": "same", "bias": False,
    }  # fmt: skip


def test_layers_as_arguments(command: Command, own: Callable[..., list[str]]) -> None:
    lines = [
        "_args_:",
        "- _target_: torch.nn.Flatten",
        "- {_target_: torch.nn.Linear, in_features: 3072, out_features: 10}",
    ]
    code, printed = command(*own("torch.nn.Sequential", *lines))
    assert code == 0, printed


def test_plain_annotations_stay_strict() -> None:
    given = {"image_size": 32, "num_channels": 3, "num_classes": 10}
    assert arguments("vit_cnn.models.CNN", dict(given), group="model") == given
    for wrong, message in (({"num_clases": 10}, "did you mean model.num_classes"), ({"image_size": 1.5}, "Integer")):
        with pytest.raises(Refused, match=message):
            arguments("vit_cnn.models.CNN", given | wrong, group="model")


def test_pretrained_weights_are_asked_for_once(own: Callable[..., list[str]]) -> None:
    """By the training alone: neither the check nor whoever loads a checkpoint has to download them."""
    cfg = composed(*own("networks_of_mine.noted", "num_classes: 10", "pretrained: true"))
    assert cfg.model.pretrained
    assert not build_network(cfg.model).is_pretrained
    assert build_state(cfg, None, Path()).model.is_pretrained
    Path("run").mkdir()
    train(cfg, Path("run"))
    assert not load_run("run", trust="networks_of_mine").model.is_pretrained


def test_what_networks_are_called() -> None:
    assert network_name({"_target_": "vit_cnn.models.ViT"}) == "ViT"
    assert network_name({"_target_": "my_package.ViT"}) == "my_package.ViT"
    assert network_name({"_target_": "my_package.nets.MyNetwork"}) == "MyNetwork"
    assert network_name({"_target_": "my_package.made", "name": "ViT"}) == "my_package.made.ViT"
    assert network_name({"_target_": "timm.create_model", "model_name": "hf-hub:timm/resnet18"}) == "resnet18"
    assert network_name({"_target_": "torchvision.models.get_model", "name": "vit_b_16"}) == "vit_b_16"
    assert network_name(composed("model=permuted_cnn").model) == "Permuted-CNN"
    with pytest.raises(Refused, match=r"^model\.network is vit: it takes the config of a network"):
        network_name({"_target_": "vit_cnn.models.permuted.Permuted", "network": "vit"})


def test_the_script_finds_a_network_in_this_folder(own: Callable[..., list[str]]) -> None:
    own("networks_of_mine.plain", "width: 3")
    script = Path(sys.executable).with_name("vit-cnn")
    calling = [script, "train", "--config-dir", "conf", "model=own", *SMALL, "max_steps=1"]
    done = subprocess.run(calling, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_estimate_takes_a_folder_of_yaml_files(
    own: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own("networks_of_mine.plain", "width: 3")
    code, printed = call(estimate.main, ["--config-dir", "conf", "model=own", *SMALL], monkeypatch, capfd)
    assert code == 0, printed
    assert "model=own" in printed
    with_batch_norm = ["model=torchvision", "model.name=resnet18", *SMALL]
    code, printed = call(estimate.main, with_batch_norm, monkeypatch, capfd)
    assert code == 0, printed
    code, printed = call(estimate.main, ["model=own", "--config-dir", "cnof", *SMALL], monkeypatch, capfd)
    assert (code, printed) == (2, "error: --config-dir cnof is not a folder\n")


def test_a_file_with_the_name_of_a_shipped_one_is_refused(command: Command) -> None:
    Path("own/recipe").mkdir(parents=True)
    Path("own/recipe/modern.yaml").write_text("epochs: 1\n")
    for more in ([], ["seed=0,1", "-m"]):
        code, printed = command("data=digits", "recipe=modern", *more, "--config-dir", "own")
        assert code == 2
        assert "own/recipe/modern.yaml is hidden by conf/recipe/modern.yaml: give it another name" in printed
        assert "Traceback" not in printed
