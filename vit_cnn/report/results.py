"""The first tables of a report: what each network reached, what the deck had, and which runs that was."""

import itertools
from typing import Any

import numpy as np

from vit_cnn.arrays import Array
from vit_cnn.config.resolvers import file_name
from vit_cnn.errors import shown
from vit_cnn.report.claims import DECK
from vit_cnn.report.groups import by_label, device_of, spread
from vit_cnn.report.page import Page
from vit_cnn.report.statistics import expected_calibration_error, mcnemar, probabilities_of
from vit_cnn.run.display import duration
from vit_cnn.run.looks import count_looks
from vit_cnn.run.reading import Run

Predictions = dict[str, list[dict[str, Array]]]  # by label, of each seed

SCORES = ["train/acc", "val/acc", "test/acc", "train/loss", "val/loss", "test/loss"]


def add_results(page: Page, finished: list[Run], predictions: Predictions) -> None:
    """Mean and deviation of every figure by label; on CIFAR-10, the deck's beside them."""
    groups = by_label(finished)
    is_cifar10 = finished[0].is_cifar10
    page.text(
        "Weights of the best epoch by validation accuracy, on clean images; losses are plain cross-entropy. Mean ± "
        "standard deviation over different seeds. ECE: 15 bins, test. PFLOP: of training, three forward passes a step "
        "and what Muon adds."
        + (" The deck's figures are for CIFAR-10; it names no epochs for its CNN." if is_cifar10 else "")
    )
    rows = [{"": label, **figures_of(group, predictions[label])} for label, group in groups.items()]
    if is_cifar10:
        decks = [DECK.get(group[0].model, {}) for group in groups.values()]
        rows = [with_deck(row, deck) for row, deck in zip(rows, decks, strict=True)]
    data = [run.figures["data"] for run in finished]
    about = [f"{each['name']}, fingerprint {each['fingerprint']}" for each in data]
    labels = predictions[finished[0].label][0]["test_labels"]
    guess = f"Whoever names the most common class each time gets {np.bincount(labels).max() / len(labels):.1%} (test)."
    add_rows(page, "results", rows, f"{'; '.join(sorted(set(about)))}. {guess}")
    page.heading("What it took")
    add_rows(page, "cost", [{"": label, **cost_of(group)} for label, group in groups.items()])


def add_rows(page: Page, name: str, rows: list[dict[str, str]], caption: str = "") -> None:
    page.table(name, list(rows[0]), [list(row.values()) for row in rows], caption)


def figures_of(group: list[Run], predictions: list[dict[str, Array]]) -> dict[str, str]:
    results = [run.figures for run in group]
    names = {"train/acc": "train", "val/acc": "validation", "test/acc": "test", "val/loss": "validation loss"}
    row = {}
    for key in SCORES:
        form = "{:.2%}" if key.endswith("acc") else "{:.3f}"
        row[names.get(key, key.replace("/", " "))] = spread([result[key] for result in results], form)
    errors = [
        expected_calibration_error(probabilities_of(arrays["test_logits"]), arrays["test_labels"])
        for arrays in predictions
    ]
    return row | {
        "ECE": spread(errors, "{:.2%}"),
        "seeds": str(len(results)),
        "epochs": ", ".join(sorted({f"{result['epochs']:g}" for result in results})),
    }


def step_flops(result: dict[str, Any]) -> int:
    """Of one step of training. Earlier versions knew no network that leaves patches out, and did not count Muon."""
    flops: int = result.get("flops_per_training_image", result["flops_per_image"])
    return 3 * flops * result["config"]["recipe"]["batch_size"] + result.get("flops_per_update", 0)


def cost_of(group: list[Run]) -> dict[str, str]:
    results = [run.figures for run in group]
    flops = [step_flops(result) * result["steps"] / 1e15 for result in results]
    devices = sorted({device_of(result) for result in results})
    seconds, speed = (np.mean([result[key] for result in results]) for key in ("seconds_train", "images_per_second"))
    return {
        "best epoch": ", ".join(f"{result['best_epoch']:g}" for result in results),
        "training time": duration(float(seconds)) if len(devices) == 1 else "–",
        "PFLOP": f"{np.mean(flops):.3g}",
        "images/s": f"{speed:,.0f}" if len(devices) == 1 else "–",
        "device": "; ".join(devices),
        "precision": ", ".join(sorted({result["precision"] for result in results})),
    }


def with_deck(row: dict[str, str], deck: dict[str, float]) -> dict[str, str]:
    """The row with the deck's test figures next to ours."""
    found = {}
    for heading, value in row.items():
        found[heading] = value
        if heading == "test":
            found["deck: test"] = f"{deck['test/acc']:.0%}" if deck else "–"
        if heading == "test loss":
            found["deck: test loss"] = f"{deck['test/loss']:.2f}" if deck else "–"
    return found


def add_runs(page: Page, runs: list[Run], repeats: list[tuple[Run, Run]]) -> None:
    """Every run that was given, whatever became of it, and how far it is."""
    page.heading("The runs")
    rows = [
        [
            shown(run.folder),
            run.label,
            str(run.seed),
            run.status,
            run.message or "–",
            f"{run.rows[-1]['epoch']:g}" if run.rows else "0",
            str(run.config["recipe"]["epochs"]),
            best_so_far(run),
            str(count_looks(run.folder) or "–"),
        ]
        for run in runs
    ]
    headings = ["folder", "network", "seed", "status", "message", "epochs", "planned", "best validation"]
    page.table("runs", [*headings, "looks at test"], rows)
    for run, counted in repeats:
        page.text(f"{shown(run.folder)} repeats seed {run.seed} of {shown(counted.folder)} and is not counted.")


def best_so_far(run: Run) -> str:
    reached = run.series("val/acc")
    if not reached:
        return "–"
    best = max(reached, key=lambda row: row["val/acc"])
    return f"{best['val/acc']:.2%}, epoch {best['epoch']:g}"


def add_mcnemar(page: Page, best: dict[str, list[Run]], predictions: Predictions) -> None:
    found: dict[tuple[str, str], list[list[str]]] = {}
    for first, second in itertools.combinations(best, 2):
        for run_a, a in zip(best[first], predictions[first], strict=True):
            for run_b, b in zip(best[second], predictions[second], strict=True):
                if run_a.seed == run_b.seed:
                    only_a, only_b, p = mcnemar(right(a), right(b))
                    row = [str(run_a.seed), f"{only_a:,}", f"{only_b:,}", p_value_in_words(p).removeprefix("= ")]
                    found.setdefault((first, second), []).append(row)
    if not found:
        return
    page.heading("Do two networks err equally often?")
    for (first, second), rows in found.items():
        which = "" if len(best) == 2 else f"_{network_of(first)}_{network_of(second)}"
        headings = ["seed", f"only {first} right", f"only {second} right", "p"]
        page.table(f"mcnemar{which}", headings, rows, "Exact McNemar test on the test images, seed by seed.")


def network_of(label: str) -> str:
    """The network of a label, for the name of a file."""
    return file_name(label.split(maxsplit=1)[0].lower())


def p_value_in_words(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}"


def right(arrays: dict[str, Array], split: str = "test") -> Array:
    """Whether each image of a split was recognised, bool [n]."""
    found: Array = arrays[f"{split}_logits"].argmax(axis=1) == arrays[f"{split}_labels"]
    return found
