"""Measure a trained network: ``vit-cnn evaluate runs/… split=test``.

Uses the best weights, on clean images, as the end of a training run does, and reproduces its ``result.json``.
"""

import dataclasses
import sys
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import MISSING, OmegaConf
from rich import box
from rich.table import Table

from vit_cnn import config
from vit_cnn.config.network import build_network
from vit_cnn.config.target import network_name
from vit_cnn.console import console
from vit_cnn.data import Dataset, Split
from vit_cnn.errors import Refused, exit_with_code
from vit_cnn.machine import precision_of
from vit_cnn.run import checkpoint
from vit_cnn.run.looks import note_look
from vit_cnn.run.result import read_result
from vit_cnn.run.trained import load_config
from vit_cnn.training.precision import autocast_for, use_whole_fp32
from vit_cnn.training.scoring import logits_of, score


@dataclasses.dataclass
class Command:
    run: str = MISSING  # run folder
    split: str = "test"  # train, val or test
    trust: str = ""  # package whose code the run may name
    device: str = "auto"  # auto: where the run was trained if that device is here, else cpu
    flip: bool = False  # measure the mean of the logits for each image and its mirror image as well


HELP = """usage: vit-cnn evaluate RUN [split=test] [device=auto] [flip=false] [trust=…]

  RUN     run folder
  split   train, val or test (default); a look at the test images is counted in the run folder
  trust   package of yours whose code the run may name
  device  cpu, cuda or mps; auto (default): where the run was trained if that device is here, else cpu
  flip    true: beside it, what the mean of the logits for each image and its mirror image says (test-time augmentation)

example: vit-cnn evaluate runs/first split=val"""


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP)
        return
    folders = [argument for argument in sys.argv[1:] if "=" not in argument or Path(argument).is_dir()]
    if len(folders) > 1:
        raise Refused("evaluate takes one run folder")
    given = OmegaConf.from_dotlist([argument for argument in sys.argv[1:] if argument not in folders])
    if folders:
        given.run = folders[0]  # as it is: its name may look like YAML
    command = config.typed(Command, dict(given), prefix="")
    if command.split not in ("train", "val", "test"):
        raise Refused(f"split={command.split} must be one of train, val, test")
    run_dir = Path(command.run)
    cfg = load_config(run_dir, device=command.device, trust=command.trust)
    weights = checkpoint.load_best(run_dir)
    use_whole_fp32()
    device = torch.device(cfg.trainer.device)
    data: Dataset = instantiate(cfg.data).to(device)
    if (before := weights.get("fingerprint")) != data.fingerprint:
        raise Refused(f"{run_dir} was trained on other images or another split: {before}, now {data.fingerprint}")
    model = build_network(cfg.model).to(device)
    checkpoint.load_weights(model, weights["model"], run_dir / "best.pt")

    if command.split == "test":
        note_look(run_dir, by="evaluate")
    split: Split = data.train.distinct() if command.split == "train" else getattr(data, command.split)
    autocast = autocast_for(device, precision_of(cfg.trainer.precision))
    logits = logits_of(model, split, data, autocast)
    columns = {"now": score(logits, split.labels)}
    if command.flip:
        mirrored = logits_of(model, dataclasses.replace(split, images=split.images.flip(-1)), data, autocast)
        columns["with flip"] = score((logits + mirrored) / 2, split.labels)

    recorded = read_result(run_dir) if (run_dir / "result.json").exists() else {}
    columns["result.json"] = {key: recorded[f"{command.split}/{key}"] for key in columns["now"] if recorded}
    table = Table(
        title=f"{network_name(cfg.model)} on {data.name}, {len(split):,} {command.split} images", box=box.SIMPLE_HEAD
    )
    for heading in ("", *columns):
        table.add_column(heading, justify="right")
    for key, name in (("acc", "accuracy"), ("loss", "loss")):
        table.add_row(name, *(f"{scores[key]:.6f}" if key in scores else "–" for scores in columns.values()))
    console.print(table)


if __name__ == "__main__":
    exit_with_code(main)
