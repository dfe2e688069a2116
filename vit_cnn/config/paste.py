"""Values and commands that can be pasted: quoted for Hydra, and then for a shell."""

import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

PLAIN_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*")  # needs no quotes in Hydra's grammar
RESERVED = ("null", "true", "false", "nan", "inf")


def resume_command(run_dir: Path, trust: str | None = None) -> str:
    """What goes on with a run.

    Args:
        trust: what of the user's own code the run folder names.
    """
    words = [f"resume={in_hydra_grammar(str(run_dir))}", *([f"trust={in_hydra_grammar(trust)}"] if trust else [])]
    return f"python -m vit_cnn.train {shlex.join(words)}"


def in_hydra_grammar(value: Any) -> str:
    """A value as Hydra's command line reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(in_hydra_grammar, value))}]"
    if isinstance(value, str) and (not PLAIN_WORD.fullmatch(value) or value.lower() in RESERVED):
        return QuotedString(text=value, quote=Quote.double).with_quotes()
    return str(value)
