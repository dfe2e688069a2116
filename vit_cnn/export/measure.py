"""What an exported file is worth: its answers next to the network's, its size, its speed."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from vit_cnn.data import Split
from vit_cnn.errors import Refused
from vit_cnn.run.trained import BATCH_SIZE, TrainedRun, load_run

Answers = Callable[[Tensor], Tensor]  # uint8 images [b, c, h, w] → logits [b, classes]

BATCHES = (1, 3, BATCH_SIZE)  # sizes that each file has to take; the rest comes in batches of the last

# Largest difference from the network's logits that is let through, as a share of the largest logit.
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-1}

KINDS = {"model.fp16.onnx": "fp16", "model.int8.onnx": "int8"}  # the others are fp32


@dataclasses.dataclass(frozen=True)
class Measured:
    """One file.

    Attributes:
        precision: of the numbers in it: fp32, fp16 or int8.
        megabytes: its size.
        difference: largest one between its logits and the network's, as a share of the network's largest logit.
        accuracy: a fraction of the images.
        images_per_second: on this machine's CPU.
    """

    file: str
    precision: str
    megabytes: float
    difference: float
    accuracy: float
    images_per_second: float


def answers_of(path: Path, *, trust: str) -> Answers:
    """What an exported file says, as whoever gets it will ask it."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as many as the other files get
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda images: first(program(images))
    run = load_run(path.parent, trust=trust)
    return lambda images: run.model(run.normalised(images))


def first(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


@torch.no_grad()
def logits_in_batches(answers: Answers, images: Tensor) -> tuple[Tensor, float]:
    """Logits of ``images`` and images per second, without the first batches, in which programs get ready.

    The images are asked over and over, where they are fewer than ``BATCHES`` take.
    """
    chosen = torch.arange(max(len(images), sum(BATCHES) + BATCHES[-1])) % len(images)
    parts = [*chosen.split([*BATCHES, len(chosen) - sum(BATCHES)])]
    logits = [answers(images[part]) for part in parts[:-1]]
    started = time.perf_counter()
    logits += [answers(images[part]) for part in parts[-1].split(BATCHES[-1])]
    speed = len(parts[-1]) / (time.perf_counter() - started)
    return torch.cat(logits).float(), speed


def measure(files: list[Path], run: TrainedRun, split: Split, *, precision: str, trust: str) -> list[Measured]:
    """Compare each file with the network of ``run`` on the images of ``split``.

    Args:
        precision: of ``model.safetensors``.

    Raises:
        Refused: the answers of one differ by more than ``TOLERANCE``.
    """
    truth, _ = logits_in_batches(lambda images: run.model(run.normalised(images)), split.images)
    rows = []
    for path in files:
        logits, speed = logits_in_batches(answers_of(path, trust=trust), split.images)
        kind = precision if path.suffix == ".safetensors" else KINDS.get(path.name, "fp32")
        difference = ((logits - truth).abs().max() / truth.abs().max()).item()
        if not difference <= TOLERANCE[kind]:
            raise Refused(
                f"{path.name}: its logits differ from the network's by up to {difference:.1e} of the largest one, and "
                f"{TOLERANCE[kind]:g} is allowed for {kind}: nothing was written"
            )
        right = logits[: len(split)].argmax(dim=1) == split.labels
        size = path.stat().st_size / 1e6
        rows.append(Measured(path.name, kind, size, difference, right.double().mean().item(), speed))
    return rows


def table_of(rows: list[Measured], title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file")
    for heading in ("numbers", "MB", "largest difference", "allowed", "accuracy", "images/s"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.file, row.precision, f"{row.megabytes:.2f}", f"{row.difference:.1e}", f"{TOLERANCE[row.precision]:g}",
            f"{row.accuracy:.2%}", f"{row.images_per_second:,.0f}",
        )  # fmt: skip
    return table
