"""Train a network, or several in a sweep: ``python -m vit_cnn.train model=vit data=cifar10``.

Prints at once that it begins, and answers Ctrl-C in a line from then on: what takes seconds to import is imported in
``main``. The rest is in ``vit_cnn/start.py``. Exit codes: ``vit_cnn/errors.py``.
"""

import contextlib
import os
import sys

from vit_cnn.errors import exit_with_code

# Options of Hydra that ask for something, and train nothing.
QUESTIONS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}


def main() -> None:
    asks = QUESTIONS & {argument.split("=")[0] for argument in sys.argv[1:]}
    if not asks and os.environ.get("RANK", "0") == "0":  # of several processes that torchrun starts, the first
        with contextlib.suppress(OSError):  # nobody reads it
            print("Loading PyTorch, then the images; the first step comes in some seconds.", flush=True)
    try:
        from vit_cnn.start import start

        start()
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("Interrupted before the first step; the same command starts again.") from error


if __name__ == "__main__":
    exit_with_code(main)
