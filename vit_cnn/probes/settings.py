"""Runs that were trained for a probe: which networks they are, and that they differ in nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vit_cnn.config.schema import flat
from vit_cnn.config.target import network_name
from vit_cnn.console import console
from vit_cnn.errors import Refused, shown
from vit_cnn.probes.intervals import Sample
from vit_cnn.probes.subjects import Look, once
from vit_cnn.report.groups import check_same_data
from vit_cnn.report.results import right
from vit_cnn.run.reading import Run

NETWORKS = ("ViT", "CNN")


def inner(run: Run) -> dict[str, Any]:
    """The config of the network, without the permutation before it."""
    model: dict[str, Any] = run.config["model"]
    return model["network"] if is_permuted(run) else model


def is_permuted(run: Run) -> bool:
    return run.model.startswith("Permuted-")


def inner_network(run: Run) -> str:
    """``ViT`` for a ViT, and for one whose images are permuted."""
    return network_name(inner(run))


def permutation_of(run: Run) -> str:
    kind: str = run.config["model"]["permute"] if is_permuted(run) else "nothing"
    return kind


def check_trained_alike(runs: list[Run]) -> None:
    """Only runs of one recipe and as many steps, with one setting of each network, can show what a network does.

    They also have to begin alike, go on alike, and permute alike where they permute in the same way.

    Raises:
        Refused: two differ; names them, and says in what.
    """
    firsts: dict[str, Run] = {}
    permuted: dict[str, Run] = {}
    for run in runs:
        first = firsts.setdefault(inner_network(run), run)
        alike = permuted.setdefault(permutation_of(run), run)
        for other, settings_of in (
            (runs[0], training_settings),
            (first, network_settings),
            (alike, permutation_settings),
        ):
            mine, theirs = settings_of(run), settings_of(other)
            for key, value in mine.items():
                if value != theirs.get(key):
                    differs = f"{key} is {value} and {theirs.get(key)}"
                    raise Refused(f"{run.folder} was trained otherwise than {other.folder}: {differs}")


def training_settings(run: Run) -> dict[str, Any]:
    recipe = {key: value for key, value in run.config["recipe"].items() if key != "name"}
    about = {"steps": run.figures["steps"], "continued": run.continued, "precision": run.figures["precision"]}
    # Each network has weights of its own to begin with; what counts is whether it had any.
    return prefixed("recipe", recipe) | about | {"init": run.config.get("init") is not None}


def network_settings(run: Run) -> dict[str, Any]:
    return prefixed("model", inner(run))


def permutation_settings(run: Run) -> dict[str, Any]:
    """Which permutation; nothing where there is none."""
    keys = ("patch_size", "permutation_seed") if permutation_of(run) != "nothing" else ()
    return {f"model.{key}": run.config["model"][key] for key in keys}


def prefixed(group: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{group}.{key}": value for key, value in flat(values).items()}


def rights(runs: list[Run], look: Look) -> Sample:
    """Whether each image was recognised, from ``predictions.npz``: [1, n] for each seed.

    Raises:
        Refused: two runs have different images of this split; names both.
    """
    predictions = [run.predictions() for run in runs]
    first = predictions[0][f"{look.split}_indices"]
    for run, arrays in zip(runs, predictions, strict=True):
        if not np.array_equal(first, arrays[f"{look.split}_indices"]):
            raise Refused(f"{run.folder} and {runs[0].folder} have other {look.split} images")
    return [right(arrays, look.split).astype(float)[None] for arrays in predictions]


def training_images(run: Run) -> int:
    number: int = run.figures["data"]["train"]
    return number


def of_both(runs: list[Run], name_of: Callable[[Run], str]) -> list[Run]:
    """The runs of ViT and CNN; those of other networks are named and left out.

    Raises:
        Refused: there are none.
    """
    found = [run for run in runs if name_of(run) in NETWORKS]
    if not found:
        raise Refused(f"{runs[0].folder} and the others: none is of the ViT or the CNN")
    if others := [run for run in runs if run not in found]:
        console.print(f"Left out, since this is about ViT and CNN: {', '.join(shown(run.folder) for run in others)}")
    return found


def by_size(runs: list[Run]) -> tuple[list[int], dict[str, list[list[Run]]]]:
    """The numbers of training images, and for each network and seed a run of each number.

    Raises:
        Refused: one is missing, or a run differs from the others in more than this.
    """
    found = once(of_both(runs, lambda run: run.model), lambda run: (run.model, run.seed, training_images(run)))
    sizes = sorted({size for _, _, size in found})
    seeds = sorted({seed for _, seed, _ in found})
    if len(sizes) < 2:
        raise Refused(f"{runs[0].folder}: scaling needs runs with two numbers of training images or more")
    for size in sizes:
        check_same_data([run for key, run in found.items() if key[2] == size])
        for network in NETWORKS:
            for seed in seeds:
                if (network, seed, size) not in found:
                    raise Refused(
                        f"{runs[0].folder} and the others: none is of the {network}, seed {seed}, with {size} images"
                    )
    return sizes, {name: [[found[name, seed, size] for size in sizes] for seed in seeds] for name in NETWORKS}
