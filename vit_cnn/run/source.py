"""Where a run takes its first weights from: another run, an export folder, or a safetensors file."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from torch import Tensor

from vit_cnn.config.target import network_name
from vit_cnn.config.trust import EVERYTHING
from vit_cnn.errors import Refused
from vit_cnn.run import checkpoint
from vit_cnn.run.config import FILE, read_config
from vit_cnn.run.exported import CONFIG, WEIGHTS, is_export, read_about, read_weights
from vit_cnn.run.reading import read_run
from vit_cnn.run.result import nested


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights to begin with. Nothing that its config names is called.

    Attributes:
        path: as it was given.
        weights: tensors by name.
        model: the config of its network; ``None`` for a bare file.
        classes: names, by label; ``None`` for a bare file.
        about: what is known of it, for ``result.json``.
    """

    path: Path
    weights: dict[str, Tensor]
    model: dict[str, Any] | None
    classes: list[str] | None
    about: dict[str, Any]


def read_source(path: Path) -> Source:
    """The best weights of a run, or the weights of an export folder or a safetensors file.

    Raises:
        Refused: it is none of these, it is damaged, or it is a run that still trains.
    """
    if path.is_file() and path.suffix == ".safetensors":
        if not (path.name == WEIGHTS and (path.parent / CONFIG).is_file()):
            return Source(path, read_weights(path), None, None, {"from": str(path), "sha256": digest(path)})
        folder = path.parent
    else:
        folder = path
    if (folder / FILE).is_file():
        return of_run(folder)
    if not is_export(folder):
        raise Refused(f"init={path} is neither a run folder, nor an export folder, nor a .safetensors file")
    about, weights = read_about(folder, trust=EVERYTHING), folder / WEIGHTS
    told = {"network": network_name(about.model), "data": about.data, **about.trained}
    return Source(
        path,
        read_weights(weights),
        about.model,
        about.classes,
        {"from": str(path), "sha256": digest(weights), **told},
    )


def of_run(folder: Path) -> Source:
    cfg = read_config(folder, trust=EVERYTHING)
    run = read_run(folder, cfg)
    if run.status == "running":
        raise Refused(f"init={folder} is still training: wait for its end, or stop it")
    saved = checkpoint.load_best(folder)
    about = {
        "from": str(folder),
        "sha256": digest(folder / "best.pt"),
        "network": run.model,
        "data": {"name": cfg.data.get("name"), "fingerprint": saved.get("fingerprint")},
        "recipe": cfg.recipe.name,
        "seed": run.seed,
        "status": run.status,
    }
    if run.result:
        about |= {key: run.result.get(key) for key in ("epochs", "best_epoch", "val/acc", "test/acc")}
        about["commit"] = nested(run.result, "git.sha")
    model = cast(dict[str, Any], OmegaConf.to_container(cfg.model))
    return Source(folder, saved["model"], model, saved["classes"], about)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
