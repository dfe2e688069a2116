"""The sentence at the top of a report claims what the runs show, and no more."""

from pathlib import Path
from typing import Any

import numpy as np

from vit_cnn.report.build import best_groups
from vit_cnn.report.conclusion import conclude
from vit_cnn.report.groups import by_label, label_runs
from vit_cnn.run.reading import Run

IMAGES = 1000


def trained(model: str, seed: int, right: int | None, *, val: int | None = None, **recipe: Any) -> Run:
    """A run that gets ``right`` of the test images right, and of the validation images ``val`` or as many; ``None`` has
    not finished.
    """
    config = {"model": {"_target_": f"vit_cnn.models.{model}"}, "data": {"name": "Digits"}, "seed": seed}
    config["recipe"] = {"epochs": 2, **recipe}
    result = None
    if right is not None:
        chosen_by = (right if val is None else val) / IMAGES
        result = {"test/acc": right / IMAGES, "val/acc": chosen_by, "device": "a processor"}
    return Run(Path(f"{model}{seed}"), "finished" if result else "stopped", "", config, result, [])


def concluded(*runs: Run) -> str:
    labelled = label_runs(list(runs))
    finished = [run for run in labelled if run.result]
    predictions = {label: [predictions_of(run) for run in group] for label, group in by_label(finished).items()}
    return conclude(labelled, best_groups(finished), predictions)


def predictions_of(run: Run) -> dict[str, Any]:
    assert run.result
    right = np.arange(IMAGES) < round(run.result["test/acc"] * IMAGES)
    return {"test_logits": np.stack([right, ~right], axis=1).astype(float), "test_labels": np.zeros(IMAGES, dtype=int)}


def test_one_seed_each() -> None:
    assert concluded(trained("ViT", 0, 700), trained("CNN", 0, 800)) == (
        "On Digits, with one seed each, the CNN is 10.0 points ahead of the ViT on the test images "
        "(80.0% against 70.0%); these two differ by more than chance (McNemar's test: p < 0.0001), "
        "but other seeds may come out otherwise."
    )
    said = concluded(trained("ViT", 0, 799), trained("CNN", 0, 800))
    assert "differ no more than by chance (McNemar's test: p = 1.0000)" in said
    assert "with a single seed, and not the same for both" in concluded(trained("ViT", 0, 700), trained("CNN", 1, 800))
    assert "the CNN get the same share" in concluded(trained("ViT", 0, 800), trained("CNN", 0, 800))


def test_several_seeds() -> None:
    vits = [trained("ViT", seed, right) for seed, right in enumerate((700, 710, 720))]
    cnns = [trained("CNN", seed, right) for seed, right in enumerate((800, 820, 840))]
    said = concluded(*vits, *cnns)
    assert "over 3 seeds each, the CNN is 11.0 ± 1.0 points ahead of the ViT" in said
    assert "chance alone would bring about in 10% of such comparisons" in said  # 2 of the 20 ways to deal six out
    assert "in 3 of 3 pairs" in said
    many = [trained("ViT", seed, 700) for seed in range(6)], [trained("CNN", seed, 800) for seed in range(6)]
    assert "chance alone would bring about in less than 1% of such comparisons" in concluded(*many[0], *many[1])
    said = concluded(*vits, trained("CNN", 0, 705), trained("CNN", 1, 800), trained("CNN", 2, 800))
    assert "their seeds overlap, so that these runs do not settle it" in said
    assert "with 1 seed of the CNN and 3 of the ViT" in concluded(*vits, cnns[0])


def test_other_settings_are_named() -> None:
    said = concluded(trained("ViT", 0, 700, epochs=3), trained("CNN", 0, 800))
    assert "they were not trained alike: they also differ in recipe.epochs (3 and 2)" in said
    said = concluded(trained("ViT", 0, 700, lr=1), trained("ViT", 0, 750, lr=2), trained("CNN", 0, 800, lr=2))
    assert "ahead of the ViT with lr=2" in said
    said = concluded(
        trained("ViT", 0, 700, val=800, lr=1), trained("ViT", 0, 800, val=700, lr=2), trained("CNN", 0, 900)
    )
    assert "ahead of the ViT with lr=1 on the test images (90.0% against 70.0%)" in said  # chosen on validation images
    other = trained("CNN", 0, 800)
    other.config["trainer"] = {"compile": True}
    other.result["device"] = "another"
    assert "not trained alike" not in concluded(trained("ViT", 0, 700), other)  # what changes the speed alone
    assert "the settings are those with the best validation accuracy, of 2 of the ViT" in said


def test_one_network_and_none() -> None:
    assert concluded(trained("ViT", 0, 700), trained("CNN", 0, None)) == (
        "On Digits, the ViT gets 70.0% of the test images right, with one seed; no CNN has finished, so there is "
        "nothing to compare it with."
    )
    said = concluded(trained("ViT", 0, 700, lr=1), trained("ViT", 0, 750, lr=2))
    assert "with one seed; it has the best validation accuracy of 2 settings; there is no other network" in said
    assert concluded(trained("ViT", 0, None)) == "On Digits, no run has finished yet: there is nothing to conclude."
