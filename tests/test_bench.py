"""What the benchmark compares is comparable, and its figures are what they say."""

import csv
from pathlib import Path

import pytest
import torch
from helpers import call, composed
from torch import nn

from vit_cnn import bench, peers
from vit_cnn.bench import Bench

SMALL = ["data=digits", "trainer=cpu", "model.patch_size=8", "model.embed_dim=32", "model.hidden_dim=64"]


@pytest.fixture
def small() -> Bench:
    return Bench(cfg=composed(*SMALL), batch=4, rounds=2)


def test_peers_are_the_same_network_with_the_same_dropout_places(small: Bench) -> None:
    contenders = {name: network for name, network in small.contenders().items() if name.startswith("ViT")}
    assert len(contenders) == 4
    assert {peers.active_dropouts(network) for network in contenders.values()} == {1 + 6 * 3}
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in contenders.items()}
    assert sizes["ViT, ours"] == sizes["ViT, timm"] == sizes["ViT, nn.MultiheadAttention"]
    assert sizes["ViT, vit-pytorch"] == pytest.approx(sizes["ViT, ours"], rel=0.05)  # normalises patches, no QKV bias
    for network in contenders.values():
        assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_kept_bytes_are_counted_once(small: Bench) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7, bias=False), nn.Sigmoid())
    # Linear keeps its input (here the images themselves), the sigmoid its output.
    assert small.saved_bytes(network, 4) == 4 * (4 * 3072 + 4 * 7)


def test_rounds_leave_the_first_out(small: Bench) -> None:
    calls: list[str] = []
    times = small.in_rounds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")})
    assert calls == ["a", "b"] * 3
    assert [len(each) for each in times.values()] == [2, 2]


def test_the_command_writes_its_tables(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Bench, "growth", lambda self: [{"network": "ViT"}])
    monkeypatch.setattr(bench, "first_step_seconds", lambda: 1.0)
    code, printed = call(bench.main, ["--out", "speed", "--rounds", "1", "--batch", "2"], monkeypatch, capfd)
    assert code == 0, printed
    rows = list(csv.DictReader(open("speed/steps.csv")))
    assert len(rows) == 6
    for row in rows:
        assert float(row["step_ms"]) > 0
        assert 0 < float(row["share_of_peak"]) < 1
        assert torch.__version__.split("+")[0] in row["machine"]
    assert Path("speed/steps.png").stat().st_size > 1000


def test_the_first_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < bench.first_step_seconds() < 300
