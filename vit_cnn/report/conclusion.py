"""What the runs show, in one sentence that claims no more than their number allows."""

import math

import numpy as np

from vit_cnn.report.groups import by_label, in_words, settings_of, spread
from vit_cnn.report.results import Predictions, p_value_in_words, right
from vit_cnn.report.statistics import mcnemar
from vit_cnn.run.reading import Run

SIGNIFICANT = 0.05
MOST_SETTINGS = 3  # that are listed


def conclude(runs: list[Run], best: dict[str, list[Run]], predictions: Predictions) -> str:
    """One sentence from the figures, for the top of the page.

    Args:
        runs: all that count, finished or not.
        best: for each network the label with the best validation accuracy, and its finished runs.
        predictions: of the finished runs, by label.
    """
    on = f"On {runs[0].config['data']['name']}"
    if not best:
        return f"{on}, no run has finished yet: there is nothing to conclude."
    by_test = sorted(best, key=lambda label: -np.mean(scores(best[label], "test/acc")))
    if len(best) == 1:
        return f"{on}, {alone(by_test[0], runs, best)}."
    first, second = by_test[:2]
    found = f"{on}, {seeds_in_words(best, first, second)}, {compared(first, second, best, predictions)}"
    others = "".join(f", and {named(label)} gets {accuracy(best[label])}" for label in by_test[2:])
    return f"{found}{others}{reservations(runs, best)}."


def alone(label: str, runs: list[Run], best: dict[str, list[Run]]) -> str:
    """For the runs of one network."""
    group = best[label]
    n = len(group)
    found = f"{named(label)} gets {accuracy(group)} of the test images right, " + (
        "with one seed" if n == 1 else f"the mean of {n} seeds"
    )
    if (settings := settings_tried(runs, group[0].model)) > 1:
        found += f"; it has the best validation accuracy of {settings} settings"
    unfinished = dict.fromkeys(run.model for run in runs if run.model != group[0].model)
    if unfinished:
        return f"{found}; no {' and no '.join(unfinished)} has finished, so there is nothing to compare it with"
    return f"{found}; there is no other network to compare it with"


def compared(first: str, second: str, best: dict[str, list[Run]], predictions: Predictions) -> str:
    """How far the first is ahead of the second on the test images, and what speaks for it."""
    a, b = ({run.seed: run.figures["test/acc"] for run in best[label]} for label in (first, second))
    points = 100 * (np.mean(list(a.values())) - np.mean(list(b.values())))
    if points == 0:
        return (
            f"{named(first)} and {named(second)} get the same share of the test images right, {accuracy(best[first])}"
        )
    ahead = f"{points:.1f}"
    if a.keys() == b.keys() and len(a) > 1:
        ahead += f" ± {100 * np.std([a[seed] - b[seed] for seed in a], ddof=1):.1f}"
    lead = f"{named(first)} is {ahead} points ahead of {named(second)} on the test images"
    lead += f" ({accuracy(best[first])} against {accuracy(best[second])})"
    p_values = [
        mcnemar(right(of_a), right(of_b))[2]
        for run_a, of_a in zip(best[first], predictions[first], strict=True)
        for run_b, of_b in zip(best[second], predictions[second], strict=True)
        if run_a.seed == run_b.seed
    ]
    if len(a) == len(b) == 1:
        return f"{lead}; {one_pair(p_values)}"
    return f"{lead}; {several(list(a.values()), list(b.values()), p_values)}"


def one_pair(p_values: list[float]) -> str:
    if not p_values:
        return "with a single seed, and not the same for both, another pair of seeds may come out otherwise"
    p = f"McNemar's test: p {p_value_in_words(p_values[0])}"
    if p_values[0] >= SIGNIFICANT:
        return f"these two differ no more than by chance ({p})"
    return f"these two differ by more than chance ({p}), but other seeds may come out otherwise"


def several(a: list[float], b: list[float], p_values: list[float]) -> str:
    """Whether the seeds fall apart, and how often chance alone would let them: an exact permutation test, two-sided."""
    if min(a) > max(b):
        chance = 2 / math.comb(len(a) + len(b), len(a))
        found = "every seed of the one is above every seed of the other, "
        share = f"{chance:.0%}" if chance >= 0.01 else "less than 1%"
        found += f"which chance alone would bring about in {share} of such comparisons"
    else:
        found = "their seeds overlap, so that these runs do not settle it"
    if p_values:
        differing = sum(p < SIGNIFICANT for p in p_values)
        found += f"; McNemar's test sees a difference (p < {SIGNIFICANT}) in {differing} of {len(p_values)} pairs"
    return found


def reservations(runs: list[Run], best: dict[str, list[Run]]) -> str:
    """What the reader has to know of the comparison: other settings than the network, or a choice among many."""
    found = ""
    settings = [settings_of(group[0], machines=False) for group in best.values()]
    keys = [key for key in settings[0] if not key.startswith("model.")]
    differing = [key for key in keys if len({str(each.get(key)) for each in settings}) > 1]
    if differing:
        listed = ", ".join(
            f"{key} ({' and '.join(in_words(each.get(key)) for each in settings)})" for key in differing[:MOST_SETTINGS]
        )
        more = len(differing) - MOST_SETTINGS
        found += f"; they were not trained alike: they also differ in {listed}{f' and {more} more' * (more > 0)}"
    tried = {group[0].model: settings_tried(runs, group[0].model) for group in best.values()}
    if max(tried.values()) > 1:
        words = " and ".join(f"{number} of the {model}" for model, number in tried.items() if number > 1)
        found += f"; the settings are those with the best validation accuracy, of {words}"
    return found


def settings_tried(runs: list[Run], model: str) -> int:
    return len(by_label([run for run in runs if run.result and run.model == model]))


def scores(group: list[Run], key: str) -> list[float]:
    return [run.figures[key] for run in group]


def accuracy(group: list[Run]) -> str:
    return spread(scores(group, "test/acc"), "{:.1%}")


def seeds_in_words(best: dict[str, list[Run]], first: str, second: str) -> str:
    n, m = len(best[first]), len(best[second])
    if n == m:
        return "with one seed each" if n == 1 else f"over {n} seeds each"
    return f"with {n} seed{'s' * (n > 1)} of {named(first)} and {m} of {named(second)}"


def named(label: str) -> str:
    network, _, settings = label.partition(" ")
    return f"the {network}" + (f" with {settings}" if settings else "")
