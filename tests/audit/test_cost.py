"""How long an audit takes at most is said before it begins, and weighs the parts of its bar."""

from __future__ import annotations

import re

import numpy as np
import pytest
from art.attacks.evasion import FastGradientMethod

import art_classwise as acw
from art_classwise._core.progress import about
from art_classwise.attacks.ladder import ladder
from art_classwise.audit import cost
from art_classwise.audit.cost import Effort

FORWARD, BACKWARD = 0.25, 0.5  # seconds
FGSM = 3 * FORWARD + BACKWARD  # one look at where it stands, one step, one look at what came of it; and the verdict
SAYS = r"At most about (\d+ \w+) (.*): (.*)\.\n"


@pytest.fixture
def data(images):
    return acw.Dataset(images, np.arange(16) % 4, list("abcd"))


@pytest.fixture
def timed(monkeypatch):
    """Passes take a known time; the models that were timed."""
    found = []

    def seconds(classifier, data):
        found.append(classifier)
        return FORWARD, BACKWARD

    monkeypatch.setattr(cost, "_seconds_of_passes", seconds)
    monkeypatch.setattr(cost, "_COUNTED", 0)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    return found


def effort(classifier, data, attacks=("fgsm", "pgd-10")):
    found = Effort()
    found.measure({"net": classifier}, lambda: ladder(attacks, "Linf:0.1", seed=0, batch_size=64), data)
    return found


def test_seconds_are_passes_times_their_seconds(classifier, data, timed):
    found = effort(classifier, data)
    assert found.of("net", None) == FORWARD
    assert found.of("net", "fgsm") == FGSM
    assert found.of("net", "pgd-10") == 12 * FORWARD + 10 * BACKWARD
    assert found.of("net", "my own") == found.of("net", "pgd-10")  # the most of any
    assert found.of("another", "fgsm") == FGSM
    words = found.sentence(700, ["net"], ["fgsm", "pgd-10"], 1234, on="here")
    assert words == "At most about 12 min here: 1 model, 2 attacks, 1,234 examples."
    words = found.sentence(700, ["net"], ["fgsm", "my own"], 1, on="here")
    assert words.endswith("2 attacks, 1 example; the time of my own isn't known.")
    assert found.sentence(9, ["net"], ["fgsm"], 1, on="here") == ""
    assert found.sentence(700, ["net", "another"], ["fgsm"], 1, on="here") == ""


def test_nothing_is_counted_where_any_audit_is_short(classifier, data, timed, monkeypatch):
    monkeypatch.setattr(cost, "_COUNTED", 1e9)
    monkeypatch.setattr(cost, "_passes", None)  # would fail
    found = effort(classifier, data)
    assert found.of("net", None) == found.of("net", "pgd-10") == 1
    assert found.sentence(1e6, ["net"], ["fgsm"], 1, on="here") == ""


def test_a_model_that_fails_is_left_to_the_audit(classifier, data, monkeypatch):
    def fails(*_):
        raise RuntimeError("of the model's own")

    monkeypatch.setattr(cost, "_seconds_of_passes", fails)
    assert effort(classifier, data).of("net", "fgsm") == 1


def said(capsys):
    return re.findall(SAYS, capsys.readouterr().err)


def test_an_audit_says_what_is_left(classifier, data, timed, tmp_path, capsys):
    def run(attacks, **options):
        audit = acw.ClassWiseAudit("Linf:0.1", attacks, checks=False, store=tmp_path / "s", **options)
        return audit.evaluate({"net": classifier}, data)

    run("fgsm", verbose=False)
    assert said(capsys) == []
    assert timed == []
    run("fgsm")
    assert said(capsys) == []  # all is there
    run(["fgsm", "pgd-10"])
    words = about(16 * (12 * FORWARD + 10 * BACKWARD))
    assert said(capsys) == [(words, "on this machine", "1 model, 2 attacks, 16 examples")]


def test_outcomes_are_the_same(classifier, data, timed, capsys):
    one, other = (
        acw.ClassWiseAudit("Linf:0.1", ["fgsm", "pgd-3"], checks=False, verbose=verbose).evaluate(
            {"n": classifier}, data
        )
        for verbose in (True, False)
    )
    assert one.outcomes.equals(other.outcomes)
    ((words, _, _),) = said(capsys)
    assert words == about(16 * (FORWARD + FGSM + 5 * FORWARD + 3 * BACKWARD))


def test_own_attacks_are_named(classifier, data, timed, capsys):
    attacks = {"fgsm": lambda c: acw.PGD(c, eps=0.1, max_iter=1, verbose=False), "mine": _fails_elsewhere(classifier)}
    acw.ClassWiseAudit("Linf:0.1", attacks, checks=False).evaluate({"net": classifier}, data)
    ((_, _, of),) = said(capsys)
    assert of == "1 model, 2 attacks, 16 examples; the time of mine isn't known"


def _fails_elsewhere(only):
    def make(classifier):
        if classifier.model is not only.model:
            raise RuntimeError("made for one network")
        return FastGradientMethod(classifier, eps=0.1)

    return make
