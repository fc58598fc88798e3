"""A small zoo of broken networks, each of which is found, and of healthy ones, which raise no alarm."""

from __future__ import annotations

import numpy as np
import pytest
from broken_networks import BROKEN, HEALTHY, Changed, Do, audited
from torch import nn

import art_classwise as acw


@pytest.mark.filterwarnings("ignore:The model seems to return probabilities")
@pytest.mark.parametrize("fault", BROKEN)
def test_each_broken_network_is_found(fault, trained, digits):
    make, expected = BROKEN[fault]
    assert expected in {f.check for f in audited(make(trained), digits.first(200)).findings}


@pytest.mark.parametrize("eps", [0.025, 0.05, 0.1])
@pytest.mark.parametrize("way", HEALTHY)
def test_no_healthy_network_raises_an_alarm(way, eps, trained, digits):
    result = audited(HEALTHY[way](trained), digits.first(200), ["fgsm", "pgd-10", "margin-20"], f"Linf:{eps}")
    assert {f.check for f in result.findings} <= {"few examples"}


def test_a_network_that_rejects_is_not_called_badly_normalised(trained, digits):
    make, _ = BROKEN["rejecting"]
    assert "wrong normalisation" not in {f.check for f in audited(make(trained), digits.first(200)).findings}


@pytest.fixture(scope="module")
def coloured():
    """Images whose class is the brightest channel: blue, green, red, or none."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    x = 0.3 + 0.05 * rng.random((200, 3, 4, 4))
    for k in range(3):
        x[y == k, 2 - k] += 0.3
    return acw.Dataset(x.astype(np.float32), y, ("blue", "green", "red", "grey"))


def brightest():
    layer = nn.Linear(48, 4, bias=True)
    nn.init.zeros_(layer.weight)
    for k in range(3):
        layer.weight.data[k].view(3, 16)[2 - k] = 1.0
    layer.weight.data[3] = 0.37
    return nn.Sequential(nn.Flatten(), layer).eval()


def test_reversed_channels_are_found(coloured):
    healthy = brightest()
    assert "wrong channel order" not in {f.check for f in audited(healthy, coloured).findings}
    result = audited(Changed(healthy, before=Do(lambda x: x.flip(1))), coloured)
    (found,) = [f for f in result.findings if f.check == "wrong channel order"]
    assert "With images with channels in reverse order" in found.saw


@pytest.mark.parametrize(("share", "expected"), [(0.5, True), (0.2, True), (0.0, False)])
def test_wrong_labels_are_found(share, expected, trained, digits):
    data, rng = digits.first(400), np.random.default_rng(0)
    wrong = rng.random(400) < share
    y = np.where(wrong, (data.y + rng.integers(1, 10, 400)) % 10, data.y)
    result = audited(trained, acw.Dataset(data.x, y, data.classes))
    assert ("wrong labels" in {f.check for f in result.findings}) is expected


# Attacks that are weaker than the threat model says.


def attack(**options):
    return lambda c: acw.PGD(c, **{"eps": 0.1, "max_iter": 10, "verbose": False, **options})


@pytest.mark.parametrize(
    ("options", "check", "says"),
    [
        ({"eps": 0.03}, "another threat model", "searches within norm inf and eps 0.03, but the audit is for Linf:0.1"),
        ({"eps": 0.3}, "another threat model", "what it finds farther away is brought back into the ball"),
        ({"norm": 2}, "another threat model", "norm 2 and eps 0.1, but the audit is for Linf:0.1"),
        ({"max_iter": 3}, "weak attack", "No attack (mine) is a gradient search of 10 steps or more within Linf:0.1"),
        ({"max_iter": 10, "eps_step": 0.001}, "weak attack", "The steps of mine cover at most 0.01, but the radius is"),
    ],
)
def test_attacks_that_are_weaker_than_they_look(options, check, says, trained, digits):
    result = audited(trained, digits.first(40), {"mine": attack(**options)}, "Linf:0.1", checks=False)
    assert any(f.check == check and says in f.saw for f in result.findings)


def test_an_attack_as_the_audit_asks_is_not(trained, digits):
    result = audited(trained, digits.first(40), {"mine": attack()}, "Linf:0.1", checks=False)
    assert [f.check for f in result.findings] == ["few examples"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_short_deepfool_is_no_strong_attack(trained, digits):
    from art.attacks.evasion import DeepFool

    short = {"deepfool": lambda c: DeepFool(c, max_iter=3, verbose=False)}
    result = audited(trained, digits.first(20), short, "Linf:0.1", checks=False)
    assert any("No attack (deepfool) is a gradient search" in f.saw for f in result.findings)


def test_an_overstatement_by_eleven_points_shows(trained, digits):
    """An attack that spares every fifth example which it would break."""
    strong = acw.PGD
    data = digits.first(700)

    class Sparing(strong):
        def generate(self, x, y=None, **options):
            found = super().generate(x, y, **options)
            spared = (options["example_ids"] % 3 == 0)[:, None, None, None]
            return np.where(spared, x, found)

    made = {"sparing": lambda c: Sparing(c, eps=0.1, max_iter=20, loss="margin", early_stop=True, verbose=False)}
    result = audited(trained, data, made, "Linf:0.1")
    honest = audited(trained, data, "margin-20", "Linf:0.1", checks=False)
    robust = [float(r.outcomes["withstood"].mean()) for r in (result, honest)]
    assert 0.1 < robust[0] - robust[1] < 0.2
    assert any("Margin PGD of 40 steps broke" in f.saw for f in result.findings)


# Every check that ran, and what it could have missed.


def test_every_check_is_listed_with_its_result(trained, digits):
    result = audited(trained, digits.first(100), ["fgsm", "pgd-10"])
    table = result.checks
    assert table["check"].tolist()[:2] == ["few examples", "unusual radius"]
    assert len(table) == len(acw.audit.findings.CHECKS)
    assert set(table["result"]) <= {"found", "nothing found", "not run"}
    assert (table["result"] == "found").sum() >= 1
    assert table["explanation"].str.len().min() > 10
    unlooked = audited(trained, digits.first(100), ["fgsm", "pgd-10"], checks=False).checks
    skipped = unlooked[unlooked["result"] == "not run"]
    assert "Not run: the network itself wasn't tried." in set(skipped["explanation"])


def test_what_a_check_could_have_missed_is_clopper_and_pearsons_bound():
    from scipy.stats import binom

    from art_classwise.audit.findings.evidence import detectable_share, exceeds

    for n, share, level in ((32, 0.01, 1e-3), (192, 0.08, 1e-4), (16, 0.01, 1e-3), (1000, 0.01, 0.01)):
        found = detectable_share(n, share, level)
        needed = next(k for k in range(n + 1) if exceeds(k, n, share, level))
        assert binom.sf(needed - 1, n, found) == pytest.approx(0.975)
        assert binom.sf(needed - 1, n, share) < level <= max(binom.sf(needed - 2, n, share), level * (needed == 3))
    assert detectable_share(2, 0.01, 1e-3) == 1
    assert detectable_share(32) == pytest.approx(0.109, abs=5e-4)  # none of 32 seen: a share below 11 % might not show
    assert binom.pmf(0, 64, detectable_share(64)) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("attacks", "strong"),
    [("pgd-10", False), (["pgd-20", "pgd-50x2"], True), (["pgd-2", "pgd-5"], False), ("fgsm", False)],
)
def test_whether_a_strong_attack_was_run(attacks, strong, trained, digits):
    result = audited(trained, digits.first(30), attacks, "Linf:0.02", checks=False)
    assert (result.strongly_attacked == ("net",)) is strong


@pytest.mark.parametrize(
    ("options", "standard"),
    [
        ({}, True),
        ({"n_iter": 200, "n_queries": 9_000, "batch_size": 7}, True),
        ({"n_iter": 99}, False),
        ({"n_queries": 4_999}, False),
        ({"n_target_classes": 3}, False),
        ({"target_order": "malt"}, False),
        ({"attacks": "apgd-ce"}, False),
    ],
)
def test_autoattack_with_less_than_its_standard_effort_is_not_taken_for_it(options, standard, classifier):
    from art_classwise.audit.findings.attack_checks import asked_standard
    from art_classwise.audit.provenance import parameters

    assert asked_standard(parameters(acw.AutoAttack(classifier, eps=0.1, **options))) is standard
