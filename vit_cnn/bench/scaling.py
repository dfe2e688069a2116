"""How much faster several processes train: ``python -m vit_cnn.bench.scaling``; first with 1, then with 2 of them.

Strong scaling shares a batch, weak scaling gives each process a batch of its own. Run it on an otherwise idle machine:
each process gets an equal part of the cores, also where it is alone. From the steps of one process it also says what to
expect over a network, where the gradients have to pass: ``experiments/speed/processes.md`` has the formula.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from vit_cnn.bench.measure import Row
from vit_cnn.bench.tables import show, write
from vit_cnn.errors import Failed, exit_with_code, for_child
from vit_cnn.machine import device_name

NETWORKS = ("vit", "cnn")
GBITS = (1, 10, 100)  # a second, of networks that are asked about
STEPS, LINE = 30, 5  # of each training; and of each line of its metrics, the median of which counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vit_cnn.bench.scaling", description=str(__doc__).split("\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the config, such as trainer.precision=bf16")
    parser.add_argument("--processes", type=int, default=2, help="at most; compared with one (default: 2)")
    parser.add_argument("--batch", type=int, default=128, help="images in a batch (default: 128)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each training (default: {STEPS})")
    parser.add_argument("--out", type=Path, default=Path("experiments/speed/processes.csv"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    number, batch = arguments.processes, arguments.batch
    threads = max(1, (os.cpu_count() or 1) // number)
    rows: list[Row] = []
    for network in NETWORKS:
        words = [f"model={network}", *arguments.overrides]
        alone, share, strong, weak = (
            trained([*words, f"recipe.batch_size={size}"], processes=processes, threads=threads, steps=arguments.steps)
            for processes, size in ((1, batch), (1, batch // number), (number, batch), (number, batch * number))
        )
        gradients = 4 * alone["params"]  # bytes, in fp32
        seconds, seconds_share = step_seconds(alone), step_seconds(share)
        for kind, result, one in (("strong", strong, seconds_share), ("weak", weak, seconds)):
            batches = 1 if kind == "strong" else number  # of ``batch`` images, in a step
            row: Row = {"network": network, "scaling": kind, "processes": number, "batch": batch * batches}
            row |= {"ms_of_one": round(1000 * seconds, 1), "ms": round(1000 * step_seconds(result), 1)}
            row["speed_up"] = round(batches * seconds / step_seconds(result), 2)
            for gbit in GBITS:
                expected = one + transfer_seconds(gradients, number, gbit)
                row[f"expected_at_{gbit}_gbit"] = round(batches * seconds / expected, 2)
            rows.append(row)
    machine = f"{device_name(torch.device('cpu')).rsplit(',', 1)[0]}, {threads} threads a process"
    write(arguments.out, rows, machine if not torch.cuda.is_available() else device_name(torch.device("cuda")))
    show("A training step of one process and of several", rows)


def trained(overrides: list[str], *, processes: int, threads: int, steps: int) -> Row:
    """What ``result.json`` says of a short training over so many processes.

    Raises:
        Failed: it did not end well.
    """
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        short = ["data=digits", f"max_steps={steps}", f"trainer.log_every={LINE}", f"hydra.run.dir={folder}/run"]
        command = [*launcher, "-m", "vit_cnn.train", *short, "wandb.mode=disabled", *overrides]
        ended = subprocess.run(
            command, env=for_child() | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True
        )
        if ended.returncode:
            told = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
            raise Failed(told[0] if told else ended.stderr)
        result: Row = json.loads((Path(folder) / "run" / "result.json").read_text())
        return result


def step_seconds(result: Row) -> float:
    return float(result["config"]["recipe"]["batch_size"] / result["images_per_second"])


def transfer_seconds(gradients: int, processes: int, gbit: float) -> float:
    """How long the sum of ``gradients`` bytes takes, of which each process sends and gets all but its own part twice.

    A ring, as gloo and NCCL do it (Patarasuk & Yuan, 2009, https://doi.org/10.1016/j.jpdc.2008.09.002).
    """
    return 2 * (processes - 1) / processes * 8 * gradients / (1e9 * gbit)


if __name__ == "__main__":
    exit_with_code(main)
