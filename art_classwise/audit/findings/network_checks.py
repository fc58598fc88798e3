"""Checks of the networks themselves, and of the data they are tried on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from art_classwise.audit.findings.attack_checks import Observations, standard_attacks
from art_classwise.audit.findings.evidence import Evidence, exceeds, gains, of, points
from art_classwise.audit.probes import CHANNELS, Alternative, Probe
from art_classwise.datasets.catalog import DATASETS
from art_classwise.metrics.intervals import wilson
from art_classwise.threat import ThreatModel

_AGAIN = 1e-3  # of the logits' spread: the same computation twice differs by less, on a GPU, too
_ALONE = 2e-2  # in batches of another size kernels differ; where a network computes in bfloat16, by nearly 1e-2
_FEW = 50  # examples: the interval of one class is then up to 27 points wide

_SMALLEST, _LARGEST = 1 / 8, 2.5


def randomness(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and _is_random(probe):
        yield (
            f"For the same images, {of(probe.random_flips, probe.n)} predictions changed when repeated, and logits by "
            f"up to {probe.random_change:.2g} of their spread.",
            "Attack the expectation over its randomness (EOT), and fix its seed for the verdict: an attack is weak if "
            "random numbers differ at each step.",
        )


def _is_random(probe: Probe) -> bool:
    return probe.random_flips > 0 or probe.random_change > _AGAIN


_EVAL = "Call eval(), and let batch normalisation use its running statistics."


def batch_dependence(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is None:
        return
    where = _training(probe)
    if probe.batch_error:
        yield f"It fails on a single image: {probe.batch_error}.{where}", _EVAL
    elif _depends_on_batch(probe):
        yield (
            f"For single images instead of a batch, {probe.batch_flips} of at most 16 predictions changed, and logits "
            f"by up to {probe.batch_change:.2g} of their spread.{where}",
            _EVAL,
        )


def _depends_on_batch(probe: Probe) -> bool:
    return not _is_random(probe) and (probe.batch_flips > 0 or probe.batch_change > _ALONE)


def _training(probe: Probe) -> str:
    return f" In training mode, or without running statistics: {', '.join(probe.training)}." if probe.training else ""


def training_mode(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and probe.training and not (probe.batch_error or _depends_on_batch(probe)):
        yield _training(probe).strip(), _EVAL


def _better(evidence: Evidence, alternatives: Mapping[str, Alternative], least: float) -> Iterator[tuple[str, str]]:
    probe = evidence.probe
    if probe is None or not alternatives:
        return
    way = max(alternatives, key=lambda w: alternatives[w].gained - alternatives[w].lost)
    best, n = alternatives[way], probe.alternatives_tried
    gain = best.gained - best.lost
    if gain >= max(5, least * n) and gains(best.gained, best.lost, evidence.level / len(alternatives)):
        then = probe.alternatives_right + gain
        yield way, f"With images {way}, {of(then, n)} are classified correctly; unchanged, {probe.alternatives_right}."


def normalisation(evidence: Evidence) -> Observations:
    labels = np.bincount(evidence.label, minlength=len(evidence.result.classes)) / len(evidence.label)
    probe = evidence.probe
    if probe is None:
        return
    ways = {way: counts for way, counts in probe.alternatives.items() if way != CHANNELS}
    for way, saw in _better(evidence, ways, 0.1):
        best = ways[way]
        share = (probe.alternatives_right + best.gained - best.lost) / probe.alternatives_tried
        if _beats(share, float(labels.max())):
            yield saw, "Images are in [0, 1]: put the network's normalisation before its first layer."


def channel_order(evidence: Evidence) -> Observations:
    if evidence.probe is not None:
        ways = {way: counts for way, counts in evidence.probe.alternatives.items() if way == CHANNELS}
        for _, saw in _better(evidence, ways, 0.03):
            yield saw, "The network expects blue, green, red: reverse the channels before its first layer."


def chance_accuracy(evidence: Evidence) -> Observations:
    n_classes = len(evidence.result.classes)
    labels, predicted = (np.bincount(v, minlength=n_classes) / len(v) for v in (evidence.label, evidence.clean))
    # As Cohen's kappa has it: what the same predictions would get right if they were dealt out at random.
    chance = float(labels @ predicted)
    accuracy = float(evidence.right.mean())
    if len(evidence.label) >= 20 and np.count_nonzero(labels) > 1 and not _beats(accuracy, chance):
        yield (
            f"Clean accuracy is {points(accuracy)} %, and the same predictions in random order would have "
            f"{points(chance)} %.",
            "Are the weights loaded, does it expect images in [0, 1], and are its classes numbered as in the data?",
        )


def _beats(accuracy: float, chance: float) -> bool:
    return accuracy > chance + 0.1 * (1 - chance)


def probabilities(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and probe.probabilities == probe.n:
        yield (
            f"For all of {probe.n} images the outputs lie in [0, 1] and sum to 1.",
            "Gradients vanish through a softmax, so gradient attacks look weaker than they are: return logits, or "
            "log-probabilities.",
        )


def constant_logits(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and probe.constant is not None and probe.constant >= max(1, 0.02 * probe.n):
        yield (
            f"For {of(probe.constant, probe.n)} images all logits are equal.",
            "A network that rejects inputs has no gradient there, and what it rejects counts as the first class: "
            "attack the network without its detector, and the detector by an attack made for it.",
        )


def misaligned_labels(evidence: Evidence) -> Observations:
    classes = evidence.result.classes
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (evidence.label, evidence.clean), 1)
    n = counts.sum(1)
    low, _ = wilson(counts, np.broadcast_to(n[:, None], counts.shape))
    goes_to = {int(i): int(counts[i].argmax()) for i in np.flatnonzero(n) if np.nanmax(low[i]) > 0.5}
    moved = {i for i, j in goes_to.items() if i != j and j in goes_to}
    cycles = {i for i in moved if _returns(goes_to, i)}
    if cycles:
        pairs = ", ".join(f"{classes[i]} as {classes[goes_to[i]]}" for i in sorted(cycles)[:3])
        more = f" and {len(cycles) - 3} more" if len(cycles) > 3 else ""
        yield (
            f"Without attack, most examples of {of(len(cycles), len(classes))} classes are predicted as one another's: "
            f"{pairs}{more}.",
            "The network and the data number the classes differently: bring labels and logits into the same order.",
        )


def wrong_labels(evidence: Evidence) -> Observations:
    """Find labels that are wrong at random: a trained network finds the true labels of its errors likely.

    Of errors, the true label's logit was in the lower half for 2 to 9 % (seven published networks of CIFAR-10, 63 to
    92 % accuracy) and 29 % (one of 31 %); with random labels for half of the images, for 44 to 51 %. What is allowed is
    half of the error rate, 1.2 to 2.1 times what these networks show.
    """
    errors = label_errors(evidence)
    if evidence.probe is not None and exceeds(*errors, evidence.level):
        yield (
            f"Of {errors[1]} misclassified images, {errors[0]} have a label that the network finds unlikely: its logit "
            "is in the lower half.",
            "Errors of a trained network have likelier labels: are images and labels in the same order?",
        )


def label_errors(evidence: Evidence) -> tuple[int, int, float]:
    """Return how many errors have an unlikely label, how many errors there are, and what share of them may have."""
    if evidence.probe is None:
        return 0, 0, 0.0
    n, errors = evidence.probe.alternatives_tried, evidence.probe.alternatives_tried - evidence.probe.alternatives_right
    return evidence.probe.unlikely_labels or 0, errors, errors / n / 2 if n else 0.0


def _returns(goes_to: Mapping[int, int], start: int) -> bool:
    at = goes_to.get(start)
    for _ in goes_to:
        if at is None or at == start:
            break
        at = goes_to.get(at)
    return at == start and goes_to[start] != start


def published_numbers(evidence: Evidence) -> Observations:
    published = evidence.manifest.published.get(evidence.name)
    if published is None or not is_balanced(evidence):
        return
    advice = "Are these the published weights, and the same test images and labels?"
    n = len(evidence.label)
    confidence = 1 - evidence.level / 2
    low, high = (float(end) for end in wilson(int(evidence.right.sum()), n, confidence))
    if published.clean is not None and not low <= published.clean <= high:
        yield (
            f"Clean accuracy is {points(evidence.right.mean())} % ({points(low)} to {points(high)}, n = {n}), "
            f"but {published.source} is published with {points(published.clean)} %.",
            advice,
        )
    threat, eps = evidence.threat, published.eps or 0
    if (
        published.robust is None
        or not evidence.adversaries
        or published.norm != threat.norm
        or abs(eps - threat.eps) > 0.01 * threat.eps
    ):
        return
    low, high = (float(end) for end in wilson(int(evidence.held.sum()), n, confidence))
    if published.robust > high or (standard_attacks(evidence) and published.robust < low):
        yield (
            f"Robust accuracy under all attacks is {points(evidence.held.mean())} % ({points(low)} to {points(high)}, "
            f"n = {n}), but {published.source} is published with {points(published.robust)} % under AutoAttack.",
            advice,
        )


def is_balanced(evidence: Evidence) -> bool:
    """Return whether all classes may be as frequent, as in the test sets that numbers are published of."""
    labels: npt.NDArray[np.int64] = evidence.label
    n_classes = len(evidence.result.classes)
    counts, expected = np.bincount(labels, minlength=n_classes), len(labels) / n_classes
    return bool(chdtrc(n_classes - 1, ((counts - expected) ** 2 / expected).sum()) > 1e-3)


def few_examples(evidence: Evidence) -> Observations:
    n = np.bincount(evidence.label, minlength=len(evidence.result.classes))
    few = (n > 0) & (n < _FEW)
    if few.any():
        low, high = wilson(n[few].min() / 2, n[few].min())
        absent = f"; {of(int((n == 0).sum()), len(n))} have none" if (n == 0).any() else ""
        yield (
            f"{of(int(few.sum()), len(n))} classes have fewer than {_FEW} examples: an interval is up to "
            f"{points(float(high - low))} points wide{absent}.",
            "Use more examples, or make no claim about single classes: put classes into groups.",
        )


def unusual_radius(evidence: Evidence) -> Observations:
    threat, dataset = evidence.threat, evidence.manifest.examples.dataset
    spec = DATASETS.get(dataset)
    if spec is None:
        return
    own = ThreatModel.parse(spec.threat)
    usual = own.eps if threat.norm == own.norm else spec.radii.get(threat.norm)
    if usual is not None and not _SMALLEST * usual <= threat.eps <= _LARGEST * usual:
        yield (
            f"The radius {threat} is {threat.eps / usual:.2g} times the usual one for {dataset}.",
            "Radii are in the units of images in [0, 1]: 8 of 255 levels is Linf:8/255.",
        )
