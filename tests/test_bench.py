"""What the benchmark compares is comparable, and its figures are what they say."""

import csv
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import call
from hydra.utils import instantiate
from torch import nn

from vit_cnn.bench import __main__, contenders, contests, loops, peers
from vit_cnn.bench.contenders import switched
from vit_cnn.bench.contests import Bench
from vit_cnn.bench.loops import grown, in_fresh_process, our_loop, steps_alone, usual_loop
from vit_cnn.bench.measure import command_seconds, in_rounds, saved_bytes
from vit_cnn.bench.noise import noise_config
from vit_cnn.models import ViT
from vit_cnn.models.dropout import Dropout
from vit_cnn.models.linear import Linear
from vit_cnn.models.size import flops_per_image
from vit_cnn.training.precision import autocast_for

SMALL = ["trainer=cpu", "model.patch_size=8", "model.embed_dim=32", "model.hidden_dim=64"]


@pytest.fixture
def small() -> Bench:
    return Bench(overrides=SMALL, batch=4, rounds=2)


def test_peers_are_the_same_network_with_the_same_dropout_places(small: Bench) -> None:
    contenders = {name: network for name, network in small.contenders().items() if name.startswith("ViT")}
    assert len(contenders) == 4
    assert {peers.active_dropouts(network) for network in contenders.values()} == {1 + 6 * 3}
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in contenders.items()}
    assert sizes["ViT, ours"] == sizes["ViT, timm"] == sizes["ViT, nn.MultiheadAttention"]
    assert sizes["ViT, vit-pytorch"] == pytest.approx(sizes["ViT, ours"], rel=0.05)  # normalises patches, no QKV bias
    for network in contenders.values():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_kept_bytes_are_counted_once() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7, bias=False), nn.Sigmoid())
    images, fp32 = torch.randn(4, 3, 32, 32), autocast_for(torch.device("cpu"), "fp32")
    # Linear keeps its input (here the images themselves), the sigmoid its output.
    assert saved_bytes(network, images, fp32) == 4 * (4 * 3072 + 4 * 7)


def test_rounds_take_turns_and_leave_the_first_out() -> None:
    calls: list[str] = []
    times = in_rounds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b") or 5.0}, rounds=2)
    first = len(calls) // 2 - 2
    assert calls == ["a", "b"] * (first + 2)
    assert first >= 1
    assert times["b"] == [5.0, 5.0]  # what says its own time is believed
    assert len(times["a"]) == 2
    assert 0 <= min(times["a"]) < 1


def test_switches_reach_every_part() -> None:
    switches = dict(raw_bytes=False, as_convolution=False, only_cls_at_the_end=False)
    vit = switched(ViT(**Bench(overrides=SMALL, batch=4, rounds=1).sizes), **switches)
    dropouts = [module for module in vit.modules() if isinstance(module, Dropout)]
    assert len(dropouts) == 19
    assert not any(module.raw_bytes for module in dropouts)
    linears = [module for module in vit.modules() if isinstance(module, Linear)]
    assert len(linears) == 2 + 6 * 4
    assert not any(module.as_convolution for module in linears)
    assert not vit.only_cls_at_the_end
    assert Dropout.raw_bytes
    assert ViT.only_cls_at_the_end


def test_the_usual_loop_trains_on_the_same_images() -> None:
    cfg = noise_config("model=vit", *SMALL, images=20, batch=4)
    data = instantiate(cfg.data)
    assert len(data.train) == 20
    images, labels = next(iter(peers.data_loader(data, cfg.recipe)))
    assert images.shape == (4, 3, 32, 32)
    assert labels.dtype == torch.int64
    assert abs(images.mean().item()) < 0.2  # normalised
    network = instantiate(cfg.model)
    before = network.head.weight.clone()
    assert peers.usual_seconds(network, data, cfg) > 0
    assert not torch.equal(network.head.weight, before)


@pytest.mark.parametrize("loop", [
    steps_alone, functools.partial(steps_alone, peer=True), our_loop, usual_loop,
    functools.partial(usual_loop, peer=True),
])  # fmt: skip
def test_loops_are_timed(loop: Callable[..., float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "EPOCH_STEPS", 4)
    assert 0 < loop("cnn", 2, ["trainer=cpu"]) < 60


def test_growth_is_of_what_is_varied() -> None:
    small, large = (grown("vit", 2, SMALL, "batch", batch) for batch in (2, 32))
    assert large["saved_for_backward_mb"] >= 8 * small["saved_for_backward_mb"] > 0
    larger = grown("vit", 2, SMALL, "image_size", 64)
    assert larger["saved_for_backward_mb"] > 2 * small["saved_for_backward_mb"]
    assert larger["peak_memory_mb"] > 100


def test_a_fresh_process_answers() -> None:
    assert in_fresh_process(sum, [1.5, 2]) == 3.5


def test_the_command_writes_its_tables(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Bench, "growth", lambda self: [{"network": "ViT"}])
    monkeypatch.setattr(Bench, "images", lambda self: [{"images": 1}])
    monkeypatch.setattr(contests, "in_fresh_process", lambda loop, *arguments: 2.0)
    monkeypatch.setattr(contests, "command_seconds", lambda arguments, until=None: float(len(arguments)))
    monkeypatch.setattr(contenders, "peak_flops", lambda device, precision: 1e9)  # the true one is a measurement too
    bench = Bench(overrides=SMALL, batch=2, rounds=1)
    flops_of = {
        "ViT": flops_per_image(bench.vit(), bench.noise(1)),
        "CNN": flops_per_image(bench.cnn(), bench.noise(1)),
    }
    arguments = ["--out", "speed", "--rounds", "1", "--batch", "2", *SMALL]
    code, printed = call(__main__.main, arguments, monkeypatch, capfd)
    assert code == 0, printed
    tables = {path.stem: list(csv.DictReader(open(path))) for path in Path("speed").glob("*.csv")}
    assert tables.keys() == {"start", "steps", "switches", "profile", "epoch", "images", "augmentation", "growth"}
    assert len(tables["steps"]) == 6
    for row in tables["steps"]:
        assert 0 < float(row["ms_min"]) <= float(row["ms"]) <= float(row["ms_max"])
        flops = 3 * 2 * flops_of[row["network"].split(",")[0]]
        assert float(row["share_of_peak"]) == pytest.approx(flops / (float(row["ms"]) / 1000) / 1e9, rel=0.1)
        assert torch.__version__.split("+")[0] in row["machine"]
    loops = ["the steps alone", "the steps alone, vit-pytorch", "our loop"]
    assert [row["loop"] for row in tables["epoch"]][:3] == loops
    for network, operator in (("ViT", "bmm"), ("CNN", "convolution")):
        shares = {row["operator"]: float(row["share"]) for row in tables["profile"] if row["network"] == network}
        assert sum(shares.values()) == pytest.approx(1, abs=0.02)
        assert shares[operator] > 0
    assert [row["augmentation"] for row in tables["augmentation"]][0::9] == ["nothing", "all of recipe=strong"]
    assert tables["augmentation"][-1]["augmentation"] == "average of the ViT's weights (EMA)"
    assert {float(row["ms"]) for row in tables["epoch"]} == {2000.0}
    assert [float(row["seconds"]) for row in tables["start"]] == [2, 5 + len(SMALL)]
    assert Path("speed/steps.png").stat().st_size > 1000
    assert call(__main__.main, [*arguments, "--out", "one", "--only", "epoch"], monkeypatch, capfd)[0] == 0
    assert [path.name for path in Path("one").iterdir()] == ["epoch.csv"]
    code, printed = call(__main__.main, ["--only", "speed"], monkeypatch, capfd)
    assert code == 2
    assert "--only speed is not a table; there are start, steps, " in printed


def test_a_command_is_timed_to_its_end_or_to_its_first_line(own_folder: None) -> None:
    whole = command_seconds(["--cfg", "job"])
    run = Path("run")
    first = command_seconds(
        [
            *SMALL,
            "data=digits",
            "data.max_images=60",
            "recipe.batch_size=10",
            "max_steps=1",
            "trainer.log_every=1",
            "wandb.mode=disabled",
            f"hydra.run.dir={run}",
        ],
        until=run / "metrics.jsonl",
    )
    assert 0 < whole < first
    assert (run / "result.json").exists()  # it ends before the clock is read again
