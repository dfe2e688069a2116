"""What a result has to say of the machine it was measured on."""

import ctypes
import importlib.metadata
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit_cnn.models.linear import Linear


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    return f"{processor}, {torch.get_num_threads()} threads"


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: allocated on the accelerator, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # of Linux, where getrusage also counts the process that started this one
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, except on macOS


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation instead of giving it back to the system.

    By default it maps large tensors anew in every training step, and each of their pages costs a page fault. Holds for
    the process; does nothing elsewhere than on glibc. See https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(-4, 0)  # M_MMAP_MAX: no allocation gets a mapping of its own
    mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap never shrinks


def peak_flops(device: torch.device, autocast: torch.autocast) -> float:
    """Operations a second of a large matrix product in the precision of training: the best of five."""
    n = 2048 if device.type == "cpu" else 8192
    linear = nn.utils.skip_init(Linear, n, n, bias=False, device=device)  # draws nothing from the run's random state
    nn.init.ones_(linear.weight)
    rows = torch.ones(n, n, device=device)
    fastest = float("inf")
    for _ in range(6):  # the first warms up
        started = time.perf_counter()
        with torch.no_grad(), autocast:
            product = linear(rows)
        product[0, 0].item()  # waits for the device
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * n**3 / fastest


def versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "numpy", "einops", "hydra-core", "omegaconf", "wandb", "pillow", "scikit-learn")
    found = {package: importlib.metadata.version(package) for package in packages}
    return {"python": platform.python_version(), **found}


def git_state() -> dict[str, Any]:
    """The commit of the code and whether it was changed since; both ``None`` outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"sha": None, "dirty": None}
