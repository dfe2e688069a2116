"""``result.json`` read back, checked so that whoever formats or averages its figures meets no surprise."""

from pathlib import Path
from typing import Any

from vit_cnn.errors import Refused
from vit_cnn.run.files import read_json

NUMBERS = (
    "params", "flops_per_image", "epochs", "steps", "seed", "best_epoch", "seconds_train", "images_per_second",
    "share_of_peak", "config.recipe.batch_size",
    *(f"{split}/{score}" for split in ("train", "val", "test") for score in ("acc", "loss")),
)  # fmt: skip
TEXTS = ("model", "device", "precision", "data.name", "data.fingerprint", "versions.torch")

MOST = 1e30  # beyond any figure of a run, below where squares overflow


def read_result(run_dir: Path) -> dict[str, Any]:
    """What a finished run has reached.

    Raises:
        Refused: the file is missing or damaged, or is no result of a run; names what is wrong with it.
    """
    path = run_dir / "result.json"
    result = read_json(path)
    wrong = [key for key in NUMBERS if not is_number(nested(result, key))]
    wrong += [key for key in TEXTS if not is_text(nested(result, key))]
    later = ("flops_per_training_image", "flops_per_update", "processes")  # which earlier versions did not write
    wrong += [key for key in later if not is_number(result.get(key, 0))]
    if not is_text(nested(result, "git.sha") or ""):  # null outside a checkout
        wrong.append("git.sha")
    if not (result.get("test_looks") is None or is_number(result["test_looks"])):  # null where nobody counted
        wrong.append("test_looks")
    if result.get("init") is not None and not is_text(nested(result, "init.from")):  # null for random weights
        wrong.append("init")
    parts = result.get("continued", [])
    if not isinstance(parts, list) or not all(is_text(nested(part, "schedule")) for part in parts):
        wrong.append("continued")
    if wrong:
        raise Refused(f"{path} is not the result of a run: {wrong[0]} is {nested(result, wrong[0])!r:.40}")
    return result


def nested(values: Any, key: str) -> Any:
    """The value under a path of keys; ``None`` where it does not lead anywhere."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def is_number(value: Any) -> bool:
    """Whether it is a number as the files of a run hold them: finite and not beyond all sense."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST  # nan is not


def is_text(value: Any) -> bool:
    return isinstance(value, str)
