"""Classify your own images: ``python -m vit_cnn.predict runs/mine photo.jpg more_photos/``.

From Python::

    run = load_run("runs/mine")
    probabilities = run.model(run.preprocess(["photo.jpg"])).softmax(dim=1)
    print(run.classes[probabilities[0].argmax()])
"""

import argparse
import glob
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from vit_cnn.console import console
from vit_cnn.errors import Failed, Refused, exit_with_code, shown
from vit_cnn.images.decode import SUFFIXES
from vit_cnn.models import ViT
from vit_cnn.models.attention_maps import cls_attention, rollout
from vit_cnn.run.pictures import Picture, enlarge, from_normalised, spotlight, tile, with_headings
from vit_cnn.run.trained import BATCH_SIZE, TrainedRun, load_run

__all__ = ["TrainedRun", "load_run"]

MOST_DRAWN = 16  # images, by --attention
SIDE = 224  # pixels of an image in the picture of the attention, about


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn predict",
        epilog="example: vit-cnn predict runs/mine photo.jpg --top 5",
        description="Classify images with a trained run",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, or export folder")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="file, folder or glob; - reads a list of them from standard input"
    )
    parser.add_argument("--top", type=int, default=3, help="how many classes to show (default: 3)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument(
        "--attention", metavar="OUT.png", type=Path, help=f"draw where a ViT looks (first {MOST_DRAWN} images)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="whose code the run may name")
    arguments = parser.parse_args()
    if arguments.top < 1:
        raise Refused(f"--top {arguments.top} must be at least 1")

    run = load_run(arguments.run, device=arguments.device, trust=":".join(arguments.trust))
    if arguments.attention and not isinstance(run.model, ViT):
        raise Refused(f"--attention: a {type(run.model).__name__} has no attention maps; give the run of a ViT")
    answers: list[dict[str, Any]] = []
    batch: list[tuple[dict[str, Any], Tensor]] = []  # to be answered, each with its image
    drawn: list[Tensor] = []
    for name in expanded(arguments.images):
        answers.append(answer := {"image": name})
        try:
            image = run.preprocess([name])
        except Refused as error:
            answer["error"] = str(error)
            continue
        batch.append((answer, image))
        if len(drawn) < MOST_DRAWN:
            drawn.append(image)
        if len(batch) == BATCH_SIZE:
            fill_in(batch, run, top=arguments.top)
            batch = []
    if batch:
        fill_in(batch, run, top=arguments.top)

    if arguments.json:
        print(json.dumps(answers, indent=2))
    else:
        print_answers(answers)
    if arguments.attention and drawn:
        save_png(attention_picture(run, torch.cat(drawn)), arguments.attention)
        looks = "where the last layer looks, and what reached it through all layers (rollout)"
        if not arguments.json:
            console.print(f"{arguments.attention}: each image, {looks}")
    if failed := sum("error" in answer for answer in answers):
        raise Failed(f"{failed} of {len(answers)} images cannot be read")


def fill_in(batch: list[tuple[dict[str, Any], Tensor]], run: TrainedRun, *, top: int) -> None:
    """Write into each answer of a batch the ``top`` most probable classes of its image [1, c, h, w]."""
    probabilities = run.model(torch.cat([image for _, image in batch])).softmax(dim=1).cpu()
    most = probabilities.topk(min(top, len(run.classes)), dim=1)
    for (answer, _), values, labels in zip(batch, most.values.tolist(), most.indices.tolist(), strict=True):
        named = zip(labels, values, strict=True)
        answer["top"] = [{"class": run.classes[label], "probability": value} for label, value in named]


def expanded(names: list[str]) -> Iterator[str]:
    """Files as they are; the images of folders, of globs that the shell left alone, and of a list on standard input."""
    for name in names:
        if name == "-":
            yield from expanded([line.rstrip("\n") for line in sys.stdin if line.strip()])
        elif Path(name).is_dir():
            inside = sorted(str(path) for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise Refused(f"{shown(name)} holds no images ({', '.join(sorted(SUFFIXES))})")
            yield from inside
        elif not Path(name).exists() and (matches := sorted(glob.glob(name, recursive=True))):
            yield from expanded(matches)
        else:
            yield name


def print_answers(answers: list[dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("classes, most probable first", overflow="fold")
    for answer in answers:
        if "error" in answer:
            cell = Text(answer["error"], style="red")
        else:
            cell = Text("   ").join(
                Text(f"{top['class']} {top['probability']:.1%}", style="bold" if rank == 0 else "")
                for rank, top in enumerate(answer["top"])
            )
        table.add_row(Text(shown(answer["image"])), cell)
    console.print(table)


def attention_picture(run: TrainedRun, images: Tensor) -> Picture:
    """A row for each image [b, c, h, w]: as the network sees it, CLS's attention in the last layer, rollout."""
    assert isinstance(run.model, ViT)
    maps = run.model.attention_maps(images)
    factor = max(1, SIDE // run.image_size)
    rows = []
    seen = [enlarge(picture, factor) for picture in from_normalised(images, run.mean, run.std)]
    for picture, last, flow in zip(seen, cls_attention(maps).mean(dim=1), rollout(maps), strict=True):
        rows += [picture, spotlight(picture, last), spotlight(picture, flow)]
    return with_headings(tile(rows, columns=3, gap=8), ["image", "last layer", "rollout"])


def save_png(picture: Picture, path: Path) -> None:
    from PIL import Image

    try:
        Image.fromarray(picture).save(path, format="PNG")
    except OSError as error:
        raise Failed(f"--attention {path} cannot be written: {error}") from error


if __name__ == "__main__":
    exit_with_code(main)
