"""What looks wrong with a network itself, or with what it was given: randomness, batches, normalisation, labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

from art_classwise.audit._evidence import LEVEL, Evidence, Observations, kind, of, points
from art_classwise.audit._probes import Probe
from art_classwise.metrics.intervals import wilson

__all__ = ["DIFFERS", "NETWORK_CHECKS"]

DIFFERS = "differs from what is published"
"""The check of published numbers."""

_AGAIN = 1e-3  # of the logits' spread: the same computation twice differs by less, on a GPU, too
_ALONE = 2e-2  # in batches of another size kernels differ; where a network computes in bfloat16, by nearly 1e-2


def _random(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is not None and _is_random(probe):
        yield (
            "random network",
            f"Asked again about the same images, {of(probe.random_flips, probe.n)} predictions changed, and logits by "
            f"up to {probe.random_change:.2g} of their spread.",
            "Attack the expectation over its randomness (EOT), and fix its seed for the verdict: an attack that meets "
            "other numbers at each step looks weak.",
        )


def _is_random(probe: Probe) -> bool:
    return probe.random_flips > 0 or probe.random_change > _AGAIN


def _batch(evidence: Evidence) -> Observations:
    probe = evidence.probe
    if probe is None:
        return
    where = f" In training mode, or without running statistics: {', '.join(probe.training)}." if probe.training else ""
    advice = "Call eval(), and let batch normalisation use its running statistics."
    if probe.batch_error:
        yield "batch-dependent network", f"On one image alone it fails: {probe.batch_error}.{where}", advice
    elif not _is_random(probe) and (probe.batch_flips > 0 or probe.batch_change > _ALONE):
        saw = (
            f"Asked about images one by one, not together, {probe.batch_flips} of at most 16 predictions changed, and "
            f"logits by up to {probe.batch_change:.2g} of their spread.{where}"
        )
        yield "batch-dependent network", saw, advice
    elif probe.training:
        yield "network in training mode", where.strip(), advice


def _normalisation(evidence: Evidence) -> Observations:
    n_classes = len(evidence.result.classes)
    labels, predicted = (np.bincount(v, minlength=n_classes) / len(v) for v in (evidence.label, evidence.clean))
    probe = evidence.probe
    if probe is not None:
        ways = {"standardised channel by channel": probe.standardised_gain, "multiplied by 255": probe.scaled_gain}
        way = max(ways, key=lambda w: ways[w])
        then = probe.right + ways[way]
        if ways[way] >= max(5, 0.2 * probe.n) and _beats(then / probe.n, float(labels.max())):
            yield (
                "wrong normalisation",
                f"With images {way}, {of(then, probe.n)} are classified correctly; as they are, {probe.right}.",
                "Images come in [0, 1]: put the network's own normalisation before its first layer.",
            )
            return
    # As Cohen's kappa has it: what the same predictions would get right if they were dealt out at random.
    chance = float(labels @ predicted)
    accuracy = float(evidence.right.mean())
    if len(evidence.label) >= 20 and np.count_nonzero(labels) > 1 and not _beats(accuracy, chance):
        yield (
            "accuracy near chance",
            f"Clean accuracy is {points(accuracy)} %, and the same predictions dealt out at random would get "
            f"{points(chance)} %.",
            "Are the weights loaded, images in [0, 1] what it expects, and the classes numbered as in the data?",
        )


def _beats(accuracy: float, chance: float) -> bool:
    return accuracy > chance + 0.1 * (1 - chance)


def _labels(evidence: Evidence) -> Observations:
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
            "misaligned labels",
            f"Most examples of {of(len(cycles), len(classes))} classes are taken, without attack, for one another's: "
            f"{pairs}{more}.",
            "The network numbers its classes otherwise than the data: bring labels and logits into one order.",
        )


def _returns(goes_to: Mapping[int, int], start: int) -> bool:
    at = goes_to.get(start)
    for _ in goes_to:
        if at is None or at == start:
            break
        at = goes_to.get(at)
    return at == start and goes_to[start] != start


def _published(evidence: Evidence) -> Observations:
    everyone = evidence.result.info.get("published", {})
    told = everyone.get(evidence.name)
    if not told or not _is_balanced(evidence.label, len(evidence.result.classes)):
        return
    advice = "Are these the weights that were published, and the same test images?"
    n = len(evidence.label)
    confidence = 1 - LEVEL / (2 * len(everyone))  # so that a whole leaderboard has a false one in a hundred walks
    low, high = (float(end) for end in wilson(int(evidence.right.sum()), n, confidence))
    if told["clean"] is not None and not low <= told["clean"] <= high:
        yield (
            DIFFERS,
            f"Clean accuracy is {points(evidence.right.mean())} % ({points(low)} to {points(high)}, n = {n}), "
            f"but {told['source']} is published with {points(told['clean'])} %.",
            advice,
        )
    threat = evidence.result.threat
    if told["robust"] is None or told["norm"] != threat.norm or abs(told["eps"] - threat.eps) > 0.01 * threat.eps:
        return
    low, high = (float(end) for end in wilson(int(evidence.held.sum()), n, confidence))
    attacks = evidence.result.info.get("attacks", {}).values()
    as_strong = any(kind(attack) == "AutoAttack" and attack.get("attacks") == "standard" for attack in attacks)
    if told["robust"] > high or (as_strong and told["robust"] < low):
        yield (
            DIFFERS,
            f"Robust accuracy under all attacks is {points(evidence.held.mean())} % ({points(low)} to {points(high)}, "
            f"n = {n}), but {told['source']} is published with {points(told['robust'])} % under AutoAttack.",
            advice,
        )


def _is_balanced(labels: npt.NDArray[np.int64], n_classes: int) -> bool:
    """Return whether all classes may be as frequent, as in the test sets that numbers are published of."""
    counts, expected = np.bincount(labels, minlength=n_classes), len(labels) / n_classes
    return bool(chdtrc(n_classes - 1, ((counts - expected) ** 2 / expected).sum()) > 1e-3)


NETWORK_CHECKS = (_random, _batch, _normalisation, _labels, _published)
"""Each yields what it saw of a model."""
