"""Write a finished run as a folder for others: ``python -m vit_cnn.export runs/first --format onnx --out first``."""

import argparse
import importlib.util
from pathlib import Path

from vit_cnn.console import console
from vit_cnn.errors import Refused, exit_with_code

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn export",
        description="Write a finished run as a folder with model.safetensors, config.json and a model card. Each file "
        "is compared with the network on the validation images.",
        epilog="example: vit-cnn export runs/first --format onnx torch --out first",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="folder to write; new or empty")
    parser.add_argument(
        "--format",
        nargs="+",
        default=["safetensors"],
        choices=["safetensors", "onnx", "torch"],
        help="safetensors (default, always written); onnx adds model.onnx and its fp16 and int8 forms; torch adds "
        "model.pt2, a program of torch.export",
    )
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "fp16"], help="of model.safetensors (default: fp32)"
    )
    parser.add_argument("--attention", action="store_true", help="a ViT's programs give its attention maps too")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="whose code the run may name")
    arguments = parser.parse_args()
    for wanted in arguments.format:
        if missing := [name for name in NEEDS.get(wanted, ()) if importlib.util.find_spec(name) is None]:
            raise Refused(f"--format {wanted} needs {' and '.join(missing)}: pip install {' '.join(missing)}")

    from vit_cnn.export.folder import write_export  # imports torch, which takes seconds
    from vit_cnn.export.measure import table_of

    rows, split = write_export(
        arguments.run,
        arguments.out,
        formats=arguments.format,
        precision=arguments.precision,
        attention=arguments.attention,
        trust=":".join(arguments.trust),
    )
    console.print(table_of(rows, f"{arguments.out}, on {split}"))
    console.print(f"Classify with it: python -m vit_cnn.predict {arguments.out} photo.jpg")
    console.print(f"Upload it: hf upload <user>/<name> {arguments.out} .")


if __name__ == "__main__":
    exit_with_code(main)
