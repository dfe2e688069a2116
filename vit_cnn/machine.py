"""The machine: its name, its memory, its precision, its software; what a result has to say of it."""

import contextlib
import ctypes
import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


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


def precision_of(wanted: str) -> str:
    """``trainer.precision`` as it is on this machine: ``amp`` is bf16 where the GPU has it, else fp16."""
    if wanted == "amp":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return wanted


def has_quick_bf16(device: torch.device) -> bool:
    """Whether products in bf16 take no longer than in fp32; on a CPU without AVX-512 it is 10 to 50 times as long."""
    return device.type != "cpu" or "AVX512" in torch.backends.cpu.get_cpu_capability()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use since ``forget_peak_memory``: allocated on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # of Linux, where getrusage also counts the process that started this one
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, except on macOS


def forget_peak_memory(device: torch.device) -> None:
    """Let ``peak_memory_bytes`` begin anew with what is in use now; only on CUDA and Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # see https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
        Path("/proc/self/clear_refs").write_text("5")


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


def versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "numpy", "einops", "hydra-core", "omegaconf", "wandb", "pillow", "scikit-learn")
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # W&B, where a run does without it
            found[package] = importlib.metadata.version(package)
    return {"python": platform.python_version(), **found}


def git_state() -> dict[str, Any]:
    """The commit of the code and whether it was changed since; both ``None`` where it is no git checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed package may lie inside somebody else's checkout
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"sha": None, "dirty": None}
