"""Hashes of what short trainings leave behind: ``python tests/same_bits.py``.

Run it before and after a change that should change nothing, on the same machine, and compare what it prints. Real
images are used where ``$VIT_CNN_DATA/cifar10-lossless`` is there, bf16 where the processor has units for it.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trainings import hashes

DIGITS = ["data=digits", "data.max_images=300", "recipe.epochs=3", "recipe.batch_size=50"]
REAL = ["data=folder", "data.root=${oc.env:VIT_CNN_DATA}/cifar10-lossless", "data.max_images=640", "recipe.epochs=2"]

TRAININGS = {
    "vit digits": ["model=vit", *DIGITS],
    "cnn digits": ["model=cnn", *DIGITS],
    "vit digits, modern": ["model=vit", "recipe=modern", *DIGITS],
    "cnn digits, sgd": ["model=cnn", *DIGITS, "recipe.optimizer.name=sgd", "recipe.optimizer.lr=0.02"],
    "vit digits, stopped and resumed": ["model=vit", *DIGITS],
    "cnn digits, stopped and resumed": ["model=cnn", "recipe=modern", *DIGITS],
    "vit real images": ["model=vit", *REAL],
    "cnn real images": ["model=cnn", *REAL],
    "vit real images, bf16": ["model=vit", *REAL, "trainer.precision=bf16"],
    "cnn real images, bf16": ["model=cnn", *REAL, "trainer.precision=bf16"],
}


def main() -> None:
    has_images = (Path(os.environ.get("VIT_CNN_DATA", "data")) / "cifar10-lossless").is_dir()
    cpuinfo = Path("/proc/cpuinfo")
    has_bf16 = cpuinfo.exists() and any(unit in cpuinfo.read_text() for unit in ("avx512_bf16", "amx_bf16"))
    for name, overrides in TRAININGS.items():
        if ("real" in name and not has_images) or ("bf16" in name and not has_bf16):
            print(f"{name}: left out")
            continue
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            train([*overrides, f"hydra.run.dir={run}"], stop_in=run if "stopped" in name else None)
            if "stopped" in name:
                train([f"resume={run}"])
            print(f"{name}: {' '.join(f'{what} {digest}' for what, digest in hashes(run).items())}", flush=True)


def train(overrides: list[str], stop_in: Path | None = None) -> None:
    """Run the command; with ``stop_in``, its run folder, ask it to stop after three lines of metrics."""
    command = [sys.executable, "-m", "vit_cnn.train", *overrides, "trainer=cpu", "trainer.log_every=1"]
    if any(override.startswith("resume=") for override in overrides):
        command = [*command[:-2], "trainer.log_every=1"]
    process = subprocess.Popen([*command], stdout=subprocess.DEVNULL, env=os.environ | {"WANDB_MODE": "disabled"})
    while stop_in and process.poll() is None:
        metrics = stop_in / "metrics.jsonl"
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 3:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.005)
    if process.wait() != (3 if stop_in else 0):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")


if __name__ == "__main__":
    main()
