from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, log_ndtr
from scipy.stats import binom
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.metrics.per_class import great_score

SCALE = math.sqrt(math.pi / 2)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(scale=3, size=(60, 4))


@pytest.fixture
def y(logits) -> np.ndarray:
    """Labels of the first three classes, most of them right."""
    random = np.random.default_rng(1)
    return np.where(random.random(60) < 0.7, logits[:, :3].argmax(1), random.integers(0, 3, 60))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("temperature", [1.0, 0.25, 8])
def test_scores_are_those_of_the_formula_example_by_example(logits, y, activation, temperature):
    scores = []
    for z, label in zip(logits, y, strict=True):
        p = [math.exp(v / temperature) for v in z]
        p = [v / sum(p) for v in p] if activation == "softmax" else [v / (1 + v) for v in p]
        scores.append(SCALE * max(p[label] - max(v for k, v in enumerate(p) if k != label), 0))
    table = great_score(logits, y, activation=activation, temperature=temperature, classes=list("abcd"))
    assert table["n"].tolist() == np.bincount(y, minlength=4).tolist()
    for c, name in enumerate("abc"):
        assert table.loc[name, "score"] == pytest.approx(np.mean([s for s, k in zip(scores, y, strict=True) if k == c]))
    assert table.loc["d", ["score", "low", "high"]].isna().all()
    assert table.index.name == "class"


def test_labels_may_be_one_hot_and_probabilities_may_be_given_themselves(logits, y):
    expected = great_score(logits, y, activation="sigmoid")
    assert great_score(logits, np.eye(4)[y], activation="sigmoid").equals(expected)
    assert great_score(expit(logits), y, activation=None).equals(expected)


def test_art_gives_the_same_of_a_network_that_ends_in_softmax_up_to_the_scale(network, images):
    from art.evaluations.great_score import GreatScorePyTorch

    logits = acw.as_classifier(network, (3, 6, 6), 4, device="cpu").predict(images)
    labels = np.where(np.arange(16) < 12, logits.argmax(1), 0)
    ending = acw.as_classifier(nn.Sequential(network, nn.Softmax(dim=1)), (3, 6, 6), 4, device="cpu")
    table = great_score(logits, labels)
    theirs, _ = GreatScorePyTorch(ending).evaluate(images, np.eye(4)[labels])
    assert np.nansum(table["score"] * table["n"]) / 16 == pytest.approx(SCALE * theirs, rel=1e-5)
    for c in np.unique(labels):
        theirs, _ = GreatScorePyTorch(ending).evaluate(images[labels == c], np.eye(4)[labels[labels == c]])
        assert table.loc[c, "score"] == pytest.approx(SCALE * theirs, rel=1e-5)


def score_of(margin_logit: float, **options) -> float:
    return great_score([[margin_logit, 0.0]], [0], **options).loc[0, "score"]


@pytest.mark.parametrize("distance", [1e-6, 1e-3, 0.1, 0.5, 1.0, 1.2, 3.0])
def test_score_bounds_the_distance_to_the_boundary_where_the_network_is_averaged_over_noise(distance):
    """A step at a plane, averaged over Gaussian noise of deviation 1: p = Phi(distance), and no bound is tighter."""
    score = score_of(log_ndtr(distance) - log_ndtr(-distance))
    assert score <= distance * (1 + 1e-9)
    if distance < 0.01:
        assert score == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("distance", [0.001, 0.1, 1.0])
def test_score_bounds_the_distance_if_the_margin_is_flat_enough_and_only_then(distance):
    """Of two classes with logits +-slope * u / 2 at a distance u, p_y - p_k = tanh(slope * u / 2)."""
    steepest = 2 * math.sqrt(2 / math.pi)
    assert score_of(steepest * distance) <= distance
    steep = 40 * steepest
    assert score_of(steep * distance) > distance
    assert score_of(steep * distance, temperature=40) <= distance


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_interval_covers_the_mean_as_often_as_it_says(n, confidence):
    """Of values that are 0 or 1, whose numbers are binomial: exact coverage, and no values vary more."""
    ends = []
    for k in range(n + 1):
        p = np.zeros((n, 2))
        p[:, 0] = np.arange(n) < k
        row = great_score(p, np.zeros(n, int), activation=None, confidence=confidence).loc[0] / SCALE
        ends.append((row["low"], row["high"]))
    low, high = np.array(ends).T
    for mean in np.linspace(0.001, 0.999, 333):
        covered = binom.pmf(np.arange(n + 1), n, mean)[(low <= mean) & (mean <= high)].sum()
        assert covered >= confidence - 1e-12


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 2, 30, 2000])
def test_interval_lies_within_hoeffdings_and_is_known_at_the_ends(n, confidence):
    half = math.sqrt(math.log(2 / (1 - confidence)) / (2 * n))
    for mean in [0, 1e-9, 0.02, 0.5, 0.9, 1]:
        p = np.column_stack([np.full(n, mean), np.zeros(n)])
        row = great_score(p, np.zeros(n, int), activation=None, confidence=confidence).loc[0] / SCALE
        assert max(mean - half, 0) - 1e-9 <= row["low"] <= mean + 1e-9
        assert mean - 1e-9 <= row["high"] <= min(mean + half, 1) + 1e-9
        assert row["high"] - row["low"] > 0
    tail = ((1 - confidence) / 2) ** (1 / n)  # all of n values miss: q^n = alpha / 2
    assert row["low"] == pytest.approx(tail)
    none = great_score(np.zeros((n, 2)), np.zeros(n, int), activation=None, confidence=confidence).loc[0] / SCALE
    assert none["high"] == pytest.approx(1 - tail)


def test_extreme_logits_and_temperatures_are_taken_to_their_limits():
    for activation in ("softmax", "sigmoid"):
        table = great_score([[1e308, -1e308], [3.0, -1.0]], [0, 1], activation=activation, temperature=1e-300)
        assert table["score"].tolist() == [SCALE, 0]


def test_probabilities_given_as_logits_are_noticed(logits, y):
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    with pytest.warns(UserWarning, match="seem to be probabilities: then give `activation=None`"):
        great_score(p, y)


@pytest.mark.parametrize(
    ("logits", "y", "options", "says"),
    [
        (np.empty((0, 3)), [], {}, "at least one example"),
        ([[1.0], [2.0]], [0, 0], {}, "two classes"),
        ([1.0, 2.0], [0, 1], {}, r"shape \(n, C\)"),
        ([[1.0, 2.0], [np.nan, 0.0]], [0, 1], {}, "those of example 1 are not"),
        ([[1.0, np.inf]], [0], {}, "must be finite"),
        ([[1.0, 2.0]], [0, 1], {}, "differ in length"),
        ([[1.0, 2.0]], [2], {}, "outside the 2 classes"),
        ([[1.0, 2.0]], [0], {"classes": ["a"]}, "2 classes, but 1 class names"),
        ([[1.0, 2.0]], [0], {"activation": "relu"}, "`activation` must be"),
        ([[1.0, 2.0]], [0], {"activation": None}, r"probabilities in \[0, 1\] are needed"),
        ([[1.0, 2.0]], [0], {"temperature": 0}, "`temperature` must be a finite number above 0"),
        ([[1.0, 2.0]], [0], {"confidence": 1}, "`confidence` must be a number above 0 to below 1"),
    ],
)
def test_unusable_input_is_refused_in_a_sentence(logits, y, options, says):
    with pytest.raises(InputError, match=says):
        great_score(logits, y, **options)
