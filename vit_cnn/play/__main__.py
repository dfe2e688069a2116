"""Play with trained networks in the browser: ``python -m vit_cnn.play runs/vit runs/cnn``."""

import argparse
import contextlib
import importlib.util
import os
import tempfile
import threading
from pathlib import Path

from vit_cnn.console import console
from vit_cnn.errors import Refused, exit_with_code

NEEDED = ("gradio", "captum")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="vit-cnn play",
        epilog="example: vit-cnn play runs/vit runs/cnn",
        description="Open a page on which you change an image and see at once what both networks make of it",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run or export folder, or a folder of them")
    parser.add_argument("--split", default="val", help="images: val (default) or test, whose every look is counted")
    parser.add_argument("--port", type=int, help="of the page (default: the first that is free from 7860 on)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or mps")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="whose code a run may name")
    arguments = parser.parse_args()
    if arguments.split not in ("val", "test"):
        raise Refused(f"--split {arguments.split} must be val or test")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise Refused(f"--port {arguments.port} must be from 1 to 65535")
    if missing := [package for package in NEEDED if not importlib.util.find_spec(package)]:
        raise Refused(f"play needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    from vit_cnn.play.stage import stage_of

    trust = ":".join(arguments.trust)
    stage = stage_of(arguments.runs, split=arguments.split, device=arguments.device, trust=trust)
    with tempfile.TemporaryDirectory(prefix="vit-cnn-play-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # what was dropped on the page goes when the page does
        from vit_cnn.play.serve import serve

        try:
            blocks, address = serve(stage, port=arguments.port, open_browser=not arguments.no_browser)
        except OSError as error:
            port = "no port is free" if arguments.port is None else f"--port {arguments.port} is in use"
            raise Refused(port) from error
        console.print(f"The page is at {address} until you press Ctrl-C.", highlight=False)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        blocks.close(verbose=False)


if __name__ == "__main__":
    exit_with_code(main)
