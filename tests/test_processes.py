"""One training over several processes is the training of one: its figures, its files, and how it ends."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import augmentation_of, call, composed, metrics, stop_at
from hydra.utils import instantiate
from torch import nn

from vit_cnn.errors import Refused, Stopped
from vit_cnn.processes.together import here, own_device
from vit_cnn.train import main
from vit_cnn.training.batches import Batches
from vit_cnn.training.loop import train
from vit_cnn.training.plan import plan_run
from vit_cnn.training.shares import with_global_batch_norm

HERE = Path(__file__).parent

SMALL = [
    "data=digits", "data.max_images=170", "recipe=strong", "recipe.batch_size=24", "recipe.epochs=5", "max_steps=30",
    "recipe.schedule.warmup_epochs=1", "recipe.optimizer.lr=3e-3", "trainer=cpu", "trainer.log_every=1", "seed=3",
]  # fmt: skip
TINY_VIT = [
    "model=vit", "model.patch_size=8", "model.embed_dim=32", "model.hidden_dim=32", "model.num_heads=2",
    "model.num_layers=2", "model.dropout=0", "model.stochastic_depth=0",
]  # fmt: skip
VIT = [*SMALL, *TINY_VIT, "recipe.ema_decay=0.9", "recipe.grad_clip=0.5", "recipe.augment.flip=alternating"]
# Not by AdamW, whose steps have their full length also where a gradient is rounding and nothing else. Even so, rounding
# turns a ReLU or the place of a maximum sooner or later.
CNN = [*SMALL, "model=cnn", "data.image_size=8", "recipe.optimizer.name=sgd", "recipe.optimizer.lr=1e-3"]


def torchrun(
    *words: str, processes: int = 2, restarts: int = 0, meeting: tuple[str, ...] = ("--standalone",), **environment: str
) -> Any:
    """Run a command in several processes on this machine."""
    options = [*meeting, f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, *words],
        capture_output=True,
        text=True,
        timeout=300 * (1 + restarts),
        env={key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}  # set by vit_cnn, here
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
        | environment,
    )


def curve(folder: str, key: str) -> list[float]:
    return [line[key] for line in metrics(folder) if key in line]


def test_two_processes_train_what_one_trains() -> None:
    """The same losses at each of 30 steps, with all that the strong recipe does to images, mixing among it."""
    cases = {"vit": VIT, "cnn": CNN, "alone": [*CNN, "max_steps=2", "trainer.sync_batchnorm=false"]}
    for name, overrides in cases.items():
        for folder in (Path("one", name), Path("two", name)):
            folder.mkdir(parents=True)
        Path("two", name, "overrides.json").write_text(json.dumps(overrides))
    ended = torchrun(str(HERE / "several.py"), *(f"two/{name}" for name in cases))
    assert ended.returncode == 0, ended.stderr
    assert not [path for path in Path("of_others").rglob("*") if path.is_file()]

    for name, overrides in cases.items():
        one, two = f"one/{name}", f"two/{name}"
        train(composed(*overrides), Path(one))
        assert [json.loads(Path(run, "result.json").read_text())["processes"] for run in (one, two)] == [1, 2]
    for name in ("vit", "cnn"):
        for key in ("train/loss", "val/loss", "grad_norm"):
            assert max(apart(name, key)[:10]) < 1e-5, (name, key)
        assert len(apart(name, "train/loss")) == 30
        assert max(apart(name, "train/loss") + apart(name, "val/loss")) < 1e-3
        ours, theirs = (np.load(f"{run}/{name}/predictions.npz")["test_logits"] for run in ("one", "two"))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert max(apart("vit", "grad_norm")) < 1e-5
    assert min(apart("alone", "train/loss")) > 1e-4, "batch norm over a share alone must be noticed"


def apart(name: str, key: str) -> list[float]:
    """How far two processes are from one, as a share, at each step."""
    pairs = zip(curve(f"two/{name}", key), curve(f"one/{name}", key), strict=True)
    return [abs(two - one) / one for two, one in pairs]


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_shares_put_together_are_the_batch(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is augmented, and mixed with its partner of the whole batch, as in one process."""
    augmentation = augmentation_of("recipe=strong", "recipe.augment.crop_scale=[0.5,1]", "recipe.mixing.probability=1")
    chosen = torch.randperm(24)
    shares = []
    for rank, number in [(0, 1), *((rank, processes) for rank in range(processes))]:
        monkeypatch.setattr(here, "rank", rank)
        monkeypatch.setattr(here, "number", number)
        shares.append(Batches(augmentation).make([(2, chosen), (3, chosen.flip(0))], epoch=1))
    for batches in zip(*shares, strict=True):
        for whole, *parts in zip(*batches, strict=True):
            torch.testing.assert_close(torch.cat(parts), whole)


def test_each_process_has_dropout_of_its_own_that_a_resume_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "number", 2)
    batches = Batches(augmentation_of(), at_once=3)
    drawn = {}
    for rank, first in [(0, 0), (1, 0), (1, 2)]:
        monkeypatch.setattr(here, "rank", rank)
        drawn[rank, first] = [torch.rand(1).item() for _ in batches.of_epoch(0, first=first)]
    assert drawn[1, 2] == drawn[1, 0][2:]
    assert len({*drawn[0, 0], *drawn[1, 0]}) == 10


def test_each_process_sets_the_gpu_on_which_streams_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cpu", "cuda", "cuda:1"):
        assert own_device(name) == torch.device(name)
    monkeypatch.setattr(here, "number", 4)
    monkeypatch.setattr(here, "local_rank", 3)
    own_device("cuda")
    assert chosen == [0, 1, 3]


def test_a_batch_norm_of_another_kind_is_refused() -> None:
    class Odd(nn.BatchNorm2d):
        pass

    with pytest.raises(Refused, match=r"sync_batchnorm=true knows PyTorch's own batch norms .* and not .*Odd: use fal"):
        with_global_batch_norm(nn.Sequential(nn.BatchNorm2d(3), Odd(3)))


def test_what_cannot_be_trained_together_is_refused_in_a_line_and_leaves_nothing() -> None:
    """One torchrun starts the processes again and again, each time with another fault."""
    told = {
        "code-1-0": r"process 1 on \S+ has another code than process 0 on \S+: another there, \w+ here",
        "command-1-0": r"process 1 on \S+ has another command than process 0 on \S+: .* seed=9 there, ",
        "folder-1-0": r"process 1 on \S+ does not see runs/vit-digits/\S+: choose a folder that all machines share",
        "images-1-0": r"process 1 on \S+ has another images than process 0 on \S+: ",
    }
    ended = torchrun(str(HERE / "faulty.py"), *VIT, restarts=len(told) - 1, FAULTS=" ".join(told))
    assert ended.returncode == 1  # of torchrun itself
    assert [line for line in ended.stderr.splitlines() if line.startswith("error: ")] == [
        Matching(f"error: {message}") for message in told.values()
    ]
    assert ended.stderr.count("Traceback") == 1  # that of torchrun
    assert set(re.findall(r"exitcode: +(-?\d+)", ended.stderr)) <= {"2", "-15"}
    assert ended.stdout.splitlines() == len(told) * [Matching("Loading PyTorch")]
    assert not os.listdir()


def test_a_batch_that_cannot_be_shared_and_a_sweep_are_refused(
    command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = composed(*VIT, "recipe.batch_size=25")
    data = instantiate(cfg.data)
    monkeypatch.setattr(here, "number", 2)
    with pytest.raises(Refused, match=r"recipe\.batch_size=25 cannot be shared evenly by 2 processes"):
        plan_run(cfg, Path("run"), data, None)
    code, printed = command("-m", *VIT, "seed=0,1")
    assert (
        code,
        "error: -m, or an experiment that sweeps, starts many runs; torchrun shares the batches of one" in printed,
    ) == (2, True)
    assert not os.listdir()


class Matching(str):
    """Equal to each text that begins as this regular expression says."""

    def __eq__(self, other: object) -> bool:
        return bool(re.match(str(self), str(other)))

    __hash__ = None


def test_whatever_befalls_one_process_ends_all_with_one_message_and_torchrun_goes_on() -> None:
    told = {
        "nan-1-4": "error: the loss is nan at step 4; last.pt holds the last good weights",
        "memory-1-9": r"error: process 1 on \S+: out of memory on cpu with recipe.batch_size=24",
        "full-0-12": r"error: runs/vit-digits/\S+/last.pt cannot be written: No space left on device",
        "TERM-1-17": r"Stopped at step 17 of 30. To go on:",
        "KILL-1-20": r"error: another process of this run has ended: it was killed, or its machine",
        "silence-1-23": r"error: another process of this run has not answered for 20 seconds",
    }
    ended = torchrun(str(HERE / "faulty.py"), *VIT, restarts=len(told), FAULTS=" ".join(told))
    assert ended.returncode == 0, ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith(("error: ", "Stopped"))] == [
        Matching(message) for message in told.values()
    ]
    (folder,) = Path("runs").glob("*/*")
    assert ended.stdout.count(f"torchrun has started the processes anew: going on with {folder}") == len(told)
    straight = train(composed(*VIT), Path("straight"))
    assert json.loads((folder / "result.json").read_text())["test/loss"] == pytest.approx(straight["test/loss"], 1e-3)
    for key in ("train/loss", "val/loss"):
        assert curve(str(folder), key) == pytest.approx(curve("straight", key), rel=1e-4)


def test_a_run_goes_on_with_another_number_of_processes_also_over_two_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process to step 10, two torchruns that meet over the network to step 20, one process to the end."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 10)
        train(composed(*VIT), Path("run"))
    meeting = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=both")
    with ThreadPoolExecutor(2) as hosts:
        words = [str(HERE / "faulty.py"), "resume=run"]
        calls = [hosts.submit(torchrun, *words, processes=1, meeting=meeting, FAULTS="TERM-1-20") for _ in range(2)]
    ended = [each.result() for each in calls]
    assert "Stopped at step 20 of 30. To go on:" in ended[0].stderr + ended[1].stderr
    assert "exitcode  : 3" in ended[0].stderr + ended[1].stderr
    result = train(composed(*VIT), Path("run"))
    assert [part["changed"] for part in result["continued"]] == [{"processes": [1, 2]}, {"processes": [2, 1]}]
    straight = train(composed(*VIT), Path("straight"))
    assert result["test/loss"] == pytest.approx(straight["test/loss"], rel=1e-3)
    assert curve("run", "train/loss") == pytest.approx(curve("straight", "train/loss"), rel=1e-4)


def test_a_port_in_use_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        code, printed = call(main, [*VIT], monkeypatch, capfd)
    assert (code, printed.splitlines()[1:]) == (2, [Matching(f"error: MASTER_PORT={port} is in use on .*: choose")])
    assert not os.listdir()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
