"""What a better recipe adds to network, optimiser and evaluation: each does what its name says."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, composed, metrics, run, stop_at, weights
from omegaconf import DictConfig, OmegaConf
from test_models import VIT
from test_resume import assert_same_run
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vit_cnn.config.earlier import complete
from vit_cnn.errors import Refused, Stopped
from vit_cnn.models import CNN, ViT
from vit_cnn.models.attention_maps import mean_distance
from vit_cnn.models.dropout import StochasticDepth
from vit_cnn.models.parts import hidden_weights, weights_and_others
from vit_cnn.models.size import flops_per_update
from vit_cnn.models.vit import resized_positions, some_patches
from vit_cnn.report.results import step_flops
from vit_cnn.training import muon
from vit_cnn.training.ema import WeightAverage
from vit_cnn.training.optim import build_optimizer, set_learning_rate


def test_stochastic_depth_leaves_out_whole_images() -> None:
    skip, branch = StochasticDepth(0.25), torch.rand(4000, 3, 2) + 1
    left = skip(branch)
    is_out = (left == 0).flatten(1).all(dim=1)
    torch.testing.assert_close(left[~is_out], branch[~is_out] / 0.75)
    assert is_out.float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(skip.eval()(branch), branch)
    for layers, rate in ((6, 1.5), (1, 1.5), (6, -0.5)):  # as it was given, not as the last block has it
        with pytest.raises(ValueError, match=f"stochastic_depth={rate} must be at least 0 and below 1"):
            ViT(**{**VIT, "num_layers": layers, "stochastic_depth": rate})


def test_stochastic_depth_rises_from_block_to_block() -> None:
    vit = ViT(**{**VIT, "stochastic_depth": 0.2, "num_layers": 3})
    assert [block.stochastic_depth.rate for block in vit.blocks] == [0, pytest.approx(0.1), pytest.approx(0.2)]


def test_patch_dropout_keeps_cls_and_a_fixed_number_of_patches() -> None:
    tokens = torch.arange(65.0)[None, :, None].repeat(500, 1, 8)
    kept = some_patches(tokens, 48)
    assert kept.shape == (500, 49, 8)
    assert (kept[:, 0] == 0).all()
    found = [set(image[:, 0].tolist()) for image in kept]
    assert all(len(each) == 49 for each in found)  # none twice
    assert len({frozenset(each) for each in found}) > 490
    share = torch.zeros(65).index_add(0, kept[:, :, 0].flatten().long(), torch.ones(500 * 49)) / 500
    assert share[1:].mean() == pytest.approx(48 / 64)
    assert share[1:].min() > 0.6

    vit, seen = ViT(**{**VIT, "num_layers": 1, "patch_dropout": 0.25}), []
    vit.blocks[0].norm1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    images = torch.randn(2, 3, 32, 32)
    vit(images)
    vit.eval()(images)
    assert seen == [49, 65]


def test_patches_that_are_left_out_cost_nothing() -> None:
    result = run("run", "max_steps=1", "model.patch_size=4", "model.patch_dropout=0.5")
    assert 0.4 < result["flops_per_training_image"] / result["flops_per_image"] < 0.5  # attention costs a quarter
    whole = run("whole", "max_steps=1", "model.patch_size=4")
    assert whole["flops_per_training_image"] == whole["flops_per_image"] == result["flops_per_image"]


@torch.no_grad()
def test_a_mimetic_start_looks_like_a_trained_network() -> None:
    torch.manual_seed(0)
    products = {}
    for mimetic in (True, False):
        attention = ViT(**{**VIT, "num_layers": 1, "mimetic": mimetic}).blocks[0].attention
        q, k, v = attention.to_qkv.weight.chunk(3)
        looks = torch.stack([a.T @ b for a, b in zip(q.chunk(8), k.chunk(8), strict=True)]).mean(dim=0)
        products[mimetic] = (looks, v.T @ attention.project.weight.T)
    looks, mixes = products[True]
    # A head's product has rank 32 and keeps a part of the diagonal.
    assert looks.diagonal().mean() > 10 * (looks - looks.diagonal().diag()).abs().mean()
    assert mixes.diagonal().mean() == pytest.approx(-0.4, abs=0.05)
    assert (mixes - mixes.diagonal().diag()).std() == pytest.approx(0.4 / 16, rel=0.05)
    assert products[False][0].diagonal().mean().abs() < 0.01


@torch.no_grad()
def test_with_a_mimetic_start_patches_look_nearby() -> None:
    images, far = torch.randn(4, 3, 32, 32), {}
    for mimetic in (True, False):
        torch.manual_seed(0)
        vit = ViT(**{**VIT, "num_layers": 1, "embedding_std": 0.02, "mimetic": mimetic})
        far[mimetic] = mean_distance(vit.eval().attention_maps(images), patch_size=4).mean()
        alike = F.cosine_similarity(vit.positions[2:9], vit.positions[1:8]).mean()  # of neighbours in the first row
        assert alike > 0.8 if mimetic else alike < 0.2
    assert far[True] < 0.8 * far[False]
    with pytest.raises(ValueError, match="embed_dim=30 must be a multiple of 4"):
        ViT(**{**VIT, "embed_dim": 30, "num_heads": 2, "mimetic": True})


def test_positions_of_another_grid() -> None:
    positions = torch.randn(65, 8)
    assert resized_positions(positions, 8, 8) is positions
    flat = torch.cat([positions[:1], torch.ones(64, 8)])
    torch.testing.assert_close(resized_positions(flat, 4, 6), torch.cat([positions[:1], torch.ones(24, 8)]))
    ramp = torch.arange(8.0).repeat_interleave(8)[:, None].repeat(1, 8)  # rises from row to row
    smaller = resized_positions(torch.cat([positions[:1], ramp]), 4, 4)[1:, 0].view(4, 4)
    assert (smaller.std(dim=1) < 1e-5).all()
    assert (smaller.diff(dim=0) > 1).all()
    vit = ViT(**{**VIT, "num_layers": 1}).eval()
    assert vit(torch.randn(2, 3, 24, 16)).shape == (2, 10)


def names_of(model: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in parameters}


def test_what_decays() -> None:
    vit = ViT(**{**VIT, "num_layers": 1})
    weights, others = (names_of(vit, part) for part in weights_and_others(vit))
    block = {"attention.to_qkv", "attention.project", "mlp.0", "mlp.3"}
    assert weights == {"embed_patches.weight", "head.weight", *(f"blocks.0.{name}.weight" for name in block)}
    assert {"positions", "cls_token", "norm.weight", "head.bias"} < others

    for decay_all, decays in (("true", [0.3]), ("false", [0.3, 0])):
        options = ["recipe.optimizer.weight_decay=0.3", f"recipe.optimizer.decay_all={decay_all}"]
        optimizer = build_optimizer(vit, composed("trainer=cpu", *options).recipe.optimizer)
        assert [group["weight_decay"] for group in optimizer.param_groups] == decays
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(vit.parameters()))
    before = {name: parameter.detach().clone() for name, parameter in vit.named_parameters()}
    for parameter in vit.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # without a gradient, only decay changes anything
    changed = {name for name, parameter in vit.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == weights


def test_muon_changes_the_weights_between_the_first_layer_and_the_head() -> None:
    vit = ViT(**{**VIT, "num_layers": 1, "embed_dim": 32, "hidden_dim": 48})
    options = ["recipe.optimizer.name=muon", "recipe.optimizer.decay_all=false", "recipe.optimizer.weight_decay=0.05"]
    recipe = composed("trainer=cpu", *options).recipe.optimizer
    optimizer = build_optimizer(vit, recipe)
    torch.manual_seed(0)
    matrix = vit.blocks[0].mlp[0].weight
    before = matrix.detach().clone()
    vit(torch.randn(8, 3, 32, 32)).logsumexp(dim=1).sum().backward()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert flops_per_update(vit, "muon") == counter.get_total_flops() > 0
    step = (matrix.detach() - before * (1 - recipe.lr * 0.05)) / recipe.lr
    assert torch.linalg.matrix_norm(step, ord=2) < 1.3 * 0.2 * 48**0.5  # its singular values are alike
    assert torch.linalg.svdvals(step)[7] > 0.5 * 0.2 * 48**0.5  # the gradient of eight CLS tokens has rank 8
    assert all(parameter in optimizer.state for parameter in vit.parameters())

    again = build_optimizer(vit, recipe, optimizer.state_dict())
    assert torch.equal(again.state[matrix]["momentum_buffer"], optimizer.state[matrix]["momentum_buffer"])
    assert again.state[vit.positions]["step"] == 1


def test_muon_takes_filters_as_matrices_in_either_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_quick_bf16", lambda device: True)  # as PyTorch's does
    recipe = composed("trainer=cpu", "recipe.optimizer.name=muon", "recipe.optimizer.weight_decay=0.5").recipe.optimizer
    torch.manual_seed(0)
    first = CNN(image_size=8, num_channels=3, num_classes=10)
    hidden = hidden_weights(first)
    assert hidden == [first.features[layer].weight for layer in (2, 6, 8, 12, 14)]
    assert flops_per_update(first, "adamw") == 0 < flops_per_update(first, "muon") < 6e9

    matrices = [nn.Parameter(weight.detach().flatten(1).clone()) for weight in hidden]
    expected = torch.optim.Muon(matrices, lr=recipe.lr, weight_decay=0.5, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    second = copy.deepcopy(first).to(memory_format=torch.channels_last)
    optimizers = [build_optimizer(net, recipe) for net in (first, second)]
    for _ in range(2):
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.to(memory_format=torch.channels_last) if one.ndim == 4 else one.grad.clone()
        for weight, matrix in zip(hidden, matrices, strict=True):
            matrix.grad = weight.grad.flatten(1)
        for optimizer in (*optimizers, expected):
            optimizer.step()
    for weight, matrix, other in zip(hidden, matrices, hidden_weights(second), strict=True):
        assert torch.equal(weight.flatten(1), matrix)
        torch.testing.assert_close(other, weight, atol=1e-5, rtol=0)
    with pytest.raises(Refused, match="muon needs layers between the first and the last: use adamw"):
        build_optimizer(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), recipe)
    state = expected.state_dict()
    state["param_groups"][0]["params"].pop()
    with pytest.raises(Refused, match="muon changed other weights, as in an earlier version of vit_cnn"):
        build_optimizer(first, recipe, {"muon": state, "adamw": optimizers[0].adamw.state_dict()})


@pytest.mark.parametrize("is_quick", [True, False])
def test_muon_is_in_fp32_where_bf16_is_slow(is_quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "has_quick_bf16", lambda device: is_quick)
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(48, 48) for _ in range(3)))
    recipe = composed("trainer=cpu", "recipe.optimizer.name=muon", "recipe.optimizer.weight_decay=0").recipe.optimizer
    optimizer = build_optimizer(layers, recipe)
    weight = layers[1].weight
    for parameter in layers.parameters():
        parameter.grad = torch.randn_like(parameter)
    before, gradient = weight.detach().clone(), weight.grad.clone()
    optimizer.step()
    # Nesterov's first step is in proportion to the gradient, whose five Newton-Schulz steps are here in float64.
    x = gradient.double() / gradient.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    error = ((before - weight.detach()) / (recipe.lr * 0.2 * 48**0.5) - x).abs().max()
    assert (error > 1e-3) == is_quick, error
    assert error < 0.1


def test_muon_goes_on_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["recipe.optimizer.name=muon", "recipe.optimizer.decay_all=false"]
    run("whole", *options)
    assert not torch.equal(weights("whole")["positions"], weights_of_start(options)["positions"])
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(Stopped):
            run("parts", *options)
    run("parts", *options)
    assert_same_run("whole", "parts")


def test_the_cost_of_muon_counts() -> None:
    adamw = run("adamw", "max_steps=1")
    muon = run("muon", "max_steps=1", "recipe.optimizer.name=muon")
    assert step_flops(muon) == step_flops(adamw) + muon["flops_per_update"] > step_flops(adamw)


def weights_of_start(options: list[str]) -> dict[str, Tensor]:
    cfg = composed(*TINY, *options)
    torch.manual_seed(cfg.seed)
    return ViT(**{key: value for key, value in cfg.model.items() if key != "_target_"}).state_dict()


@pytest.mark.parametrize("model", ["vit", "cnn"])
def test_muon_with_its_rate_on_the_device_makes_the_same_step(model: str) -> None:
    """As a captured step needs it: not the number of the capture, but that of each replay."""
    recipe = composed("trainer=cpu", "recipe.optimizer.name=muon", "recipe.optimizer.weight_decay=0.5").recipe.optimizer
    nets = []
    for on_device in (False, True):
        torch.manual_seed(0)
        is_vit = model == "vit"
        net = ViT(**{**VIT, "num_layers": 1}) if is_vit else CNN(image_size=8, num_channels=3, num_classes=10)
        nets.append(net.to(memory_format=torch.channels_last))
        optimizer = build_optimizer(net, recipe)
        if on_device:
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"])
        for rate in (3e-2, 1e-2):
            set_learning_rate(optimizer, rate)
            for parameter in net.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        assert all(isinstance(group["lr"], Tensor) == on_device for group in optimizer.param_groups)
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, other)


def test_the_average_follows_the_weights() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average, expected = WeightAverage(network, decay=0.4), network[0].weight.item()
    for step in range(1, 8):
        with torch.no_grad():
            network[0].weight.fill_(step)
            network[1].running_mean.fill_(step)
        average.update()
        keep = min(0.4, (1 + step) / (10 + step))  # a warm-up of four steps
        expected = keep * expected + (1 - keep) * step
    with average.in_use():
        assert network[0].weight.item() == pytest.approx(expected)
        assert 5 < network[1].running_mean.item() < 7
    assert network[0].weight.item() == network[1].running_mean.item() == 7
    with pytest.raises(ZeroDivisionError), average.in_use():
        _ = 1 / 0
    assert network[0].weight.item() == 7


def test_a_run_is_judged_by_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, averaged = run("plain"), run("averaged", "recipe.ema_decay=0.9")
    last, best = weights("averaged"), weights("averaged", "best.pt")
    assert all(torch.equal(last[name], tensor) for name, tensor in weights("plain").items())  # training stays the same
    assert not torch.equal(last["head.weight"], best["head.weight"])
    assert averaged["val/loss"] != plain["val/loss"]
    lines = [line for line in metrics("averaged") if "val/loss" in line]
    assert averaged["val/loss"] in [pytest.approx(line["val/loss"]) for line in lines]

    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(Stopped):
            run("parts", "recipe.ema_decay=0.9")
    saved = torch.load("parts/last.pt", weights_only=True)
    saved["average"]["updates"] = torch.tensor(float(saved["average"]["updates"]))  # as it was before
    torch.save(saved, "parts/last.pt")
    run("parts", "recipe.ema_decay=0.9")
    assert_same_run("averaged", "parts")


@pytest.mark.parametrize(("override", "message"), [
    ("recipe.ema_decay=1", "recipe.ema_decay=1.0 must be at least 0 and below 1"),
    ("recipe.optimizer.name=lion", "recipe.optimizer.name=lion must be one of adamw, sgd, muon"),
    ("model.stochastic_depth=1", "model: stochastic_depth=1.0 must be at least 0 and below 1"),
    ("model.patch_dropout=-0.1", "model: patch_dropout=-0.1 must be at least 0 and below 1"),
])  # fmt: skip
def test_what_is_out_of_range(override: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        composed("trainer=cpu", "model=vit", override)


def test_the_config_of_an_earlier_version_is_completed() -> None:
    now = composed("trainer=cpu", "model=vit", "recipe=modern")
    earlier = OmegaConf.create(json.loads(json.dumps(OmegaConf.to_container(now))))
    assert isinstance(earlier, DictConfig)
    for group, keys in {"model": ["stochastic_depth", "patch_dropout", "mimetic"], "recipe": ["ema_decay"]}.items():
        for key in keys:
            earlier[group].pop(key)
    earlier.recipe.optimizer.pop("decay_all")
    earlier.recipe.pop("mixing")
    for key in ("policy", "erasing_probability", "erasing_area", "erasing_ratio"):
        earlier.recipe.augment.pop(key)
    earlier.model.embedding_std = 0.5
    assert complete(earlier).model == {**now.model, "embedding_std": 0.5}
    assert earlier.recipe == now.recipe


def test_a_run_of_an_earlier_version_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """``complete`` is what ``resume=`` does first; then nothing may tell the two runs apart."""
    run("whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Stopped):
            run("parts")
    path = Path("parts/last.pt")
    saved = torch.load(path, weights_only=True)
    del saved["average"], saved["config"]["recipe"]["ema_decay"], saved["config"]["recipe"]["optimizer"]["decay_all"]
    torch.save(saved, path)
    run("parts")
    assert_same_run("whole", "parts")
