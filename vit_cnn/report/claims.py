"""What the slide deck observed, checked against runs: each verdict can come out false."""

import dataclasses

import numpy as np

from vit_cnn.run.reading import Run

# The deck's own figures: accuracies in fractions, losses in plain cross-entropy.
DECK = {
    "ViT": {"train/acc": 1.00, "val/acc": 0.77, "test/acc": 0.77, "test/loss": 1.28},
    "CNN": {"train/acc": 1.00, "val/acc": 0.88, "test/acc": 0.89, "test/loss": 0.86},
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """One observation of the deck.

    Attributes:
        holds: whether these runs show it too; ``None`` where they cannot tell.
        found: the figures behind the verdict, in words.
    """

    observation: str
    holds: bool | None
    found: str


def check_claims(vit: list[Run], cnn: list[Run]) -> list[Claim]:
    """The deck's four observations, from finished runs of the two networks."""
    return [fewer_steps(vit, cnn), all_of_training(vit, cnn), gap(vit, cnn, "val"), gap(vit, cnn, "test")]


def fewer_steps(vit: list[Run], cnn: list[Run]) -> Claim:
    best = min(max(row["val/acc"] for row in run.series("val/acc")) for run in vit + cnn)
    level = np.floor(best * 20) / 20  # the highest multiple of 5 % that every run reached
    observation = "The CNN reaches the same validation accuracy in fewer steps."
    if level <= 0:
        return Claim(observation, None, "no run reached 5 %")
    reached = {
        name: [next(row["step"] for row in run.series("val/acc") if row["val/acc"] >= level) for run in runs]
        for name, runs in {"ViT": vit, "CNN": cnn}.items()
    }
    steps = {name: float(np.mean(values)) for name, values in reached.items()}
    found = f"{level:.0%} validation: ViT after {steps['ViT']:,.0f} steps, CNN after {steps['CNN']:,.0f}"
    return Claim(observation, max(reached["CNN"]) < min(reached["ViT"]), found)


def all_of_training(vit: list[Run], cnn: list[Run]) -> Claim:
    lowest = {}
    for name, runs in {"ViT": vit, "CNN": cnn}.items():
        # Either as training went, dropout and augmentation included, or the best weights on clean images.
        lowest[name] = min(
            max([run.result["train/acc"], *(row["train/acc"] for row in run.series("train/acc"))])
            for run in runs
            if run.result
        )
    found = ", ".join(f"{name} {value:.1%}" for name, value in lowest.items())
    return Claim("Both reach 100 % on the training images.", min(lowest.values()) >= 0.995, f"at most: {found}")


def gap(vit: list[Run], cnn: list[Run], split: str) -> Claim:
    key, name = f"{split}/acc", {"val": "validation", "test": "test"}[split]
    values = {kind: [run.result[key] for run in runs if run.result] for kind, runs in {"ViT": vit, "CNN": cnn}.items()}
    deck = 100 * (DECK["CNN"][key] - DECK["ViT"][key])
    here = 100 * (np.mean(values["CNN"]) - np.mean(values["ViT"]))
    return Claim(
        f"The CNN is ahead on {name} images (in the deck by {deck:.0f} points).",
        bool(min(values["CNN"]) > max(values["ViT"])),
        f"here by {here:.1f} points (ViT {np.mean(values['ViT']):.1%}, CNN {np.mean(values['CNN']):.1%})",
    )
