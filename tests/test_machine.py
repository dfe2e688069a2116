"""What is asked of the machine."""

import importlib.metadata
import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import run

from vit_cnn.machine import peak_memory_bytes, versions
from vit_cnn.models import ViT  # noqa: F401, switches cuDNN's attention off
from vit_cnn.models.linear import Linear
from vit_cnn.training import loop
from vit_cnn.training.speed import peak_flops

FAULTS = """
import resource, sys, torch
from vit_cnn.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for step in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.ones(10 * 2**20) for _ in range(4)]  # of 40 MiB
    del activations
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_kept_memory_is_not_mapped_anew() -> None:
    faults = {}
    for how in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["keep"] * 10 < faults["default"]


def test_the_peak_is_of_this_process_alone() -> None:
    """Also where a process that had more memory started it."""
    code = "import torch; from vit_cnn.machine import peak_memory_bytes as peak; print(peak(torch.device('cpu')))"
    ballast = torch.ones(2**28)  # 1 GiB
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**25 < int(done.stdout) < ballast.nbytes
    assert peak_memory_bytes(torch.device("cpu")) > ballast.nbytes


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_of_a_run_is_not_that_of_what_came_before_in_its_process() -> None:
    run("first", "max_steps=1")  # what PyTorch loads for it stays
    with mmap.mmap(-1, 2**28) as before:
        for _ in range(2**8):
            before.write(bytes(2**20))
    peak = peak_memory_bytes(torch.device("cpu"))
    assert run("run", "max_steps=1")["peak_memory_bytes"] < peak - 2**27


def test_bf16_where_it_is_slow_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(loop, "peak_flops", lambda device, precision: 1e9)
    for precision, is_quick, warned in (("bf16", False, True), ("bf16", True, False), ("fp32", False, False)):
        caplog.clear()
        monkeypatch.setattr(loop, "has_quick_bf16", lambda device, is_quick=is_quick: is_quick)
        run(f"{precision} {is_quick}", "max_steps=1", f"trainer.precision={precision}")
        assert ("this processor has no units for it" in caplog.text) == warned


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_peak_is_measured_in_the_precision_of_training(
    precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Casting its inputs each time would make the peak too low, and every share of it too high."""
    seen = []

    def spy(self: Linear, rows: torch.Tensor) -> torch.Tensor:
        seen.append((rows.dtype, self.weight.dtype))
        return torch.zeros(1, 1)

    monkeypatch.setattr(Linear, "forward", spy)
    peak_flops.__wrapped__(torch.device("cpu"), precision)
    assert set(seen) == {(dtype, dtype)}


def test_a_result_names_the_versions_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with wandb.mode=disabled does without W&B."""
    version = importlib.metadata.version

    def without_wandb(package: str) -> str:
        if package == "wandb":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr("importlib.metadata.version", without_wandb)
    found = versions()
    assert "wandb" not in found
    assert found["torch"] == version("torch")


def test_attention_of_cudnn_is_off() -> None:
    """It rounds the dropout rate to sixteenths."""
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_measuring_the_peak_leaves_no_trace_in_the_peak_memory() -> None:
    device = torch.device("cuda")
    peak_flops.__wrapped__(device, "fp32")
    assert peak_memory_bytes(device) < 2**27
