"""Every experiment composes, says what it asks, and runs."""

from pathlib import Path

import pytest
from helpers import composed, metrics

from vit_cnn import config
from vit_cnn.training.loop import train

SMALL = [
    "data=digits", "data.max_images=64", "data.image_size=8", "recipe.batch_size=8", "max_steps=2", "trainer=cpu",
]  # fmt: skip

EXPERIMENTS = sorted((config.CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_runs_for_two_steps(path: Path) -> None:
    Path("run").mkdir()
    assert train(composed(f"experiment={path.stem}", *SMALL), Path("run"))["steps"] == 2


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_is_a_document(path: Path) -> None:
    header = path.read_text().split("defaults:")[0]
    for word in ("Question:", "Command:", "Expected:"):
        assert word in header


@pytest.mark.parametrize("recipe", [path.stem for path in sorted((config.CONF / "recipe").glob("*.yaml"))])
@pytest.mark.parametrize("model", ["vit", "cnn"])
def test_recipe_runs_for_two_steps(recipe: str, model: str) -> None:
    Path("run").mkdir()
    assert train(composed(f"recipe={recipe}", f"model={model}", *SMALL), Path("run"))["steps"] == 2


@pytest.mark.parametrize("path", sorted((config.CONF / "cell").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_cell_is_what_it_is_called(path: Path) -> None:
    recipe, model = path.stem.split("_")
    cfg = composed(f"+cell={path.stem}", "data=digits", "trainer=cpu")
    assert (cfg.recipe.name, cfg.model._target_.lower()) == (recipe, f"vit_cnn.models.{model}")
    if model == "vit":
        assert (cfg.model.dropout, cfg.model.stochastic_depth) == {"deck": (0.2, 0), "strong": (0, 0.1)}[recipe]


@pytest.mark.parametrize("network", [["model=cnn"], ["model=vit", "model.dropout=0"]])
def test_debug_knows_a_batch_by_heart(network: list[str]) -> None:
    Path("run").mkdir()
    small = ["data.image_size=16", "trainer=cpu", "trainer.log_every=1"]
    train(composed("experiment=debug", *network, *small), Path("run"))
    assert [line["train/acc"] for line in metrics("run") if "train/acc" in line][-1] == 1
