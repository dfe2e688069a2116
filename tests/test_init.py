"""A run that begins with the weights of another one: what is taken, what begins anew, and what is refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, call, composed, run, stop_at, weights
from safetensors.torch import save_file
from torch import nn

from vit_cnn.errors import Stopped
from vit_cnn.export import __main__ as export
from vit_cnn.models.adopt import adopted, resized_patches
from vit_cnn.models.parts import depths, freeze
from vit_cnn.report.groups import label_runs
from vit_cnn.run.files import write_json
from vit_cnn.run.lock import FILE, opened
from vit_cnn.run.reading import find_runs
from vit_cnn.training.loop import train
from vit_cnn.training.optim import layer_scales, set_learning_rate
from vit_cnn.training.state import State, build_state

CNN = ["model=cnn", "data=digits", "data.image_size=8", "data.max_images=60", "recipe.batch_size=30", "trainer=cpu"]
DIGITS = [str(digit) for digit in range(10)]
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT in ``vit``, a CNN in ``cnn``."""
    folder = tmp_path_factory.mktemp("trained")
    for name, options in {"vit": [*TINY, "recipe.epochs=1"], "cnn": [*CNN, "recipe.epochs=1"]}.items():
        (folder / name).mkdir()
        train(composed(*options), folder / name)
    return folder


def begun(*overrides: str, classes: list[str] | None = None) -> State:
    """The first state of a run."""
    return build_state(composed(*overrides), None, Path(), classes=classes or DIGITS)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], *, but: tuple[str, ...] = ()) -> bool:
    """Whether weights are equal, except those whose names begin with ``but``, which all differ."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        are_equal = tensor.shape == theirs[name].shape and torch.equal(tensor, theirs[name])
        if are_equal == name.startswith(but or ("nothing",)):
            return False
    return True


@pytest.mark.parametrize("network", ["vit", "cnn"])
def test_identical_sizes_identical_weights(network: str, trained: Path) -> None:
    options = TINY if network == "vit" else CNN
    state = begun(*options, f"init={trained / network}", "seed=9")
    assert same(state.model.state_dict(), weights(str(trained / network), "best.pt"))
    assert state.progress.init is not None
    assert state.progress.init["changes"] == []
    assert state.progress.init["seed"] == (3 if network == "vit" else 0)
    assert state.progress.step == 0


def test_exports_and_bare_files(trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    shutil.copytree(trained / "vit", "vit")
    assert call(export.main, ["vit", "--out", "out"], monkeypatch, capfd)[0] == 0
    theirs = weights("vit", "best.pt")
    save_file(theirs, "bare.safetensors")
    for source in ("out", "out/model.safetensors", "bare.safetensors"):
        assert same(begun(*TINY, f"init={source}").model.state_dict(), theirs), source


def test_other_classes_begin_with_another_head(trained: Path) -> None:
    theirs = weights(str(trained / "vit"), "best.pt")
    state = begun(*TINY, f"init={trained / 'vit'}", classes=["other", *DIGITS[1:]])
    assert same(state.model.state_dict(), theirs, but=("head.",))


def test_another_number_of_classes(trained: Path, image_tree: Path) -> None:
    folder = ["data=folder", f"data.root={image_tree}", "data.image_size=32", "data.max_images=null"]
    result = run("two", *folder, f"init={trained / 'vit'}", "recipe.batch_size=18", "recipe=finetune")
    assert result["init"]["changes"] == ["other classes: head begins anew with 2 outputs"]
    assert result["init"]["data"]["name"] == "Digits"
    assert result["init"]["from"] == str(trained / "vit")
    assert len(result["init"]["sha256"]) == 64
    assert weights("two", "best.pt")["head.weight"].shape == (2, 32)


def test_positions_and_patches_are_resized(trained: Path) -> None:
    theirs = weights(str(trained / "vit"), "best.pt")
    larger = begun(*TINY, f"init={trained / 'vit'}", "data.image_size=48")
    ours = larger.model.state_dict()
    assert same(ours, theirs, but=("positions",))
    assert ours["positions"].shape == (1 + 36, 32)
    assert torch.equal(ours["positions"][0], theirs["positions"][0])
    corners = theirs["positions"][[1, 4, 13, 16]], ours["positions"][[1, 6, 31, 36]]
    for there, here in zip(*corners, strict=True):
        assert F.cosine_similarity(there, here, dim=0) > 0.8
    assert larger.progress.init is not None
    assert larger.progress.init["changes"] == ["16 patches there, 36 here: positions are interpolated"]

    smaller = begun(*TINY, f"init={trained / 'vit'}", "model.patch_size=4")
    assert same(smaller.model.state_dict(), theirs, but=("positions", "embed_patches.weight"))
    assert smaller.progress.init is not None
    assert smaller.progress.init["changes"] == [
        "patches of 8 pixels there, 4 here: their embedding is resized",
        "16 patches there, 64 here: positions are interpolated",
    ]


def test_the_embedding_of_an_enlarged_patch_is_that_of_the_patch() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, patch = torch.randn(5, 3 * 16, generator=generator), torch.randn(1, 3, 4, 4, generator=generator)
    enlarged = F.interpolate(patch, size=(8, 8), mode="bilinear", antialias=True)
    larger = resized_patches(weight, 3, 4, 8)
    torch.testing.assert_close(larger @ enlarged.flatten(), weight @ patch.flatten(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(resized_patches(weight, 3, 4, 4), weight)
    torch.testing.assert_close(resized_patches(larger, 3, 8, 4).shape, weight.shape)


def test_the_last_layer_of_any_network_is_its_head() -> None:
    there, here = (nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, n)) for n in (2, 5))
    found, changes = adopted(there.state_dict(), here, new_head=False)
    assert changes == ["other classes: 2 begins anew with 5 outputs"]
    assert torch.equal(found["1.weight"], there[1].weight) and torch.equal(found["2.weight"], here[2].weight)


def test_a_cnn_for_larger_images_keeps_its_convolutions(trained: Path) -> None:
    state = begun(*CNN, f"init={trained / 'cnn'}", "data.image_size=16")
    assert same(state.model.state_dict(), weights(str(trained / "cnn"), "best.pt"), but=("classifier.",))
    assert state.progress.init is not None
    assert "the convolutions are kept" in state.progress.init["changes"][0]


def test_all_that_does_not_fit_is_named_and_nothing_is_written(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "vit", "vit")
    shutil.copytree(trained / "vit", "running")
    Path("running/result.json").unlink()
    write_json(Path("running/status.json"), {"status": "running", "message": "", "pid": os.getpid()})
    held = opened(Path("running", FILE))
    shutil.copytree(trained / "vit", "early")
    for name in ("best.pt", "result.json"):
        Path("early", name).unlink()
    save_file({"weight": torch.zeros(2)}, "other.safetensors")
    Path("damaged.safetensors").write_bytes(b"\x08" + bytes(30))
    before = sorted(Path().iterdir())
    for overrides, messages in {
        ("init=nowhere",): ["init=nowhere is neither a run folder, nor an export folder, nor a .safetensors file"],
        ("init=vit", "model=cnn"): ["init=vit is a ViT, and model here is a CNN"],
        ("init=vit", "model.embed_dim=16", "model.num_heads=4"): [
            "embed_dim is 32 there and 16 here",
            "num_heads is 2 there and 4 here",
        ],
        ("init=vit", "data.num_channels=1"): ["num_channels is 3 there and 1 here"],
        ("init=other.safetensors",): ["other.safetensors does not fit the network"],
        ("init=damaged.safetensors",): ["damaged.safetensors is damaged"],
        ("init=running",): ["init=running is still training"],
        ("init=early",): ["early/best.pt does not exist"],
        ("init=vit", "recipe.freeze_blocks=3"): ["recipe.freeze_blocks=3: the ViT has 2 blocks"],
        ("recipe.freeze_blocks=1",): ["recipe.freeze_blocks=1 needs init="],
        ("init=vit", "recipe.layer_decay=0"): ["recipe.layer_decay=0.0 must be above 0"],
    }.items():
        options = [each for each in TINY if not ("model=cnn" in overrides and each.startswith("model."))]
        code, printed = command(*options, *overrides, "hydra.run.dir=out")
        assert code == 2, overrides
        assert all(message in printed for message in messages), (overrides, printed)
        assert "Traceback" not in printed
        assert sorted(Path().iterdir()) == before
    held.close()


def test_what_stands_around_a_network_is_frozen_with_what_stands_before() -> None:
    around = nn.Module()
    around.network, around.adapter, around.scale = begun(*TINY).model, nn.Linear(2, 2), nn.Parameter(torch.ones(1))
    assert {depth for name, depth in depths(around).items() if not name.startswith("network.")} == {0}
    around.network.norm.bias.requires_grad_(False)  # by its owner, and so it stays
    freeze(around, 1)
    learning = {name for name, parameter in around.named_parameters() if parameter.requires_grad}
    assert "network.norm.weight" in learning and "network.norm.bias" not in learning
    assert all(name.startswith(("network.blocks.1.", "network.norm.", "network.head.")) for name in learning)


def test_what_a_subclass_adds_stands_before_the_blocks() -> None:
    vit = begun(*TINY, "model.dropout=0.1").model
    vit.features = nn.Linear(2, 2)  # as the CNN calls its blocks
    vit.blocking, vit.registers, vit.extra = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1)), nn.Dropout(0.5)
    depth = depths(vit)
    assert {depth[name] for name in ("features.bias", "blocking", "registers", "positions", "embed_patches.bias")} == {
        0
    }
    assert (depth["blocks.0.norm1.bias"], depth["head.bias"]) == (1, 3)
    frozen = freeze(vit, 1)
    assert all(any(module is each for each in frozen) for module in (vit.dropout, vit.extra, vit.embed_patches))
    assert not any(module is vit.blocks[1] or module is vit.blocks for module in frozen)
    assert not vit.registers.requires_grad


def test_the_order_of_a_permutation_belongs_to_its_patches(command: Command) -> None:
    options = [each for each in TINY if not each.startswith("model")]
    networks = ["model=permuted_cnn", "model.permute=patches"]
    (here := Path("permuted")).mkdir()
    train(composed(*options, *networks, "model.patch_size=8"), here)
    code, printed = command(*options, *networks, "model.patch_size=4", "init=permuted")
    assert (code, "patch_size is 8 there and 4 here" in printed) == (2, True), printed


@pytest.mark.parametrize("network", ["vit", "cnn"])
def test_frozen_blocks_do_not_change(network: str, trained: Path) -> None:
    options = TINY if network == "vit" else CNN
    train(composed(*options, f"init={trained / network}", "recipe.freeze_blocks=1", "max_steps=1"), Path("run"))
    theirs, ours = weights(str(trained / network), "best.pt"), weights("run")
    frozen = (
        ("embed", "cls", "positions", "blocks.0.") if network == "vit" else tuple(f"features.{i}." for i in range(6))
    )
    for name in ours:
        if name.startswith(frozen):
            assert torch.equal(ours[name], theirs[name]), name  # statistics of batch norm too
        elif ours[name].is_floating_point():
            assert not torch.equal(ours[name], theirs[name]), name


def test_layers_learn_the_slower_the_deeper_they_lie(trained: Path) -> None:
    cfg = composed(*TINY, "recipe=finetune", f"init={trained / 'vit'}", "recipe.layer_decay=0.5")
    state = build_state(cfg, None, Path(), classes=DIGITS)
    set_learning_rate(state.optimizer, 1.0)
    rate = {id(p): group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
    named = {name: rate[id(parameter)] for name, parameter in state.model.named_parameters()}
    assert len(rate) == len(list(state.model.parameters()))
    assert named["head.weight"] == named["norm.bias"] == 1
    assert named["blocks.1.mlp.0.weight"] == 0.5
    assert named["blocks.0.mlp.0.bias"] == 0.25
    assert named["positions"] == named["embed_patches.weight"] == 0.125
    scales = layer_scales(begun(*CNN).model, 0.5)
    assert scales is not None
    assert [scales[f"{name}.weight"] for name in ("features.0", "features.8", "features.17", "classifier.5")] == [
        0.125, 0.25, 0.5, 1,
    ]  # fmt: skip


def test_a_stopped_fine_tuning_goes_on_to_the_same_bits(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained / "vit", "vit")
    options = ["init=vit", "recipe=finetune", "recipe.batch_size=30", "recipe.freeze_blocks=1", "recipe.epochs=2"]
    straight = run("straight", *options)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 4)
        run("stopped", *options)
    shutil.rmtree("vit")  # the weights are in last.pt by now
    result = run("stopped", *options)
    assert result["init"] == straight["init"]
    assert same(weights("straight"), weights("stopped"))
    assert json.loads(Path("stopped/result.json").read_text())["init"]["changes"] == []


def test_it_begins_better_than_at_random(trained: Path) -> None:
    before = dict(np.load(trained / "vit" / "predictions.npz"))
    options = ["recipe.epochs=1", "recipe.optimizer.lr=1e-5"]
    result = run("tuned", f"init={trained / 'vit'}", *options)
    then = F.cross_entropy(torch.from_numpy(before["val_logits"]), torch.from_numpy(before["val_labels"])).item()
    assert result["val/loss"] == pytest.approx(then, abs=0.01)
    assert abs(run("random", *options)["val/loss"] - then) > 0.03


def test_reports_and_model_cards_say_it(trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    shutil.copytree(trained / "vit", "vit")
    run("tuned", "init=vit", "recipe.epochs=1")
    labels = [each.label for each in label_runs(find_runs([Path("vit"), Path("tuned")]))]
    assert labels == ["ViT init=None", "ViT init=vit"]
    assert call(export.main, ["tuned", "--out", "out"], monkeypatch, capfd)[0] == 0
    assert "Its training started from the weights of vit." in Path("out/README.md").read_text()
