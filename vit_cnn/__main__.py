"""One way in: ``vit-cnn train model=vit``, or ``python -m vit_cnn train model=vit``."""

import importlib
import os
import sys

from vit_cnn.errors import Refused, exit_with_code

COMMANDS = {  # name: the module that has it, and what it does
    "train": ("vit_cnn.train", "train a network, or go on with a run"),
    "sweep": ("vit_cnn.train", "train several, over every combination of values: model.dropout=0,0.2 seed=0,1"),
    "search": ("vit_cnn.search", "look for good settings with Optuna, by validation accuracy"),
    "evaluate": ("vit_cnn.evaluate", "measure a run's best weights again"),
    "predict": ("vit_cnn.predict", "classify your own images with a run"),
    "export": ("vit_cnn.export.__main__", "write a run as a folder for others: safetensors, ONNX, torch.export"),
    "compare": ("vit_cnn.compare", "finished runs side by side in the terminal"),
    "report": ("vit_cnn.report.__main__", "runs in one page: tables, curves, errors, a look inside"),
    "play": ("vit_cnn.play.__main__", "change an image and see at once what both networks make of it"),
    "probe": ("vit_cnn.probe", "a claim about the networks put to the test"),
    "estimate": ("vit_cnn.estimate", "how long a training or a sweep will take here"),
    "dashboard": ("vit_cnn.dashboard", "W&B panels that compare the runs"),
    "bench": ("vit_cnn.bench.__main__", "speed next to other libraries"),
}


def main() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: vit-cnn COMMAND …        vit-cnn COMMAND --help says more\n")
        for command, (_, what) in COMMANDS.items():
            print(f"  {command:<10} {what}")
        print("\nexample: vit-cnn train model=cnn data=digits recipe.epochs=3")
        return
    if name not in COMMANDS:
        raise Refused(f"{name} is not a command; there are {', '.join(COMMANDS)}")
    if name == "sweep" and "--help" not in arguments:
        arguments = ["-m", *arguments]
    sys.argv = [f"vit-cnn {name}", *arguments]
    importlib.import_module(COMMANDS[name][0]).main()


def script() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as python -m does: your own network may lie there
    exit_with_code(main)


if __name__ == "__main__":
    script()
