"""Intervals and tests over queries, beside slow loops and SciPy."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm, permutation_test, t

from dinomix import statistics
from dinomix.statistics import bootstrap, mcnemar, paired


def clustered(rng, groups, size, share, sway):
    """Right or wrong: groups of `size` queries, whose shares right sway about `share`."""
    own = rng.beta(share * sway, (1 - share) * sway, groups)
    return (rng.random((groups, size)) < own[:, None]).ravel(), np.repeat(np.arange(groups), size)


def test_the_bootstrap_draws_whole_groups():
    rng = np.random.default_rng(0)
    groups = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 200)
    values, weights = rng.random(200) < 0.6, rng.choice([1.0, 3.0], 200)
    slow, names = [], np.unique(groups)
    for _ in range(5000):
        drawn = np.concatenate([np.flatnonzero(groups == n) for n in rng.choice(names, len(names))])
        slow.append(np.average(values[drawn], weights=weights[drawn]))
    found = bootstrap(values, groups, 5000, 0.9, weights=weights)
    tail = norm.cdf(-np.sqrt(26 / 25) * t.isf(0.05, 25))
    assert found == pytest.approx(np.quantile(slow, [tail, 1 - tail]), abs=0.008)
    assert found == bootstrap(values, groups, 5000, 0.9, weights=7 * weights)  # same seed
    assert found != bootstrap(values, groups, 5000, 0.9, seed=1, weights=weights)


def test_repeating_queries_of_a_group_adds_no_certainty():
    values = np.random.default_rng(0).random(80) < 0.5
    once = bootstrap(values, np.arange(80))
    assert bootstrap(np.repeat(values, 9), np.repeat(np.arange(80), 9)) == once
    low, high = bootstrap(np.repeat(values, 9), np.arange(720))
    assert high - low < 0.45 * (once[1] - once[0])


@pytest.mark.parametrize("value", [0, 1])
def test_all_alike_is_not_certain(value):
    ends = bootstrap([value] * 60, np.arange(60) // 2)
    wilson = binomtest(30 * value, 30).proportion_ci(method="wilson")
    assert ends == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    low, high = bootstrap([0, 1], ["one", "one"])  # one group tells little
    assert low < 0.15 and high > 0.85
    same = paired([value] * 60, [value] * 60, np.arange(60))
    assert -0.1 < same.low < same.difference == 0 < same.high < 0.1 and same.p == 1


def test_few_groups_tell_as_little_as_student_says():
    """Draws of two groups are one, the other, or both: they reach from 0.2 to 0.6."""
    values, groups = [1, 0, 0, 0, 0, 1, 1, 1, 0, 0], list("aaaaabbbbb")
    reach = t.isf(0.25, 1) * np.sqrt(((1 - 0.4 * 5) ** 2 + (3 - 0.4 * 5) ** 2) * 2) / 10
    assert bootstrap(values, groups, level=0.5) == pytest.approx((0.2, 0.6)) and reach <= 0.2 + 1e-9
    reach = t.isf(0.15, 1) * 0.2
    assert bootstrap(values, groups, level=0.7) == pytest.approx((0.4 - reach, 0.4 + reach))
    assert bootstrap(values, groups) == (0, 1)  # 12.7 standard errors
    test = paired([0] * 10, values, groups)
    assert (test.low, test.high) == (-1, 1)
    assert bootstrap([1, 0] * 20 + [1], ["one"] * 40 + ["two"]) == (0, 1)  # hardly two groups


def test_no_queries():
    assert np.isnan([*bootstrap([], []), *paired([], [], [])]).all() and mcnemar([], []) == 1


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: bootstrap([0.5, np.nan], "ab"), r"values\[1\] is nan"),
        (lambda: bootstrap([50.0], "a"), r"values\[0\] is 50.0, and should be from 0 to 1"),
        (lambda: bootstrap([1, 0], "abc"), r"values \(2,\) should be \(3,\)"),
        (lambda: bootstrap([1], "a", draws=0), "draws is 0"),
        (lambda: bootstrap([1], "a", level=95), "level is 95"),
        (lambda: bootstrap([1], "a", weights=[0]), "all above 0"),
        (lambda: paired([1, 0], [1], "ab"), r"b \(1,\) should be \(2,\)"),
        (lambda: mcnemar([0.5], [1]), "take one seed"),
        (lambda: mcnemar([1, 0], [1]), r"should be \("),
    ],
)
def test_what_cannot_be_tested(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


def test_mcnemar_is_of_what_only_one_gets_right():
    a, b = (
        np.array([1] * 30 + [0] * 20 + [1] * 9 + [0] * 3),
        np.array([1] * 30 + [0] * 29 + [1] * 3),
    )
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(binomtest(3, 12).pvalue)
    assert mcnemar(a, a) == 1
    alone = paired(a, b, np.arange(62), draws=10_000)  # each its own group: the same test
    assert alone.p == pytest.approx(mcnemar(a, b), abs=0.01)
    assert alone.difference == pytest.approx(-6 / 62) and alone.low < alone.difference < alone.high


def test_groups_are_exchanged_whole():
    rng = np.random.default_rng(1)
    a, groups = clustered(rng, 12, 20, 0.5, 2)
    b, _ = clustered(rng, 12, 20, 0.7, 2)
    test = paired(a, b, groups, draws=5000)
    sums = [np.stack([v[groups == g].sum() for g in range(12)]) for v in (a, b)]
    options = {"permutation_type": "samples", "n_resamples": np.inf}  # all of them
    exact = permutation_test(sums, lambda x, y, axis: (x - y).sum(axis), vectorized=True, **options)
    assert test.p == pytest.approx(exact.pvalue, abs=0.01)
    assert mcnemar(a, b) < test.p / 5  # takes 240 queries for independent
    assert paired(b, a, groups, draws=5000).p == test.p
    ends = bootstrap(b, groups)[0] - bootstrap(a, groups)[1], 0
    assert ends[0] < test.low  # pairs are drawn together


def test_nothing_large_is_drawn_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 500))
    monkeypatch.setattr(statistics, "BLOCK", 10_000)
    assert [*statistics._blocks(1000, 300)] == [33] * 30 + [10]
    low, high = bootstrap(a, np.arange(500))
    assert low < a.mean() < high and high - low == pytest.approx(3.92 * a.std() / 500**0.5, rel=0.1)
    assert 0 < paired(a, b, np.arange(500)).p <= 1


@pytest.mark.slow
@pytest.mark.parametrize("groups", [2, 3, 5])
@pytest.mark.parametrize("sway", [1.0, 10.0, 100.0])
def test_coverage_of_few_groups(groups, sway):
    """Of sizes from 1 to 17."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(1000):
        values, names = clustered(rng, groups, 17, 0.4, sway)
        asked = (np.arange(17) < rng.integers(1, 18, (groups, 1))).ravel()
        low, high = bootstrap(values[asked], names[asked])
        inside += low <= 0.4 <= high
    assert inside / 1000 > 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "size", "sway"), [(15, 9, 1.0), (120, 9, 1.0), (300, 3, 2.0)])
def test_coverage(groups, size, sway):
    """Of 95 % intervals, and false alarms, where queries of a group mostly share their fate."""
    rng, share, trials = np.random.default_rng(0), 0.4, 600
    inside, naive, rejected, naively = 0, 0, 0, 0
    for _ in range(trials):
        values, names = clustered(rng, groups, size, share, sway)
        low, high = bootstrap(values, names)
        inside += low <= share <= high
        low, high = bootstrap(values, np.arange(len(values)))
        naive += low <= share <= high
        other, _ = clustered(rng, groups, size, share, sway)  # no difference but chance
        rejected += paired(values, other, names, draws=200).p < 0.05
        naively += mcnemar(values, other) < 0.05
    assert 0.92 < inside / trials < 0.98 and naive / trials < 0.91
    assert 0.025 < rejected / trials < 0.08 and naively / trials > 0.1
