"""How sure a figure is: intervals of 95 %, over the seeds where there are three or more, else over the images.

Over the images, an interval speaks of these trained networks alone. Two seeds give a deviation, but an interval so wide
that it says nothing.

A sample holds an array [quantities, n images] for each seed of one network. A measure turns the means over the
images [quantities, …] into a number for each of the last axis; so accuracies become a ratio, or whatever is asked
for.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.stats import t as student

from vit_cnn.arrays import Array

Sample = list[Array]
Measure = Callable[[Array], Array]

RESAMPLES = 1000
FEWEST_SEEDS = 3
TAIL = 0.025  # at either end of an interval


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure, and from where to where it may well lie."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def points(self) -> str:
        """A difference of percentages."""
        return f"{100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def number(self, digits: int = 2) -> str:
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def choose(self, above: str, below: str, unclear: str) -> str:
        """One of three texts: the interval lies above 0, lies below 0, or holds 0."""
        return above if self.low > 0 else below if self.high < 0 else unclear

    def cells(self, name: str) -> dict[str, float]:
        """Columns of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def only(number: int) -> Measure:
    """The mean of one of the quantities."""
    return lambda means: means[number]


def kept(conditions: list[int]) -> Measure:
    """Mean accuracy under some conditions, as a share of that on clean images, which come first (of 0: nan)."""
    return lambda means: means[conditions].mean(axis=0) / np.where(means[0] > 0, means[0], np.nan)


def interval(measure: Measure, sample: Sample) -> Interval:
    """The measure of one network: its mean over the seeds."""
    if len(sample) < FEWEST_SEEDS:
        mean = np.mean(sample, axis=0)
        return from_draws(value_of(measure, mean), draws(measure, mean))
    values = [value_of(measure, seed) for seed in sample]
    return from_deviation(float(np.mean(values)), float(np.var(values, ddof=1)) / len(values), len(values) - 1)


def difference(measure: Measure, first: Sample, second: Sample) -> Interval:
    """The measure of one network minus that of another, on the same images.

    Three seeds or more are compared as independent groups, by Welch's interval
    (https://doi.org/10.1093/biomet/34.1-2.28). Fewer, on either side, are averaged and compared image by image.
    """
    if min(len(first), len(second)) < FEWEST_SEEDS:
        a, b = (np.mean(sample, axis=0) for sample in (first, second))
        return from_draws(value_of(measure, a) - value_of(measure, b), draws(measure, a) - draws(measure, b))
    groups = [np.array([value_of(measure, seed) for seed in sample]) for sample in (first, second)]
    shares = [values.var(ddof=1) / len(values) for values in groups]
    variance = sum(shares)
    below = sum(share**2 / (len(values) - 1) for share, values in zip(shares, groups, strict=True))
    return from_deviation(groups[0].mean() - groups[1].mean(), variance, variance**2 / below if below else 1)


def value_of(measure: Measure, seed: Array) -> float:
    return float(measure(seed.mean(axis=1, keepdims=True))[0])


def draws(measure: Measure, seed: Array) -> Array:
    """The measure on images drawn anew, with replacement; the same draws for every network."""
    n = seed.shape[1]
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return measure(seed @ times.T / n)


def from_draws(value: float, drawn: Array) -> Interval:
    defined = drawn[~np.isnan(drawn)]  # images drawn anew that hold no mistake have no κ
    low, high = np.quantile(defined if len(defined) else drawn, [TAIL, 1 - TAIL])
    return Interval(value, float(low), float(high))


def from_deviation(value: float, variance: float, freedom: float) -> Interval:
    half = float(student.ppf(1 - TAIL, freedom) * variance**0.5)
    return Interval(float(value), float(value) - half, float(value) + half)
