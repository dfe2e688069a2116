"""Calibration and tests on logits. ``n`` images, ``k`` classes."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from vit_cnn.arrays import Array

BINS = 15


def mcnemar(right_a: Array, right_b: Array) -> tuple[int, int, float]:
    """Exact McNemar test: do two classifiers err equally often on the same images?

    Args:
        right_a, right_b: bool [n], whether each was right.

    Returns:
        Images that only the first got right, that only the second got right, and the two-sided p-value.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    return only_a, only_b, binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0


def reliability(probabilities: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Accuracy, mean confidence and number of images in 15 equal bins of confidence, each [15]; nan where empty."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return (
            np.bincount(bins, weights=right, minlength=BINS) / count,
            np.bincount(bins, weights=confidence, minlength=BINS) / count,
            count,
        )


def expected_calibration_error(probabilities: Array, labels: Array) -> float:
    """Mean distance of accuracy and confidence over 15 bins, weighted by images.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599.
    """
    accuracy, confidence, count = reliability(probabilities, labels)
    return float(np.nansum(np.abs(accuracy - confidence) * count) / count.sum())


def brier_score(probabilities: Array, labels: Array) -> float:
    """Mean squared distance of probabilities [n, k] from the truth, summed over classes: 0 is best, 2 is worst.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def cross_entropy(logits: Array, labels: Array) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Array, labels: Array) -> float | None:
    """The temperature by which to divide logits [n, k] for the least cross-entropy (Guo et al.).

    ``None`` where there is none from 0.05 to 20: where every image is right, every lower one would be better.
    """
    logits = logits.astype(np.float64)
    bounds = np.log([0.05, 20])
    best = minimize_scalar(lambda log_t: cross_entropy(logits / np.exp(log_t), labels), bounds=bounds, method="bounded")
    return float(np.exp(best.x)) if np.abs(best.x - bounds).min() > 0.01 else None


def probabilities_of(logits: Array, temperature: float = 1.0) -> Array:
    return softmax(logits.astype(np.float64) / temperature, axis=1)


def confusion_matrix(predicted: Array, labels: Array, classes: int) -> Array:
    """Counts [k, k]: row truth, column prediction."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
