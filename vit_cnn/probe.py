"""Put a claim about the networks to the test: ``vit-cnn probe shift runs/vit runs/cnn`` writes a table and a figure."""

import argparse
import dataclasses
from pathlib import Path

from vit_cnn.console import console
from vit_cnn.errors import Refused, exit_with_code
from vit_cnn.probes import agreement, corruption, hybrid, inside, patches, permutation, scaling, shift
from vit_cnn.probes.settings import check_trained_alike
from vit_cnn.probes.subjects import Look, check_finished
from vit_cnn.run.looks import note_look
from vit_cnn.run.reading import Run, find_runs

PROBES = {
    "agreement": agreement.probe,
    "shift": shift.probe,
    "patches": patches.probe,
    "corruption": corruption.probe,
    "inside": inside.probe,
    "permutation": permutation.probe,
    "scaling": scaling.probe,
    "hybrid": hybrid.probe,
}

SPLITS = {"val": "validation", "test": "test"}

EPILOG = """probes of any runs:
  agreement    do the networks make the same mistakes?
  shift        do answers stay when the image moves?
  patches      who needs arrangement, who needs texture?
  corruption   noise, blur and the like, as in CIFAR-10-C
  inside       how far attention looks; which layers are alike
probes of runs trained for them, by experiment=NAME:
  permutation  does it matter where a pixel is?
  scaling      who gains more from more images?
  hybrid       a ViT whose patches are embedded by convolutions

example: vit-cnn probe shift runs/vit runs/cnn --out probes"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn probe",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
        description="Put a claim about the networks to the test; writes NAME.csv, NAME.png and NAME.txt",
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(PROBES)}")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder of them")
    parser.add_argument("--out", type=Path, default=Path("probes"), help="folder for what is found (default: probes)")
    parser.add_argument("--split", default="val", help="val (default) or test, whose every look is counted")
    parser.add_argument(
        "--images",
        type=int,
        default=1000,
        help="at most so many images for shift, patches, corruption and inside; the others take all (default: 1000)",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="whose code a run may name")
    arguments = parser.parse_args()
    if arguments.name not in PROBES:
        raise Refused(f"{arguments.name} is not a probe; there are {', '.join(PROBES)}")
    if arguments.split not in SPLITS:
        raise Refused(f"--split {arguments.split} must be val or test")
    if arguments.images < 2:
        raise Refused(f"--images {arguments.images} must be at least 2")
    trust = ":".join(arguments.trust)
    runs = find_runs(arguments.runs, trust=trust)
    check_finished(runs)
    look = Look(split=arguments.split, images=arguments.images, device=arguments.device, trust=trust)
    findings = PROBES[arguments.name](runs, look)
    if arguments.split == "test":
        for run in runs:
            note_look(run.folder, by=f"probe {arguments.name}")
    seen = f"Seen: {findings.rows[0]['images']:,} {SPLITS[arguments.split]} images."
    findings = dataclasses.replace(findings, verdict=f"{findings.verdict}{reservation(runs)} {seen}")
    findings.write(arguments.out, arguments.name, [run.folder for run in runs])
    console.print(findings.verdict, highlight=False)
    console.print(
        "Intervals are of 95 %: over seeds if there are three or more, else over images; agreement and inside always "
        "take images."
    )
    console.print(
        f"Table, figure and this sentence: {arguments.out / arguments.name}.csv, .png, .txt; vit-cnn report shows them."
    )


def reservation(runs: list[Run]) -> str:
    """What else than the network may be behind a finding, where it may be anything else."""
    try:
        check_trained_alike(runs)
    except Refused as error:
        return f" Mind: {error}."
    return ""


if __name__ == "__main__":
    exit_with_code(main)
