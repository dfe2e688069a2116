"""A trained run, read back: its config on the device that is here, and its best weights ready to use."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from vit_cnn import config
from vit_cnn.config.network import build_network
from vit_cnn.data import Dataset
from vit_cnn.data.batches import normalise
from vit_cnn.errors import Refused, limit_reached, one_line
from vit_cnn.images.decode import decode, why_unreadable
from vit_cnn.run import checkpoint
from vit_cnn.run.config import FILE, is_cifar, read_config
from vit_cnn.run.exported import CONFIG, WEIGHTS, is_export, read_about, read_weights
from vit_cnn.run.reading import Run

BATCH_SIZE = 250  # images at a time that a trained network is asked about


def load_config(run_dir: Path, *, device: str, trust: str = "") -> DictConfig:
    """The config of a run, its trainer moved to ``device``; ``auto`` is where it was trained, or else the CPU.

    Raises:
        Refused: it is not a run folder, it would call what is not trusted, or there is no such device.
    """
    if not (run_dir / FILE).is_file():
        raise Refused(f"{run_dir} is not a run folder: it has no {FILE}")
    cfg = read_config(run_dir, trust=trust)
    kind = cfg.trainer.device.partition(":")[0]
    if device == "auto":
        index = torch.device(cfg.trainer.device).index or 0
        is_here = {"cuda": index < torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}.get(kind, True)
        device = cfg.trainer.device if is_here else "cpu"
    if device.partition(":")[0] != kind:  # leave behind what this device has not
        cfg.trainer.precision, cfg.trainer.cuda_graph, cfg.trainer.compile = "fp32", False, False
    cfg.trainer.device = device
    config.check_device(cfg)
    return cfg


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained network and what it takes to use it.

    Attributes:
        model: in evaluation mode, with the best weights; float images [b, c, h, w] → logits [b, classes].
        classes: names, by label.
        image_size, num_channels, fit: how an image is brought to the network's size, as in ``conf/data/folder.yaml``.
        mean, std: float32 [c], of the training images' pixels in [0, 1].
    """

    model: nn.Module
    classes: list[str]
    image_size: int
    num_channels: int
    fit: str
    mean: Tensor
    std: Tensor

    def preprocess(self, images: list[str | Path | bytes]) -> Tensor:
        """Image files (paths, or their bytes) of any common kind and size → normalised images [b, c, h, w].

        Raises:
            Refused: there are none, or one cannot be read; it is named.
        """
        return self.normalised(self.pixels(images))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels from 0 to 255 [b, c, h, w] as the network takes them, on its device."""
        return normalise(pixels.to(self.mean.device), self.mean, self.std)

    def pixels(self, images: list[str | Path | bytes]) -> Tensor:
        """The same before they are normalised: uint8 [b, c, h, w]."""
        if not images:
            raise Refused("no images were given")
        options: dict[str, Any] = {"image_size": self.image_size, "num_channels": self.num_channels, "fit": self.fit}
        decoded = []
        for image in images:
            content = b""
            try:
                content = image if isinstance(image, bytes) else Path(image).read_bytes()
                decoded.append(decode(content, **options))
            except Exception as error:  # Pillow's decoders raise nearly everything for a damaged file
                if limit_reached(error) and not isinstance(error, PermissionError):
                    raise
                name = "the image" if isinstance(image, bytes) else image
                raise Refused(why_unreadable(name, content, error)) from error
        return torch.from_numpy(np.stack(decoded)).to(self.mean.device)


def load_run(folder: str | Path, *, device: str = "cpu", trust: str = "") -> TrainedRun:
    """Load the best weights of a run folder, or an export folder; the images it was trained on are not needed.

    Args:
        trust: package of the network, where that is not one of ours, as in ``config.trust``.

    Raises:
        Refused: it is neither, or it has no weights yet.
    """
    folder = Path(folder)
    if is_export(folder):
        return load_export(folder, device=device, trust=trust)
    cfg = load_config(folder, device=device, trust=trust)
    saved = checkpoint.load_best(folder)
    model = build_network(cfg.model)
    checkpoint.load_weights(model, saved["model"], folder / "best.pt")
    return TrainedRun(
        model=model.eval().requires_grad_(False).to(device),
        classes=saved["classes"],
        image_size=cfg.data.image_size,
        num_channels=cfg.data.num_channels,
        fit=cfg.data.get("fit", "crop"),
        mean=saved["mean"].to(device),
        std=saved["std"].to(device),
    )


def load_export(folder: Path, *, device: str, trust: str) -> TrainedRun:
    """Load an export folder, as ``load_run`` does.

    Raises:
        Refused: something in it is missing, wrong or not trusted, or its parts do not fit together.
    """
    about = read_about(folder, trust=trust)
    config.check_device(OmegaConf.create({"trainer": {"device": device, "precision": "fp32", "cuda_graph": False}}))
    model = build_network(OmegaConf.create(about.model))
    checkpoint.load_weights(model, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    images = torch.zeros(1, about.num_channels, about.image_size, about.image_size)
    try:
        shape = list(model.eval()(images).shape)
    except Exception as error:  # whatever a network says to images of another size
        if limit_reached(error):
            raise
        raise Refused(f"{folder / CONFIG}: the network takes no images {list(images.shape)}: {error}") from error
    if shape != [1, len(about.classes)]:
        raise Refused(f"{folder / CONFIG} names {len(about.classes)} classes, but the network answers with {shape}")
    return TrainedRun(
        model=model.requires_grad_(False).to(device),
        classes=about.classes,
        image_size=about.image_size,
        num_channels=about.num_channels,
        fit=about.fit,
        mean=torch.tensor(about.mean, device=device),
        std=torch.tensor(about.std, device=device),
    )


def load_images(run: Run) -> Dataset:
    """The images that a run saw.

    Raises:
        Refused: they are not here any more, or are others by now.
    """
    try:
        data: Dataset = instantiate(OmegaConf.create(run.config["data"]))
    except (Refused, InstantiationException) as error:
        root = run.config["data"].get("root")
        lost = root and not is_cifar(run.config["data"]) and not Path(root).expanduser().exists()
        hint = f"; where they are FOLDER/{Path(root).name}, VIT_CNN_DATA=FOLDER finds them" if lost else ""
        raise Refused(f"{run.folder}: its images are not here: {one_line(error)}{hint}") from error
    if run.result and data.fingerprint != run.result["data"]["fingerprint"]:
        raise Refused(f"{run.folder}: the images are not those of this run any more")
    return data
