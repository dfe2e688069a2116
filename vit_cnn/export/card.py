"""The model card: ``README.md`` of an export folder, as Hugging Face reads it, filled from ``result.json``."""

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf

from vit_cnn.config.schema import flat
from vit_cnn.config.trust import trust_of
from vit_cnn.export.measure import BATCHES, TOLERANCE, Measured
from vit_cnn.machine import device_name
from vit_cnn.run.files import write_atomically
from vit_cnn.run.looks import looks_in_words
from vit_cnn.run.reading import Run
from vit_cnn.run.result import is_number, nested
from vit_cnn.run.trained import TrainedRun

PUBLIC = {"CIFAR-10": "uoft-cs/cifar10", "CIFAR-100": "uoft-cs/cifar100"}  # our labels that are data sets of the hub
MOST_CLASSES = 20  # that are listed


def write_card(
    folder: Path, run: Run, trained: TrainedRun, rows: list[Measured], *, split: str, attention: bool
) -> None:
    """Write ``README.md``.

    Args:
        rows, split: how the files compare with the network, and on which images.
        attention: whether the programs give attention maps too.
    """
    result = run.figures
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template.filters |= {"quoted": quoted, "plain": plain}
    text = template.get_template("card.md").render(
        result=result,
        data=result["data"],
        run=run,
        trained=trained,
        rows=rows,
        tolerance=TOLERANCE,
        batch=BATCHES[-1],
        files=[row.file for row in rows],
        split=split,
        attention=attention,
        classes=trained.classes[:MOST_CLASSES],
        more_classes=max(0, len(trained.classes) - MOST_CLASSES),
        looks=looks_in_words(result.get("test_looks")),
        recipe=flat(run.config["recipe"]),
        commit=f"{nested(result, 'git.sha') or 'unknown'}{', with changes' if nested(result, 'git.dirty') else ''}",
        trust=trust_of(OmegaConf.create({"model": run.config["model"], "data": {}})),
        counts={key: f"{n:,}" for key, n in result["data"].items() if key in ("train", "val", "test") and is_number(n)},
        started_from=nested(result, "init.from"),
        public=PUBLIC.get(result["data"]["name"]),
        slug=re.sub(r"[^a-z0-9]+", "-", result["data"]["name"].lower()).strip("-") or "images",
        machine=device_name(trained.mean.device),
    )
    write_atomically(folder / "README.md", lambda file: file.write(text.encode()))


def quoted(value: Any) -> str:
    """A value for YAML, which reads all of JSON."""
    return json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> str:
    """Somebody's text, such as the name of a folder, without what Markdown or HTML would take for its own."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))
