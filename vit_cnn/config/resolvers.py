"""What ``conf/`` cannot say in YAML: the functions behind its ``${name:…}``, registered on import."""

import ctypes
import hashlib
import itertools
import re
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from vit_cnn.config.target import network_name
from vit_cnn.errors import Refused
from vit_cnn.images.tree import class_names, common_image_size

LONGEST_NAME = 120  # bytes of a job's folder; file systems end at 255


def auto_trainer() -> str:
    """``gpu`` where a CUDA driver sees a device, else ``cpu``. Asks the driver: importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        sees_device = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
        return "gpu" if sees_device else "cpu"
    except (OSError, AttributeError):
        return "cpu"


def run_name(model: DictConfig, data_name: str) -> str:
    """A ``vit_cnn.models.ViT`` and ``CIFAR-10 (JPEG)`` → ``vit-cifar-10-jpeg``."""
    return "-".join(re.findall(r"[a-z0-9]+", f"{network_name(model)} {data_name}".lower()))


def run_folder(resume: str | None, name: str) -> str:
    if resume is not None:
        if not (Path(resume) / ".hydra" / "config.yaml").is_file():
            raise Refused(f"resume={resume} is not a run folder: it has no .hydra/config.yaml")
        return resume
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in itertools.count(1):
        folder = Path(f"runs/{name}/{stamp}" if number == 1 else f"runs/{name}/{stamp}_{number}")
        try:
            folder.mkdir(parents=True)  # at once: runs that start within a second get folders of their own
        except FileExistsError:
            continue
        break
    return str(folder)


def timm_img_size(model_name: str, image_size: int) -> int | None:
    """``image_size`` for a network of timm that is made for one size, as a ViT is, ``None`` for others."""
    try:
        import timm
    except ImportError as error:
        raise Refused("model=timm needs timm: pip install timm") from error
    about = timm.get_pretrained_cfg(model_name)
    return image_size if about and about.fixed_input_size else None


def file_name(text: str) -> str:
    """``text`` without slashes, ``job`` where it is empty, and cut, told apart by a hash, where it is too long."""
    name = re.sub(r"[^\w.+-]+", "-", text) or "job"
    if len(name.encode()) > LONGEST_NAME:
        short = name.encode()[:LONGEST_NAME].decode(errors="ignore")
        name = f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def folder_name(root: str) -> str:
    return Path(root).expanduser().resolve().name


def folder_num_classes(root: str) -> int:
    return len(class_names(Path(root).expanduser()))


def folder_image_size(root: str) -> int:
    return common_image_size(Path(root).expanduser())


for resolver in (
    auto_trainer, run_name, run_folder, timm_img_size, file_name, folder_name, folder_num_classes, folder_image_size,
):  # fmt: skip
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
