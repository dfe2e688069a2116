"""Values and commands that can be pasted: quoted for Hydra, and then for a shell."""

import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from vit_cnn.processes.together import here

PLAIN_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*")  # needs no quotes in Hydra's grammar
RESERVED = ("null", "true", "false", "nan", "inf")


def resume_command(run_dir: Path, trust: str | None = None) -> str:
    """What goes on with a run, in as many processes on this machine.

    Args:
        trust: what of the user's own code the run folder names.
    """
    several = f"torchrun --standalone --nproc-per-node={here.local_number}"
    launcher = "python" if here.number == 1 else several
    return f"{launcher} -m vit_cnn.train {shlex.join(resume_words(run_dir, trust))}"


def resume_words(run_dir: Path, trust: str | None = None) -> list[str]:
    """The overrides that go on with a run, quoted for Hydra alone."""
    return [f"resume={in_hydra_grammar(str(run_dir))}", *([f"trust={in_hydra_grammar(trust)}"] if trust else [])]


def in_hydra_grammar(value: Any) -> str:
    """A value as Hydra's command line reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(in_hydra_grammar, value))}]"
    if isinstance(value, str) and (not PLAIN_WORD.fullmatch(value) or value.lower() in RESERVED):
        return QuotedString(text=value, quote=Quote.double).with_quotes()
    return str(value)
