"""Finished runs side by side: ``python -m vit_cnn.compare runs/a runs/b``."""

import argparse
from pathlib import Path

from vit_cnn.errors import Refused, exit_with_code
from vit_cnn.run.display import print_results
from vit_cnn.run.looks import count_looks
from vit_cnn.run.result import read_result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn compare",
        epilog="example: vit-cnn compare runs/a runs/b",
        description="Finished runs side by side",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder with a result.json")
    runs = parser.parse_args().runs
    if unfinished := [run for run in runs if not (run / "result.json").exists()]:
        why = "not a run folder, or a run that has not finished"
        if any(unfinished[0].glob("*/**/result.json")):
            why = f"a folder of runs; vit-cnn report {unfinished[0]} shows them all"
        raise Refused(f"{unfinished[0]} has no result.json: {why}")
    print_results([read_result(run) | {"test_looks": count_looks(run)} for run in runs])


if __name__ == "__main__":
    exit_with_code(main)
