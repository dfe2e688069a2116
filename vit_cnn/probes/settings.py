"""The network of a run in a probe's experiment: its own name, also where another stands around it."""

from vit_cnn.config.schema import flat
from vit_cnn.config.target import network_name
from vit_cnn.errors import Refused
from vit_cnn.probes.intervals import Array, Sample
from vit_cnn.probes.subjects import Look
from vit_cnn.report.results import right
from vit_cnn.run.reading import Run


def inner_network(run: Run) -> str:
    """``ViT`` for a ViT, and for one whose images are permuted."""
    model = run.config["model"]
    return network_name(model["network"]) if run.model == "Permuted" else run.model


def permutation_of(run: Run) -> str:
    kind: str = run.config["model"].get("permute", "nothing")
    return kind


def check_same_recipe(runs: list[Run]) -> None:
    """Only runs trained alike can show what a network does.

    Raises:
        Refused: two differ; says in what.
    """
    first = flat(runs[0].config["recipe"])
    for run in runs[1:]:
        for key, value in flat(run.config["recipe"]).items():
            if key != "name" and value != first.get(key):
                raise Refused(
                    f"{run.folder} was trained otherwise than {runs[0].folder}: "
                    f"recipe.{key} is {value} and {first.get(key)}"
                )


def rights(runs: list[Run], look: Look) -> Sample:
    """Whether each image was recognised, from ``predictions.npz``: [1, n] for each seed.

    Raises:
        Refused: two runs have different images of this split; names both.
    """
    predictions = [run.predictions() for run in runs]
    first = predictions[0][f"{look.split}_indices"]
    for run, arrays in zip(runs, predictions, strict=True):
        if not same(first, arrays[f"{look.split}_indices"]):
            raise Refused(f"{run.folder} and {runs[0].folder} have other {look.split} images")
    return [right(arrays, look.split).astype(float)[None] for arrays in predictions]


def same(first: Array, second: Array) -> bool:
    return len(first) == len(second) and bool((first == second).all())
