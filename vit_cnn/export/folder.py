"""The export folder: written whole beside its place, compared with the network, then renamed."""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import save

from vit_cnn.config.target import network_name
from vit_cnn.errors import Refused
from vit_cnn.export.card import write_card
from vit_cnn.export.measure import Measured, measure
from vit_cnn.export.programs import write_onnx, write_torch
from vit_cnn.models import ViT
from vit_cnn.run.config import FILE
from vit_cnn.run.exported import CONFIG, FORMAT, WEIGHTS, About
from vit_cnn.run.files import check_new, new_folder, write_atomically, write_json
from vit_cnn.run.reading import Run, read_run
from vit_cnn.run.result import nested
from vit_cnn.run.trained import TrainedRun, load_config, load_images, load_run


def write_export(
    run_dir: Path, out: Path, *, formats: list[str], precision: str, attention: bool, trust: str
) -> tuple[list[Measured], str]:
    """Write the best weights of a run in each of ``formats``; nothing is left where one of them is refused.

    Returns:
        How each file compares with the network, and on which images.

    Raises:
        Refused: the run has not finished, its images are not here, ``out`` is in use, or a file answers otherwise than
            the network.
        Failed: the folder cannot be written.
    """
    check_new(out)
    if not (run_dir / FILE).is_file() and (run_dir / CONFIG).is_file():
        raise Refused(f"{run_dir} is an export folder already: name the run folder")
    run = read_run(run_dir, load_config(run_dir, device="cpu", trust=trust))
    if run.result is None:
        raise Refused(f"{run_dir} is {run.status}: a run can be exported once it has finished (it has no result.json)")
    trained = load_run(run_dir, trust=trust)
    if attention and not isinstance(trained.model, ViT):
        raise Refused(f"--attention: a {type(trained.model).__name__} has no attention maps; export the run of a ViT")
    if attention and set(formats) == {"safetensors"}:
        raise Refused("--attention is for programs: add --format onnx or torch")
    data = load_images(run)
    with new_folder(out) as folder:
        write_weights(folder, trained, precision)
        write_json(folder / CONFIG, dataclasses.asdict(about(run, trained, precision)))
        if "torch" in formats:
            write_torch(trained, folder / "model.pt2", attention=attention)
        if "onnx" in formats:
            write_onnx(trained, folder, attention=attention)
        files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".pt2", ".onnx"))
        rows = measure(files, trained, data.val, precision=precision, trust=trust)
        split = f"{len(data.val):,} validation images of {data.name}"
        write_card(folder, run, trained, rows, split=split, attention=attention)
    return rows, split


def write_weights(folder: Path, trained: TrainedRun, precision: str) -> None:
    weights = {name: tensor.contiguous() for name, tensor in trained.model.state_dict().items()}
    if precision == "fp16":
        weights = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        if too_large := [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]:
            raise Refused(f"--precision fp16: numbers of {too_large[0]} are beyond those of float16")
    content = save(weights, metadata={"format": "pt"})  # as Hugging Face's tools expect it
    write_atomically(folder / WEIGHTS, lambda file: file.write(content))


def about(run: Run, trained: TrainedRun, precision: str) -> About:
    """What ``config.json`` holds."""
    model = run.config["model"]
    return About(
        format=FORMAT,
        architectures=[network_name(model)],
        model=model,
        classes=trained.classes,
        image_size=trained.image_size,
        num_channels=trained.num_channels,
        fit=trained.fit,
        mean=trained.mean.tolist(),
        std=trained.std.tolist(),
        data={key: run.figures["data"][key] for key in ("name", "fingerprint")},
        weights=precision,
        trained={
            "recipe": run.config["recipe"]["name"],
            "seed": run.seed,
            **{key: run.figures[key] for key in ("epochs", "best_epoch", "test/acc")},
            "commit": nested(run.figures, "git.sha"),
        },
    )
