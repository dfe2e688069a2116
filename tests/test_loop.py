"""The loop's promises: the files of a run, the same bits again, stop and go on, and what ends it early."""

import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, call, composed, metrics, run, stop_at, weights
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from trainings import Forked

from vit_cnn import compare, evaluate
from vit_cnn.config.resolvers import run_folder
from vit_cnn.config.schema import Recipe
from vit_cnn.errors import Failed
from vit_cnn.run import checkpoint
from vit_cnn.run.tracking import rewind
from vit_cnn.start import claims, taken
from vit_cnn.training import loop
from vit_cnn.training.loop import train
from vit_cnn.training.precision import autocast_for
from vit_cnn.training.speed import Speed
from vit_cnn.training.state import Progress, build_state
from vit_cnn.training.step import training_step

Command = Callable[..., tuple[int, str]]


def test_the_files_of_a_run(own_folder: None) -> None:
    result = run("run")
    names = {path.name for path in Path("run").iterdir()}
    assert names == {".hydra", "metrics.jsonl", "predictions.npz", "result.json", "status.json", "last.pt", "best.pt",
                     "test_looks.jsonl"}  # fmt: skip
    assert result == json.loads(Path("run/result.json").read_text())
    # fmt: off
    for key in ("model", "params", "flops_per_image", "epochs", "steps", "seed", "test/acc", "test/loss", "val/acc",
                "val/loss", "train/acc", "train/loss", "best_epoch", "seconds_train", "images_per_second", "device",
                "peak_memory_bytes", "precision", "data", "versions", "git", "config", "wandb", "status"):
        assert key in result, key
    # fmt: on
    assert (result["status"], result["model"], result["steps"], result["epochs"]) == ("finished", "ViT", 10, 2)
    assert result["data"]["name"] == "Digits"

    lines = metrics("run")
    assert [line["step"] for line in lines] == [2, 4, 5, 6, 8, 10, 10]
    assert lines[2].keys() == {"step", "epoch", "val/loss", "val/acc"}
    assert lines[0].keys() == {"step", "epoch", "train/loss", "train/acc", "lr", "grad_norm", "param_norm"}
    assert lines[2]["epoch"] == 1
    best = max((line for line in lines if "val/acc" in line), key=lambda line: (line["val/acc"], -line["val/loss"]))
    assert result["val/acc"] == pytest.approx(best["val/acc"])
    assert result["best_epoch"] == best["epoch"]

    saved = np.load("run/predictions.npz")
    logits, labels = torch.from_numpy(saved["test_logits"]), torch.from_numpy(saved["test_labels"])
    assert logits.shape == (len(saved["test_indices"]), 10)
    assert F.cross_entropy(logits.double(), labels).item() == pytest.approx(result["test/loss"], rel=1e-6)
    assert (logits.argmax(1) == labels).double().mean().item() == pytest.approx(result["test/acc"])
    assert OmegaConf.load("run/.hydra/config.yaml").model.patch_size == 8


def test_looks_at_the_test_images_are_counted(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run("run")
    assert "looked at once, at the end" in " ".join(capfd.readouterr().out.split())
    assert call(evaluate.main, ["run=run", "split=val"], monkeypatch, capfd)[0] == 0
    assert run("run", "recipe.epochs=3")["test_looks"] == 2
    assert "looked at twice" in " ".join(capfd.readouterr().out.split())
    assert call(evaluate.main, ["run=run", "split=test"], monkeypatch, capfd)[0] == 0
    code, printed = call(compare.main, ["run"], monkeypatch, capfd)
    assert code == 0
    assert "looked at 3 times" in " ".join(printed.split())


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_update_that_explodes_reaches_no_file(
    epochs: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss before the update is finite; after it, nothing is."""
    rate = loop.learning_rate
    last = 5 * epochs - 1
    monkeypatch.setattr(loop, "learning_rate", lambda done, **o: float("inf") if done == last else rate(done, **o))
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    code, printed = command(*TINY, f"recipe.epochs={epochs}", "hydra.run.dir=run")
    assert code == 1, printed
    assert f"error: the validation loss is nan at step {5 * epochs}; last.pt holds the last good" in printed
    assert "Traceback" not in printed
    assert all(tensor.isfinite().all() for tensor in weights("run").values())
    assert not Path("run/result.json").exists()
    assert Path("run/best.pt").exists() == (epochs == 2)
    monkeypatch.setattr(loop, "learning_rate", lambda done, **_: float("inf"))
    code, printed = command(*TINY, "max_steps=1", "hydra.run.dir=first")
    assert code == 1
    assert "validation loss is nan at step 1" in printed
    assert "Traceback" not in printed


def test_weights_that_are_not_finite_are_not_saved_in_the_middle_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda done, **o: float("inf") if done == 6 else rate(done, **o))
    stop_at(monkeypatch, 7)
    with pytest.raises(Failed, match="norm of the weights is nan at step 7"):
        run("run")
    assert all(tensor.isfinite().all() for tensor in weights("run").values())


def test_max_steps_ends_a_run_early_and_whole() -> None:
    result = run("run", "max_steps=3")
    assert (result["steps"], result["epochs"], result["status"]) == (3, 0.6, "finished")
    assert [line["step"] for line in metrics("run")] == [2, 3]
    assert run("run", "max_steps=3") == result


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_weights(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_step = loop.training_step

    def poisoned(images: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        poisoned.calls += 1
        return training_step(images * (float("nan") if poisoned.calls == 8 else 1), *arguments, **options)

    poisoned.calls = 0
    monkeypatch.setattr(loop, "training_step", poisoned)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    code, printed = command(*TINY, "trainer.log_every=5", "hydra.run.dir=run")
    assert code == 1
    assert "error: the loss is nan at step 8; last.pt holds the last good weights" in printed
    assert "Traceback" not in printed
    assert all(tensor.isfinite().all() for tensor in weights("run").values())
    assert torch.load("run/last.pt", weights_only=True)["progress"]["step"] == 5
    assert json.loads(Path("run/status.json").read_text())["status"] == "failed"
    monkeypatch.setattr(loop, "training_step", training_step)
    assert command("resume=run")[0] == 0


def test_a_full_disk_is_told_and_keeps_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    run("run", "recipe.epochs=1")
    before = Path("run/last.pt").read_bytes()
    fsync = os.fsync

    def full(number: int) -> None:
        files = {path.name: path.stat().st_ino for path in Path("run").iterdir()}
        if any("last.pt" in name and inode == os.fstat(number).st_ino for name, inode in files.items()):
            raise OSError(28, "No space left on device")
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        Failed, match=r"cannot be written: .*No space left on device .*; what stood there before is whole"
    ):
        run("run")
    assert Path("run/last.pt").read_bytes() == before
    assert not [path for path in Path("run").iterdir() if path.suffix == ".tmp"]


def test_rewind_drops_later_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    rewind(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_text('{"step": 1}')  # whole JSON, but the end of the line is missing
    rewind(path, 2)
    assert path.read_text() == ""


def test_training_learns_and_losses_are_plain_cross_entropy() -> None:
    calm = ["model.dropout=0", "recipe.augment.flip=false", "recipe.augment.crop_scale=null", "recipe.epochs=40"]
    result = run("run", *calm)
    assert result["train/acc"] > 0.95
    last = [line for line in metrics("run") if "train/loss" in line][-1]
    assert last["train/loss"] < 0.3
    smoothed = run("smooth", *calm, "recipe.label_smoothing=0.5")
    # Smoothed cross-entropy cannot go below the entropy of its targets, about 1.6 here; what is written is plain.
    assert [line for line in metrics("smooth") if "train/loss" in line][-1]["train/loss"] < 1.2
    assert smoothed["train/loss"] > result["train/loss"]


def test_the_best_epoch_is_that_of_accuracy_and_then_of_loss() -> None:
    progress, best = Progress(), []
    for accuracy, loss in ((0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.6, 1.5), (0.55, 0.1)):
        val = {"acc": accuracy, "loss": loss}
        best.append(progress.is_best(val))
        if best[-1]:
            progress.note_best(val)
    assert best == [True, True, True, False, False]


def test_gradients_are_clipped_by_the_norm_of_all() -> None:
    plain_sgd = (f"recipe.optimizer.{each}" for each in ("name=sgd", "lr=1", "momentum=0", "weight_decay=0"))
    cfg = composed(*TINY, *plain_sgd, "model.dropout=0", "recipe.grad_clip=0.1", "recipe.label_smoothing=0")
    state = build_state(cfg, None, Path())
    images, labels = torch.randn(30, 3, 32, 32), torch.arange(30) % 10
    weights = list(state.model.parameters())
    before = [weight.detach().clone() for weight in weights]
    norm = get_total_norm(torch.autograd.grad(F.cross_entropy(state.model(images), labels), weights))
    told = training_step(
        images, labels, labels, state=state, forward=state.model, recipe=OmegaConf.to_object(cfg.recipe),
        autocast=autocast_for(torch.device("cpu"), "fp32"),
    )[2]  # fmt: skip
    assert told == pytest.approx(norm.item(), rel=1e-4)
    assert told > 0.1
    changes = [weight.detach() - old for weight, old in zip(weights, before, strict=True)]
    assert get_total_norm(changes) == pytest.approx(0.1, rel=1e-4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of four plain steps."""
    folder = str(tmp_path_factory.mktemp("plain"))
    run(folder, "max_steps=4")
    return weights(folder)


@pytest.mark.parametrize("override", [
    "model.dropout=0.5", "recipe.label_smoothing=0.2", "recipe.grad_clip=0.1", "recipe.optimizer.name=sgd",
    "recipe.optimizer.weight_decay=0.9", "recipe.schedule.warmup_epochs=1", "recipe.augment.flip=false",
    "recipe.augment.crop_padding=2", "recipe.augment.crop_scale=null", "model.embedding_std=0.02",
    "recipe.augment.flip=alternating", "recipe.augment.policy=trivial", "recipe.augment.erasing_probability=0.9",
    "recipe.mixing.probability=0.9", "trainer.precision=bf16",
])  # fmt: skip
def test_every_option_changes_the_training(plain: dict[str, Tensor], override: str) -> None:
    run("changed", "max_steps=4", override)
    changed = weights("changed")
    assert any(not torch.equal(plain[key], changed[key]) for key in plain)


def test_channels_last_gives_the_same_up_to_rounding() -> None:
    cnn = ["model=cnn", "data=digits", "data.max_images=64", "recipe.batch_size=16", "trainer=cpu", "max_steps=2"]
    losses = []
    for layout in ("true", "false"):
        Path(layout).mkdir()
        losses.append(train(composed(*cnn, f"trainer.channels_last={layout}"), Path(layout))["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("options", [
    ["trainer.precision=bf16"], ["trainer.precision=fp16"], ["trainer.compile=true"], ["trainer.cuda_graph=true"],
    ["trainer.compile=true", "trainer.cuda_graph=true"],
    ["trainer.cuda_graph=true", "recipe.optimizer.name=sgd", "recipe.optimizer.lr=0.05", "recipe.grad_clip=1"],
], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("model", ["vit", "cnn"])
def test_cuda(model: str, options: list[str]) -> None:
    Path("gpu").mkdir()
    by_sgd = "recipe.optimizer.name=sgd" in options
    start = ["model.embedding_std=0.02", "model.dropout=0"] if by_sgd and model == "vit" else []
    cfg = composed(f"model={model}", "data=digits", "recipe.epochs=8", "recipe.optimizer.lr=1e-3",
                   "recipe.augment.flip=false", "trainer=gpu", *start, *options)  # fmt: skip
    # SGD is slow on a ViT: 64 % after these epochs on a CPU.
    assert train(cfg, Path("gpu"))["test/acc"] > (0.4 if by_sgd and model == "vit" else 0.8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("model, optimizer", [("vit", "adamw"), ("cnn", "adamw"), ("vit", "muon"), ("cnn", "muon")])
def test_a_captured_step_learns_what_a_plain_one_learns(
    model: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images, another learning rate and other random numbers reach each replay: the losses are the same."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # AdamW's first steps magnify what rounding does
    losses = {}
    for captured in ("true", "false"):
        Path(captured).mkdir()
        cfg = composed(f"model={model}", "data=digits", "max_steps=30", "recipe.epochs=2", "recipe=modern",
                       "trainer=gpu", "trainer.precision=fp32", "trainer.log_every=1",
                       f"recipe.optimizer.name={optimizer}", f"trainer.cuda_graph={captured}")  # fmt: skip
        train(cfg, Path(captured))
        lines = [line for line in metrics(captured) if "train/loss" in line]
        losses[captured] = [line["train/loss"] for line in lines]
        assert len({line["lr"] for line in lines}) > 15  # of the 20 steps of two epochs
    assert losses["true"][:10] == pytest.approx(losses["false"][:10], rel=1e-3)
    assert losses["true"] == pytest.approx(losses["false"], rel=0.2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_captured_step_learns_the_same_however_far_the_host_is_ahead() -> None:
    """Several batches are made at once, of which the next are sent while the network still learns from the last."""
    losses = []
    for log_every in ("1", "null"):
        Path(log_every).mkdir()
        cfg = composed("model=vit", "data=digits", "recipe=strong", "max_steps=60", "trainer=gpu",
                       "trainer.precision=fp32", "trainer.cuda_graph=true",
                       f"trainer.log_every={log_every}")  # fmt: skip
        train(cfg, Path(log_every))
        losses.append([line["val/loss"] for line in metrics(log_every) if "val/loss" in line])
    assert len(losses[0]) > 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_metrics_may_be_written_once_an_epoch() -> None:
    run("run", "trainer.log_every=null")
    assert [line["step"] for line in metrics("run")] == [5, 5, 10, 10]


def test_short_epochs_share_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    save = checkpoint.save

    def spy(path: Path, state: dict[str, Any]) -> None:
        if path.name == "last.pt":
            saved.append(state["progress"]["step"])
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", spy)
    monkeypatch.setattr(loop, "SAVE_EVERY", 1000)
    run("seldom", "recipe.epochs=3")
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)
    run("often", "recipe.epochs=3")
    assert saved == [0, 15, 0, 5, 10, 15]


def test_a_run_says_how_well_it_uses_the_machine() -> None:
    result = run("run")
    assert result["flops_per_second"] == pytest.approx(3 * result["flops_per_image"] * result["images_per_second"])
    assert 0 < result["share_of_peak"] < 1
    too_low = 1.0  # a peak that was measured on a busy machine
    assert Speed(flops_per_image=1, peak=too_low).of(images_per_second=10)["share_of_peak"] == 1
    line = next(json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines() if "lr" in line)
    assert line["flops_per_second"] == pytest.approx(3 * result["flops_per_image"] * line["images_per_second"])


def test_starts_within_a_second_get_folders_of_their_own() -> None:
    started = [Forked(*TINY, "max_steps=1", f"seed={seed}") for seed in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    results = [json.loads(path.read_text()) for path in Path("runs").rglob("result.json")]
    assert sorted(result["seed"] for result in results) == [0, 1, 2]


def test_default_folders_are_claimed_at_once() -> None:
    folders = {run_folder(None, "mine") for _ in range(20)}
    assert len(folders) == 20
    assert all(Path(folder).is_dir() for folder in folders)


def test_of_two_starts_in_one_folder_one_is_refused(command: Callable[..., tuple[int, str]]) -> None:
    folder = Path("mine")
    assert claims(folder)  # also where a start that gave up has removed it
    code, printed = command(*TINY, "hydra.run.dir=mine")
    assert code == 2
    assert "mine belongs to a start that goes on, or was killed early: then remove it" in printed
    assert (folder / ".hydra").is_dir()  # it is another's, and stays
    assert not claims(folder)
    (folder / "metrics.jsonl").touch()
    assert "mine is not empty" in str(taken(folder))


def test_a_full_disk_leaves_the_config_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    run("run", "recipe.epochs=1")
    before = Path("run/.hydra/config.yaml").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failed):
        run("run")
    assert Path("run/.hydra/config.yaml").read_bytes() == before


def test_fp32_is_whole_fp32_and_said_so() -> None:
    torch.backends.cudnn.allow_tf32 = True
    assert run("run", "max_steps=1")["tf32"] is False
    assert not torch.backends.cudnn.allow_tf32


def test_the_speed_of_a_run_is_that_of_its_typical_step() -> None:
    run("run")
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["images_per_second"] for line in lines if "images_per_second" in line]
    assert json.loads(Path("run/result.json").read_text())["images_per_second"] == statistics.median(rates)


def test_the_loop_reads_plain_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """OmegaConf's take a hundred times as long, and the learning rate reads several at every step."""
    seen = []
    rate = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda done, **o: seen.append(o["recipe"]) or rate(done, **o))
    run("run", "max_steps=1")
    assert [type(recipe) for recipe in seen] == [Recipe]


def test_each_compiled_run_begins_with_a_clean_slate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo counts the networks that it has compiled in a process, and runs the ninth eagerly."""
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    for number in range(2):
        run(str(number), "trainer.compile=true", "max_steps=1")
    assert len(resets) == 2


def test_a_compiled_run_evaluates_with_the_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the compiled network counts the passes that go through it."""
    passes = []

    class Stand(nn.Module):
        def __init__(self, model: nn.Module, *, dynamic: bool) -> None:
            super().__init__()
            assert not dynamic
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            passes.append("train" if self.model.training else "val")
            return self.model(images)

    compiled = lambda part, **options: Stand(part, **options) if isinstance(part, nn.Module) else part  # noqa: E731
    monkeypatch.setattr(torch, "compile", compiled)
    result = run("run", "trainer.compile=true")
    assert passes == 2 * (5 * ["train"] + ["val"])
    assert result["val/acc"] == run("plain")["val/acc"]


def test_a_run_compiled_for_real() -> None:
    """Batches of three sizes: of training, of validation, and the rest at its end."""
    small = ["model.num_layers=1", "model.dropout=0", "recipe.epochs=1", "data.max_images=600"]
    losses = [run(name, f"trainer.compile={name}", *small)["val/loss"] for name in ("true", "false")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
