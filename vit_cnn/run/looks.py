"""How often a run's test images were looked at: whoever looks again must not say that it was once."""

import json
import logging
from datetime import datetime
from pathlib import Path

from vit_cnn.processes.together import is_first

log = logging.getLogger(__name__)

FILE = "test_looks.jsonl"  # a line for each look


def note_look(run_dir: Path, by: str) -> None:
    """Count a look at the test images, before anything of it is told; ``by`` says which command looks."""
    if not is_first():
        return
    try:
        with open(run_dir / FILE, "a") as file:
            file.write(json.dumps({"by": by, "at": datetime.now().isoformat(timespec="seconds")}) + "\n")
    except OSError as error:  # somebody else's folder may be read-only
        log.warning("This look at the test images cannot be counted: %s", error)


def count_looks(run_dir: Path) -> int | None:
    """Looks so far; ``None`` where nobody counted, as in runs of earlier versions."""
    path = run_dir / FILE
    return path.read_bytes().count(b"\n") if path.exists() else None


def looks_in_words(looks: int | None) -> str:
    if looks is None:
        return "nobody counted how often the test images were looked at"
    times = {1: "once, at the end", 2: "twice"}.get(looks, f"{looks} times")
    return f"the test images were looked at {times}"
