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
        rule: when the verdict is yes, and when no.
        found: the figures behind the verdict, in words.
    """

    observation: str
    holds: bool | None
    rule: str
    found: str


def check_claims(vit: list[Run], cnn: list[Run]) -> list[Claim]:
    """The deck's four observations, from finished runs of the two networks."""
    return [fewer_steps(vit, cnn), all_of_training(vit, cnn), gap(vit, cnn, "val"), gap(vit, cnn, "test")]


def below(low: list[float], high: list[float]) -> bool | None:
    """Whether every seed of the one is below every seed of the other; ``None`` where only the means are."""
    if max(low) < min(high):
        return True
    return None if np.mean(low) < np.mean(high) else False


def fewer_steps(vit: list[Run], cnn: list[Run]) -> Claim:
    observation = "The CNN reaches the same validation accuracy in fewer steps."
    rule = "yes if every CNN gets there before every ViT, no if the CNNs do not on average, else open; "
    rule += "there: the highest multiple of 5 % that all runs reached"
    if not all(run.series("val/acc") for run in vit + cnn):
        return Claim(observation, None, rule, "a run has no curve")
    best = min(max(row["val/acc"] for row in run.series("val/acc")) for run in vit + cnn)
    level = np.floor(best * 20) / 20
    if level <= 0:
        return Claim(observation, None, rule, "no run reached 5 %")
    reached = {
        name: [next(float(row["step"]) for row in run.series("val/acc") if row["val/acc"] >= level) for run in runs]
        for name, runs in {"ViT": vit, "CNN": cnn}.items()
    }
    steps = {name: float(np.mean(values)) for name, values in reached.items()}
    found = f"{level:.0%} validation: ViT after {steps['ViT']:,.0f} steps, CNN after {steps['CNN']:,.0f}"
    return Claim(observation, below(reached["CNN"], reached["ViT"]), rule, found)


def all_of_training(vit: list[Run], cnn: list[Run]) -> Claim:
    lowest = {name: min(run.figures["train/acc"] for run in runs) for name, runs in {"ViT": vit, "CNN": cnn}.items()}
    rule = "yes if the best weights of every seed get at least 99.5 % of the clean training images, else no"
    found = ", ".join(f"{name} {value:.2%}" for name, value in lowest.items())
    return Claim("Both reach 100 % on the training images.", min(lowest.values()) >= 0.995, rule, f"lowest: {found}")


def gap(vit: list[Run], cnn: list[Run], split: str) -> Claim:
    key, name = f"{split}/acc", {"val": "validation", "test": "test"}[split]
    values = {kind: [run.figures[key] for run in runs] for kind, runs in {"ViT": vit, "CNN": cnn}.items()}
    deck = 100 * (DECK["CNN"][key] - DECK["ViT"][key])
    here = 100 * (np.mean(values["CNN"]) - np.mean(values["ViT"]))
    return Claim(
        f"The CNN is ahead on {name} images (in the deck by {deck:.0f} points).",
        below(values["ViT"], values["CNN"]),
        "yes if every CNN is above every ViT, no if the CNNs are not on average, else open",
        f"here by {here:.1f} points (ViT {np.mean(values['ViT']):.1%}, CNN {np.mean(values['CNN']):.1%})",
    )
