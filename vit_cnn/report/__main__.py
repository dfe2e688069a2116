"""Compare runs: ``python -m vit_cnn.report runs/a runs/b`` writes a page, its figures and its tables."""

import argparse
from pathlib import Path

from vit_cnn.console import console
from vit_cnn.errors import Refused, exit_with_code
from vit_cnn.report.build import build
from vit_cnn.run.reading import find_runs


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn report",
        epilog="example: vit-cnn report runs/a runs/b --out report",
        description="Compare runs in a page and its files",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, or a folder of them")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for the report (default: report)")
    parser.add_argument(
        "--probes", type=Path, help="folder of what vit-cnn probe found (default: probes, if it is there)"
    )
    parser.add_argument("--no-inside", action="store_true", help="leave out the look inside the networks")
    parser.add_argument("--replace", action="store_true", help="also a report of other runs that is in the folder")
    parser.add_argument(
        "--any-machine",
        action="store_true",
        help="seeds on different machines belong together; costs have no times",
    )
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="whose code a run may name")
    arguments = parser.parse_args()
    if arguments.probes and not arguments.probes.is_dir():
        raise Refused(f"--probes {arguments.probes}: there is no such folder")
    trust = ":".join(arguments.trust)
    runs = find_runs(arguments.runs, trust=trust)
    inside = not arguments.no_inside
    page = build(
        runs,
        arguments.out,
        look_inside=inside,
        replace=arguments.replace,
        any_machine=arguments.any_machine,
        probes=arguments.probes or Path("probes"),
        trust=trust,
    )
    console.print(f"Report: {page}")


if __name__ == "__main__":
    exit_with_code(main)
