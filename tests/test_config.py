"""Bad input gets one or two lines, the right exit code, and leaves nothing behind."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
import torch
from helpers import TINY, composed
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vit_cnn import config
from vit_cnn.errors import Refused

Command = Callable[..., tuple[int, str]]

REFUSALS = {
    "modle.x=1": "modle is not a key: did you mean model?",
    "model.width=1": "width is not a key; there are _target_, image_size",
    "+model.width=1": "model.width is not a key; there are image_size",
    "+recipe.optimizer.beta=1": "recipe.optimizer.beta is not a key: did you mean recipe.optimizer.betas?",
    "model=vti": "model=vti: there is no such option, "
    "but there are cnn, hybrid, permuted_cnn, permuted_vit, timm, torchvision, vit",
    "experiment=nothing": "experiment=nothing: there is no such option, "
    "but there are close_the_gap, cnn_89, cpu_half_hour, debug",
    "recipe.epochs=two": "recipe.epochs: Value 'two' of type 'str' could not be converted to Integer",
    "recipe.epochs=0": "recipe.epochs=0 must be at least 1",
    "recipe.epochs=null": "recipe.epochs",
    "recipe.optimizer.lr=nan": "recipe.optimizer.lr=nan must be above 0",
    "recipe.optimizer.name=adam": "recipe.optimizer.name=adam must be one of adamw, sgd",
    "recipe.schedule.warmup_epochs=300": "warmup_epochs=300 is longer than the run: at most recipe.epochs=180",
    "recipe.schedule.milestones=[150,100]": "recipe.schedule.milestones=[150, 100] must be rising epochs",
    "recipe.augment.crop_scale=[0.5,2]": "recipe.augment.crop_scale=[0.5, 2.0] must be",
    "recipe.augment.crop_padding=32": "recipe.augment.crop_padding=32 must be below data.image_size=32",
    "recipe.augment.flip=sometimes": "recipe.augment.flip=sometimes must be true, false or alternating",
    "recipe.augment.policy=randaugment": "recipe.augment.policy=randaugment must be one of trivial, autoaugment",
    "recipe.augment.erasing_probability=2": "recipe.augment.erasing_probability=2.0 must be at least 0 and at most 1",
    "recipe.augment.erasing_area=[0.1,1.1]": "recipe.augment.erasing_area=[0.1, 1.1] must be [smallest, largest] share",
    "recipe.augment.erasing_ratio=[0,1]": "recipe.augment.erasing_ratio=[0.0, 1.0] must be [smallest, largest] width",
    "recipe.mixing.probability=-0.1": "recipe.mixing.probability=-0.1 must be at least 0 and at most 1",
    "recipe.mixing.switch_probability=nan": "recipe.mixing.switch_probability=nan must be at least 0 and at most 1",
    "recipe.mixing.cutmix_alpha=0": "recipe.mixing.cutmix_alpha=0.0 must be above 0",
    "recipe.mixing.mixup_alpha=inf": "recipe.mixing.mixup_alpha=inf must be above 0",
    "recipe.mixing.end=1.5": "recipe.mixing.end=1.5 must be at least 0 and at most 1",
    "recipe.batch_size=5000": "recipe.batch_size=5000 is above the 1295 training images",
    "model.patch_size=5": "patch_size=5 does not divide image_size=32",
    "model.num_heads=7": "num_heads=7 does not divide embed_dim=256",
    "model.dropout=1.5": "dropout=1.5 must be at least 0 and below 1",
    "model.dropout=high": "model.dropout: Value 'high' of type 'str' could not be converted to Float",
    "model._target_=nowhere.Net": "model._target_=nowhere.Net cannot be imported",
    "model._target_=torch.nn.Identity": "turns images [2, 3, 32, 32] into [2, 3, 32, 32], not into logits [2, 10]",
    "model._target_=torch.nn.Flatten": "model.image_size is not a key; there are start_dim, end_dim",
    "data.num_classes=9": "data.num_classes=9, but Digits has 10 classes",
    "data.val_fraction=1": "data.val_fraction=1.0 must be above 0 and below 1",
    "data=folder": "data.root is missing",
    "trainer.precision=double": "trainer.precision=double must be one of fp32, bf16, fp16, amp",
    "trainer.cuda_graph=true": "trainer.cuda_graph=true needs trainer=gpu, not trainer.device=cpu",
    "trainer.log_every=0": "trainer.log_every=0 must be at least 1",
    "trainer.device=tpu": "trainer.device=tpu must be cpu, cuda",
    "seed=9223372036854775808": "seed=9223372036854775808 must be at least 0 and below 2^63",
    "seed=-1": "seed=-1 must be at least 0",
    "recipe=null": "Config group override must be a string",
    "epochs 5": "'epochs 5' is not of the form key=value",
    "data.root=~/x": "'data.root=~/x' cannot be read: write data.root=$HOME/x",
    "data.root=my images (1)": "'data.root=my images (1)' cannot be read: quote the value, such as",
}


@pytest.mark.parametrize("override", REFUSALS)
def test_bad_input_is_refused_in_a_line(override: str, command: Command) -> None:
    data = [] if override.startswith("data=") else ["data=digits"]
    code, printed = command(*data, "trainer=cpu", override)
    assert code == 2, printed
    assert REFUSALS[override] in printed
    assert printed.splitlines()[1].startswith("error: ")
    assert len(printed.strip().splitlines()) == 2
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_without_cuda_is_refused(command: Command) -> None:
    code, printed = command("data=digits", "trainer=gpu")
    assert code == 2
    assert "trainer.device=cuda" in printed
    assert "use trainer=cpu" in printed


def test_missing_data_says_what_to_do(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    code, printed = command("data=folder", "data.root=nowhere", "trainer=cpu")
    assert code == 2
    assert "data.root=nowhere: there is no such folder; expected <root>/<class>/*.jpg, or <root>/{train," in printed

    from torchvision.datasets import cifar

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(cifar, "download_and_extract_archive", no_network)
    code, printed = command("data=cifar10", "data.root=archive", "trainer=cpu")
    assert code == 2
    for part in ("data.root=archive", "cifar-10-python.tar.gz", "no network", "data=digits", "data=folder data.root="):
        assert part in printed
    assert list(Path().iterdir()) == []


def test_a_traceback_can_be_asked_for() -> None:
    call = [sys.executable, "-m", "vit_cnn.train", "recipe.epochs=0", "hydra.run.dir=there"]
    done = subprocess.run(call, capture_output=True, text=True, env={"HYDRA_FULL_ERROR": "1", "HOME": "."})
    assert "Traceback" in done.stderr
    done = subprocess.run(call, capture_output=True, text=True, env={"HOME": "."})
    assert done.returncode == 2
    assert done.stderr == "error: recipe.epochs=0 must be at least 1\n"
    assert not Path("there").exists()


def test_looking_at_the_config_does_not_import_torch() -> None:
    code = "import sys, vit_cnn.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_notebook_can_compose() -> None:
    with hydra.initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=["data=cifar10", "model.patch_size=8"])
    assert cfg.recipe.name == "deck"
    assert instantiate(cfg.model)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("override", "message"), [
    ("model=vti", "model=vti: there is no such option, but there are cnn"),
    ("modle.x=1", "modle is not a key: did you mean model"),
    ("data.root=nowhere", "data.root=nowhere: there is no such folder"),
])  # fmt: skip
def test_a_notebook_gets_the_same_line_as_a_command(override: str, message: str) -> None:
    with pytest.raises(Refused, match=re.escape(message)) as refusal:
        composed("data=folder", override)
    assert len(str(refusal.value).splitlines()) == 1


def test_defaults_are_the_decks() -> None:
    cfg = composed("trainer=cpu")
    assert (cfg.model._target_, cfg.data.name) == ("vit_cnn.models.ViT", "CIFAR-10")
    assert (cfg.recipe.epochs, cfg.recipe.batch_size, cfg.recipe.optimizer.lr) == (180, 128, 3e-4)


def test_the_trainer_is_chosen_without_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.resolvers.auto_trainer() == ("gpu" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(config.resolvers.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert config.resolvers.auto_trainer() == "cpu"


def test_the_name_of_a_folder_fits_a_file_system() -> None:
    names = [config.resolvers.file_name(text) for text in ("数" * 130, "数" * 131)]
    assert all(len(name.encode()) < 255 for name in names)
    assert names[0] != names[1]


def test_a_network_of_the_wrong_shape_is_refused(command: Command) -> None:
    code, printed = command("data=digits", "trainer=cpu", "model.num_classes=7")
    assert code == 2
    assert "[2, 7], not into logits [2, 10]" in printed


def test_a_folder_that_holds_something_is_left_alone(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("mine")
    code, printed = command(*TINY, "hydra.run.dir=run")
    assert code == 2
    assert "hydra.run.dir=run is not empty" in printed.replace(f"{tmp_path}/", "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


def test_config_job_answers_quickly_and_runs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "vit_cnn.train", "--cfg", "job"], capture_output=True, text=True)
    assert done.returncode == 0
    assert OmegaConf.create(done.stdout).model.patch_size == 4
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(("override", "message"), [
    ("epochs=3", "epochs is not a key: did you mean recipe.epochs?"),
    ("recipe.epoch=3", "recipe.epoch is not a key: did you mean recipe.epochs?"),
    ("model.dropot=0.1", "model.dropot is not a key: did you mean model.dropout?"),
    ("modle=vit", "modle is not a key: did you mean model?"),
    ("lr=1e-3", "lr is not a key: did you mean recipe.optimizer.lr?"),
    ("zzz=1", "zzz is not a key; there are model, data, recipe,"),
    ("seed=0,1", "seed=0,1 is several values: for a run of each, add -m; for a list, write seed=[0,1]"),
])  # fmt: skip
def test_what_may_have_been_meant(command: Command, override: str, message: str) -> None:
    code, printed = command("data=digits", override)
    assert code == 2
    said = printed.splitlines()
    assert said[1].startswith(f"error: {message}"), printed
    assert len(said) == 2  # the first of which came before anything was looked at


def test_types_are_told_without_hydras_leftovers(command: Command) -> None:
    code, printed = command("data=digits", "recipe.optimizer.lr=fast")
    assert code == 2
    assert "full_key" not in printed
    assert "recipe.optimizer.lr: Value 'fast' of type 'str' could not be converted to Float" in printed
