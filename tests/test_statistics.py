"""The report's statistics, against values worked out by hand or by others."""

import numpy as np
import pytest

from vit_cnn.report import statistics


def test_mcnemar() -> None:
    a = np.array([True] * 8 + [False] * 2 + [True] * 5)
    b = np.array([False] * 8 + [True] * 2 + [True] * 5)
    only_a, only_b, p = statistics.mcnemar(a, b)
    assert (only_a, only_b) == (8, 2)
    assert p == pytest.approx(2 * (1 + 10 + 45) / 2**10)  # two-sided binomial tail of 2 in 10
    assert statistics.mcnemar(a, a) == (0, 0, 1.0)


def test_calibration_of_a_perfectly_calibrated_and_of_an_overconfident_classifier() -> None:
    labels = np.array([0] * 7 + [1] * 3)
    calibrated = np.tile([0.7, 0.3], (10, 1))
    assert statistics.expected_calibration_error(calibrated, labels) == pytest.approx(0)
    assert statistics.brier_score(calibrated, labels) == pytest.approx(0.7 * 2 * 0.09 + 0.3 * 2 * 0.49)
    sure = np.tile([1.0, 0.0], (10, 1))
    assert statistics.expected_calibration_error(sure, labels) == pytest.approx(0.3)
    accuracy, confidence, count = statistics.reliability(sure, labels)
    assert (accuracy[-1], confidence[-1], count[-1]) == pytest.approx((0.7, 1.0, 10))
    assert np.isnan(accuracy[0])


def test_temperature_undoes_overconfidence() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 5))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)  # a sample from softmax(logits)
    assert statistics.fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    before = statistics.expected_calibration_error(statistics.probabilities_of(3 * logits), labels)
    after = statistics.expected_calibration_error(statistics.probabilities_of(3 * logits, 3.0), labels)
    assert after < before / 5


def test_where_every_image_is_right_there_is_no_temperature() -> None:
    logits = np.eye(4)[np.array([0, 1, 2, 3])]
    assert statistics.fit_temperature(logits, np.array([0, 1, 2, 3])) is None
    noise = np.random.default_rng(0).normal(size=(1000, 4))
    assert statistics.fit_temperature(noise, np.zeros(1000, dtype=int)) is None  # and here the hotter the better


def test_confusion_matrix() -> None:
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2])
    assert statistics.confusion_matrix(predicted, labels, 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
