"""Findings: a network constructed for each, outcomes made by hand, and healthy ones that raise none."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from broken_networks import Changed, Do, audited
from places import ROOT
from scipy.stats import binom, binomtest, norm
from torch import nn

import art_classwise as acw
from art_classwise.audit import Finding, Manifest, probes
from art_classwise.audit.findings import CHECKS
from art_classwise.audit.findings.evidence import exceeds
from art_classwise.audit.manifest import Published
from art_classwise.audit.outcomes import table
from art_classwise.audit.probes import CHANNELS, Alternative, Probe
from art_classwise.errors import InputError

CLASSES = tuple("abcdefghij")
N = 1000


# Outcomes made by hand.


def made(withstood, *, attacks=None, eps=8 / 255, dataset="cifar10", label=None, clean=None, zero=None, **info):
    """A result of one model, "net", from who withstood each attack; misclassified ones are taken for the next class."""
    label = np.arange(N) % 10 if label is None else label
    clean = label if clean is None else clean
    rows = {}
    for attack, held in withstood.items():
        held = np.asarray(held) & (clean == label)
        rows["net", attack] = pd.DataFrame(
            {
                "example": np.arange(len(label)),
                "label": label,
                "clean_prediction": clean,
                "prediction": np.where(held, label, (label + 1) % 10),
                "withstood": held,
                "clean_margin": np.float32(1),
                "margin": np.float32(0),
                "perturbation": np.float32(eps),
                "zero_gradient": (zero or {}).get(attack, np.zeros(len(label), bool)),
            }
        )
    told = {a: search(**{"eps": eps, **(attacks or {}).get(a, {})}) for a in withstood}
    outcomes = table(rows, ["net"], list(withstood))
    options = {"attacks": told, "dataset": dataset, **info}
    return acw.AuditResult(outcomes, Manifest.of_table(outcomes, CLASSES, acw.ThreatModel("Linf", eps), **options))


def search(kind="art_classwise.attacks.pgd.PGD", max_iter=20, eps=8 / 255, **more):
    length = eps if isinstance(eps, float) else 1.0
    said = {"class": kind, "norm": "inf", "max_iter": max_iter, "num_random_init": 1, "loss": "cross_entropy"}
    return {**said, "eps": eps, "eps_step": length / 4 if max_iter != 1 else 2 * length, **more}


def first(n):
    """Who withstood: the first n."""
    return np.arange(N) < n


def checks(result):
    return [f.check for f in result.findings]


WAYS = ("standardised channel by channel", "multiplied by 255", "scaled to [-1, 1]", CHANNELS)
PROBE = Probe(
    n=64,
    right=64,
    constant=0,
    probabilities=0,
    random_flips=0,
    random_change=1e-6,
    batch_flips=0,
    batch_change=1e-6,
    batch_error="",
    training=(),
    alternatives_tried=256,
    alternatives_right=200,
    unlikely_labels=5,
    alternatives={way: Alternative(gained=5, lost=30) for way in WAYS},
    gradients_tried=16,
    gradients_wrong=0,
    derivative_ratio=1.0,
    attacked=tuple(range(192)),
    far_eps=0.5,
    far_attacked=32,
    far_withstood=0,
    reference=40,
    broken=(),
    zero_gradient=0,
)


def changed_images(way, gained, lost=5):
    """Of which more are right if they are changed in a certain way."""
    counts = {**PROBE.alternatives, way: Alternative(gained=gained, lost=lost)}
    return {"alternatives": counts, "alternatives_right": 100}


def probed(**changed):
    return {"probes": {"net": PROBE.updated(**changed)}}


def test_a_healthy_audit_raises_none():
    held = {"fgsm": first(520), "pgd-20": first(480), "pgd-100x5": first(475), "square": first(530)}
    told = {
        "fgsm": {"max_iter": 1},
        "pgd-100x5": {"max_iter": 100, "num_random_init": 5},
        "square": {"kind": "art_classwise.attacks.autoattack.AutoAttack", "attacks": "square"},
    }
    assert made(held, attacks=told, **probed()).findings == ()


@pytest.mark.parametrize(("share", "found"), [(0.04, []), (0.06, ["masked gradients"])])
def test_zero_gradients_count_among_those_classified_correctly(share, found):
    right = first(500)
    zero = {"pgd-20": ~right | first(int(500 * share))}  # of the others it means nothing
    label = np.arange(N) % 10
    result = made({"pgd-20": first(300)}, zero=zero, label=label, clean=np.where(right, label, (label + 1) % 10))
    assert checks(result) == found
    if found:
        assert "6.0 % of the 500 correctly classified examples" in str(result.findings[0])


BLACK_BOX = (
    {"kind": "art_classwise.attacks.autoattack.AutoAttack", "attacks": "square"},
    {"kind": "art_classwise.attacks.transfer.TransferAttack", "attack": search()},
    {"kind": "art.attacks.evasion.square_attack.SquareAttack", "norm": "inf"},
    {"kind": "art.attacks.evasion.hop_skip_jump.HopSkipJump"},
)


@pytest.mark.parametrize("told", BLACK_BOX)
def test_black_box_beats_white_box(told):
    held = {"pgd-20": first(500), "margin-20": ~first(500), "black": first(50) & (np.arange(N) % 2 == 0)}
    attacks = {"margin-20": {"loss": "margin"}, "black": told}
    # Together the two white-box attacks broke all: nothing is left to find.
    assert checks(made(held, attacks=attacks)) == []
    held["margin-20"] = first(550)
    result = made(held, attacks=attacks)
    assert checks(result) == ["masked gradients"]
    assert "black, which doesn't use this network's gradients, leaves 2.5 %" in str(result.findings[0])
    assert "50.0 %" in str(result.findings[0])


def test_what_may_be_chance_is_no_finding():
    """By McNemar's exact test, at a level that allows for the models and the checks."""
    level = 0.01 / sum(check.statistical for check in CHECKS)
    enough = next(k for k in range(3, 99) if binomtest(k, k + 2, alternative="greater").pvalue < level)
    for alone, found in ((enough - 1, []), (enough, ["masked gradients"])):
        white, black = first(500), np.r_[np.zeros(alone, bool), np.ones(502 - alone, bool), np.zeros(N - 502, bool)]
        assert checks(made({"pgd-20": white, "black": black}, attacks={"black": BLACK_BOX[0]})) == found
    # Beside other models, it takes more.
    one = made({"pgd-20": white, "black": black}, attacks={"black": BLACK_BOX[0]})
    outcomes = pd.concat([one.outcomes.astype({"model": str}).assign(model=str(i)) for i in range(20)])
    outcomes["model"] = outcomes["model"].astype("category")
    told = {attack: one.manifest.parameters(attack) for attack in one.attacks}
    many = Manifest.of_table(outcomes, CLASSES, one.threat, attacks=told, dataset="cifar10")
    assert acw.AuditResult(outcomes, many).findings == ()


def test_attacks_of_another_radius_and_in_worst_case_are_not_compared():
    held = {"pgd-20": first(500), "black": first(100)}
    wider = {"black": {**BLACK_BOX[0], "eps": 16 / 255}}
    assert checks(made(held, attacks=wider)) == ["another threat model"]
    assert checks(made(held, attacks={"black": BLACK_BOX[0]}, worst_case=True)) == []


def test_one_step_beats_many():
    result = made({"fgsm": first(300), "pgd-20": first(400)}, attacks={"fgsm": {"max_iter": 1}})
    assert checks(result) == ["masked gradients"]
    assert "One step (fgsm) leaves 30.0 % robust accuracy, many steps (pgd-20) 40.0 %." in str(result.findings[0])


def test_more_effort_finds_less():
    held = {"pgd-20x5": first(300), "pgd-100x5": first(330)}
    told = {"pgd-20x5": {"num_random_init": 5}, "pgd-100x5": {"max_iter": 100, "num_random_init": 5}}
    assert checks(made(held, attacks=told)) == ["masked gradients"]
    told["pgd-20x5"]["loss"] = "margin"  # another attack: it may well find more
    assert checks(made(held, attacks=told)) == []


def test_an_attack_that_still_gains_is_weak():
    held = {"pgd-10": first(400), "pgd-20": first(360)}
    told = {"pgd-10": {"max_iter": 10}}
    result = made(held, attacks=told)
    assert checks(result) == ["weak attack"]
    assert "From pgd-10 to pgd-20 robust accuracy still falls by 4.0 points." in str(result.findings[0])
    # Where another attack finds more, nothing rests on these two.
    assert checks(made({**held, "margin-20": first(300)}, attacks={**told, "margin-20": {"loss": "margin"}})) == []
    # One point more is what more steps always find.
    assert checks(made({"pgd-10": first(400), "pgd-20": first(390)}, attacks=told)) == []


@pytest.mark.parametrize(
    ("held", "broken", "found"),
    [
        (600, range(160, 192), ["weak attack"]),  # 32 of 192: of 60 %, ten points
        (600, range(174, 192), []),  # 18 of 192: as of healthy networks
        (160, range(160, 192), []),  # the audit's attacks broke these, too
        (160, range(130, 160), []),  # 30 of 160: of 16 %, three points
        (160, range(60, 160), ["weak attack"]),  # 100 of 160: of 16 %, ten points
        (2, range(192), []),  # 2 of 2, of a broken network
    ],
)
def test_the_reference_attack_breaks_what_withstood(held, broken, found):
    assert checks(made({"pgd-20": first(held)}, **probed(broken=tuple(broken)))) == found


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"random_flips": 1}, "random network"),
        ({"random_change": 0.01}, "random network"),
        ({"batch_flips": 1}, "batch-dependent network"),
        ({"batch_change": 0.1}, "batch-dependent network"),
        ({"batch_error": "Expected more than 1 value"}, "batch-dependent network"),
        ({"training": ("1.bn",)}, "network in training mode"),
        (changed_images(WAYS[0], 60), "wrong normalisation"),
        (changed_images(WAYS[1], 60), "wrong normalisation"),
        (changed_images(WAYS[2], 60), "wrong normalisation"),
        (changed_images(CHANNELS, 30), "wrong channel order"),
        ({"zero_gradient": 30}, "masked gradients"),
        ({"gradients_wrong": 5, "derivative_ratio": -1.0}, "false gradients"),
        ({"probabilities": 64}, "probabilities instead of logits"),
        ({"unlikely_labels": 25}, "wrong labels"),
        ({"constant": 5}, "constant logits"),
        ({"far_withstood": 10}, "masked gradients"),
    ],
)
def test_probes_become_findings(changed, found):
    result = made({"pgd-20": first(500)}, **probed(**changed))
    assert checks(result) == [found]
    assert result.findings[0].model == "net"
    assert str(result.findings[0]).startswith(f"net: {found}: ")


@pytest.mark.parametrize(
    "changed",
    [
        {"zero_gradient": 4},
        {"far_withstood": 2},
        {"gradients_wrong": 2},
        {"probabilities": 63},
        {"unlikely_labels": 9},
        changed_images(WAYS[0], 10),
        changed_images(CHANNELS, 16, lost=6),  # p = 0.026
        changed_images(CHANNELS, 100, lost=96),
    ],
)
def test_what_healthy_networks_show_is_no_finding(changed):
    assert checks(made({"pgd-20": first(500)}, **probed(**changed))) == []


def test_a_random_network_is_not_called_batch_dependent_too():
    assert checks(made({"pgd-20": first(500)}, **probed(random_flips=3, batch_flips=3))) == ["random network"]


def test_clean_accuracy_near_chance():
    label = np.arange(N) % 10
    drawn = np.random.default_rng(0).integers(0, 10, N)
    assert checks(made({"pgd-20": first(N)}, label=label, clean=drawn)) == ["accuracy near chance"]
    # Nine in ten are of one class: to say it always is no skill.
    result = made({"pgd-20": first(N)}, label=np.where(label == 3, 1, 0), clean=np.zeros(N, int))
    assert "accuracy near chance" in checks(result)
    # Of one class alone, or of two of ten, a network that is right shows skill; of one nothing is to be said.
    assert checks(made({"pgd-20": first(N)}, label=np.zeros(N, int), clean=np.zeros(N, int))) == []
    two = np.arange(N) % 2
    some_right = np.where(first(360), two, 2 + np.arange(N) % 8)
    assert checks(made({"pgd-20": first(N)}, label=two, clean=some_right)) == []


def test_labels_in_another_order():
    label = np.arange(N) % 10
    swapped = np.where(label == 3, 5, np.where(label == 5, 3, label))
    result = made({"pgd-20": first(N)}, label=label, clean=swapped)
    assert checks(result) == ["misaligned labels"]
    assert "2 of 10 classes" in str(result.findings[0])
    assert "d as f, f as d." in str(result.findings[0])
    shifted = made({"pgd-20": first(N)}, label=label, clean=(label + 1) % 10)
    assert "misaligned labels" in checks(shifted)
    assert "10 of 10 classes" in str(next(f for f in shifted.findings if f.check == "misaligned labels"))
    # A class taken for another, which keeps its own, is a weak network, not another numbering.
    taken = np.where(label == 3, 5, label)
    assert checks(made({"pgd-20": first(N)}, label=label, clean=taken)) == []


def test_few_examples_of_a_class():
    label = np.r_[np.repeat(np.arange(9), 100), np.full(49, 9)]
    result = made({"pgd-20": np.arange(949) < 500}, label=label)
    (found,) = result.findings
    assert (found.model, found.check) == (None, "few examples")
    # Wilson's interval of 24.5 of 49: half of its width is z sqrt(p (1 - p) / n + z^2 / 4 n^2) / (1 + z^2 / n).
    z, n = 1.959964, 49
    half = z * np.sqrt(0.25 / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (
        f"1 of 10 classes have fewer than 50 examples: an interval is up to {200 * half:.1f} points wide" in found.saw
    )
    absent = made({"pgd-20": np.arange(849) < 500}, label=np.r_[label[:800], label[900:]])
    assert "wide; 1 of 10 have none." in absent.findings[0].saw
    assert made({"pgd-20": np.arange(900) < 500}, label=label[:900]).findings == ()  # who chose classes knows


@pytest.mark.parametrize(
    ("dataset", "eps", "found"),
    [
        ("cifar10", 8 / 255, []),
        ("cifar10", 2 / 255, []),
        ("cifar10", 16 / 255, []),
        ("cifar10", 0.3, ["unusual radius"]),
        ("cifar10", 1e-4, ["unusual radius"]),
        ("mnist", 0.3, []),
        ("mnist", 8 / 255, ["unusual radius"]),
        ("mine", 0.3, []),
    ],
)
def test_the_radius(dataset, eps, found):
    assert checks(made({"pgd-20": first(500)}, dataset=dataset, eps=eps)) == found


def test_the_radius_in_other_norms():
    result = made({"pgd-20": first(500)})
    for kind, eps, found in (("L2", 0.5, 0), ("L2", 8.0, 1), ("L1", 12.0, 0), ("L1", 0.5, 1)):
        other = acw.AuditResult(result.outcomes, result.manifest.updated(threat=acw.ThreatModel(kind, eps)))
        assert checks(other).count("unusual radius") == found


def told_of(clean, robust, **more):
    told = {"source": "robustbench:cifar10/Linf/Some2020", "norm": "Linf", "eps": 8 / 255}
    return {"published": {"net": Published(**told | {"clean": clean, "robust": robust, **more})}}


AUTOATTACK = {"aa": {"kind": "art_classwise.attacks.autoattack.AutoAttack", "attacks": "standard"}}


def test_published_numbers():
    label = np.arange(N) % 10
    clean = np.where(first(850), label, (label + 1) % 10)
    options = {"label": label, "clean": clean}
    assert checks(made({"aa": first(500)}, attacks=AUTOATTACK, **options, **told_of(0.84, 0.51))) == []
    # Wilson's interval of 850 of 1,000, at a level that two numbers share with the other checks of an audit.
    z = norm.isf(0.01 / sum(check.statistical for check in CHECKS) / 4)
    half = z * np.sqrt(0.85 * 0.15 / N + z**2 / (4 * N**2)) / (1 + z**2 / N)
    low, high = (100 * ((0.85 + z**2 / (2 * N)) / (1 + z**2 / N) + sign * half) for sign in (-1, 1))
    (found,) = made({"aa": first(500)}, **options, **told_of(0.94, 0.51)).findings
    assert (
        f"85.0 % ({low:.1f} to {high:.1f}, n = 1000), but robustbench:cifar10/Linf/Some2020 is published with 94.0 %"
        in found.saw
    )
    (found,) = made({"aa": first(500)}, attacks=AUTOATTACK, **options, **told_of(0.84, 0.42)).findings
    assert "50.0 %" in found.saw
    assert "42.0 % under AutoAttack" in found.saw
    # A weaker attack than AutoAttack leaves more, as it must; less is news.
    assert checks(made({"pgd-20": first(500)}, **options, **told_of(0.84, 0.42))) == []
    assert len(made({"pgd-20": first(300)}, **options, **told_of(0.84, 0.42)).findings) == 1
    # Of another radius nothing is published.
    assert checks(made({"aa": first(700)}, attacks=AUTOATTACK, **options, **told_of(0.84, 0.42, eps=4 / 255))) == []
    assert checks(made({"aa": first(700)}, **options, **told_of(None, None, eps=None, norm="corruptions"))) == []


WEAKER = [
    {"attacks": ["apgd-ce", "apgd-t", "fab-t", "square"]},
    {"n_iter": 99},
    {"n_queries": 1000},
    {"n_target_classes": 3},
    {"target_order": "malt"},
    {"eps": 4 / 255},
    {"norm": 2},
]


@pytest.mark.parametrize("changed", [{}, {"n_iter": 200}, {"batch_size": 7}, *WEAKER])
def test_weaker_autoattacks_are_not_taken_for_the_standard_one(changed):
    """Whatever they are called; nor is what is published of the standard one compared with theirs."""
    strong = changed not in WEAKER
    result = made({"autoattack": first(500)}, attacks={"autoattack": AUTOATTACK["aa"] | changed}, **told_of(1.0, 0.42))
    assert result.strongly_attacked == ("net",) * strong
    assert ("differs from what is published" in checks(result)) is strong


@pytest.mark.parametrize("worst_case", [False, True])
def test_attacks_that_met_no_gradient_are_not_strong(worst_case):
    """Square alone may have run, and PGD stood still."""
    effort = {"pgd-20": {}, "pgd-100x5": {"max_iter": 100, "num_random_init": 5}}
    for attacks in (AUTOATTACK, effort):
        attacked = first(600) if worst_case else first(N)  # by the second
        for blind in (True, False):
            zero = {a: (attacked if i else first(N)) & (blind | first(300)) for i, a in enumerate(attacks)}
            withstood = dict.fromkeys(attacks, first(600))
            result = made(withstood, attacks=attacks, zero=zero, worst_case=worst_case)
            strong = not blind and not (worst_case and attacks is effort)  # there, attacks aren't compared
            assert result.strongly_attacked == ("net",) * strong
            assert "masked gradients" in checks(result)


# Networks.


def network_findings(result):
    return {f.check for f in result.findings if f.check != "few examples"}


def test_a_trained_network_raises_none(trained, digits):
    assert network_findings(audited(trained, digits.first(300), ("fgsm", "pgd-20", "margin-20"))) == set()


def test_masked_by_saturation(trained, digits):
    result = audited(Changed(trained, after=Do(lambda z: 9 * (200 * z).softmax(1))), digits.first(100))
    said = [str(f) for f in result.findings if f.check == "masked gradients"]
    assert any("had zero gradients" in text for text in said)
    assert any("which can turn any image grey" in text for text in said)


def test_masked_against_gradients_alone(trained, digits):
    """Steps on the way from input to output have no slope, yet the black-box attack finds the way."""

    def stairs(x):
        flat = torch.round(x * 8) / 8
        return flat + 1e-9 * torch.sin(1e9 * x)  # a gradient that points anywhere

    result = audited(Changed(trained, before=Do(stairs)), digits.first(150), ("pgd-10", "square"), "Linf:0.3")
    assert any("square, which doesn't use this network's gradients" in str(f) for f in result.findings)


def test_random(trained, digits):
    noisy = Changed(trained, after=Do(lambda z: z + torch.randn_like(z)))
    assert "random network" in network_findings(audited(noisy, digits.first(100)))
    slightly = Changed(trained, before=Do(lambda x: x + 0.02 * torch.randn_like(x)))
    assert "random network" in network_findings(audited(slightly, digits.first(100)))


def test_batch_dependent(trained, digits):
    centred = Changed(trained, after=Do(lambda z: z - z.mean(0)))
    assert network_findings(audited(centred, digits.first(100))) >= {"batch-dependent network"}


def test_batch_normalisation_without_running_statistics(digits):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    result = audited(network, digits.first(64))
    found = next(f for f in result.findings if f.check == "batch-dependent network")
    assert "without running statistics: 1." in found.saw


def test_a_network_that_stays_in_training_mode(trained, digits):
    class Training(nn.Sequential):
        def train(self, mode=True):
            return super().train(True)

    result = audited(Training(trained, nn.Dropout(0.5)), digits.first(64))
    assert "random network" in network_findings(result)
    assert result.manifest.probes["net"].training


def test_a_network_that_fails_on_one_image(trained, digits):
    asked = []

    def at_least_two(z):
        asked.append(len(z))
        if len(z) == 1 and len(asked) > 1:  # what makes the classifier asks about one
            raise ValueError("too few for statistics")
        return z

    result = audited(Changed(trained, after=Do(at_least_two)), digits.first(64))
    (found,) = [f for f in result.findings if f.check == "batch-dependent network"]
    assert "It fails on a single image: too few for statistics." in found.saw


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_dependence_is_found_with_any_batch_size(trained, digits, batch_size):
    result = audited(Changed(trained, after=Do(lambda z: z - z.mean(0))), digits.first(30), batch_size=batch_size)
    assert "batch-dependent network" in network_findings(result)


def test_a_masked_logit_hides_nothing(trained, digits):
    def masked(z):
        return torch.cat([z[:, :9] - 0.3 * z[:, :9].mean(0), z[:, 9:] * 0 - 1e9], 1)

    assert "batch-dependent network" in network_findings(audited(Changed(trained, after=Do(masked)), digits.first(100)))


def test_one_example_is_no_batch(trained, digits):
    flat = Changed(trained, after=Do(lambda z: z.view(len(z), -1)))
    assert network_findings(audited(flat, digits.take(np.array([0])))) == set()


# The checks take nothing away.


def test_a_logit_that_is_not_finite_alone(trained, digits, tmp_path):
    def centred(z):  # one image alone is 0 / 0
        return z if len(z) > 1 else (z - z.mean(0)) / (z - z.mean(0)).norm()

    result = audited(Changed(trained, after=Do(centred)), digits.first(40), store=tmp_path)
    assert "batch-dependent network" in network_findings(result)
    assert acw.read_audit(tmp_path).findings == result.findings


def test_a_network_that_refuses_other_images(trained, digits):
    def refuse(x):
        if x.min() < 0 or x.max() > 1:
            raise RuntimeError("images in [0, 1], please")
        return x

    wrong = Changed(trained, before=Do(refuse), after=Do(lambda z: -z))  # mostly wrong: other images are tried
    assert "wrong normalisation" not in network_findings(audited(wrong, digits.first(60)))


def test_a_network_of_a_table(trained, digits):
    """Pixels look up a table: nothing differentiable, the purest masking."""
    table = nn.Embedding.from_pretrained(torch.linspace(0, 1, 256).view(-1, 1))
    looked_up = Changed(trained, before=Do(lambda x: table((x * 255).round().long()).squeeze(-1)))
    result = audited(looked_up, digits.first(60))
    said = [f.saw for f in result.findings if f.check == "masked gradients"]
    assert any("had zero gradients in 40 steps of margin PGD" in saw for saw in said)


def test_preprocessing_of_art_that_refuses_images(trained, digits):
    from art.defences.preprocessor import JpegCompression

    classifier = acw.as_classifier(trained, digits.input_shape, 10, device="cpu")
    defended = type(classifier)(
        model=trained,
        loss=nn.CrossEntropyLoss(),
        input_shape=digits.input_shape,
        nb_classes=10,
        clip_values=(0.0, 1.0),
        preprocessing_defences=JpegCompression((0, 1), channels_first=True, quality=5, apply_predict=True),
        device_type="cpu",
    )
    audit = acw.ClassWiseAudit("Linf:0.05", "fgsm", verbose=False)
    assert audit.evaluate({"jpeg": defended}, digits.first(30)).manifest.probes["jpeg"].n == 30


def test_checks_that_fail_leave_the_outcomes(trained, digits, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(probes, "probe", fail)
    with pytest.warns(UserWarning, match="The checks of 'net' failed: a bug"):
        result = audited(trained, digits.first(30))
    assert (len(result.outcomes), result.manifest.probes) == (30, {})


def test_an_attribute_of_the_users_is_not_what_is_published(trained, digits, tmp_path):
    classifier = acw.as_classifier(trained, digits.input_shape, 10, device="cpu")
    classifier.published = True
    audit = acw.ClassWiseAudit("Linf:0.05", "fgsm", store=tmp_path, verbose=False)
    assert audit.evaluate({"net": classifier}, digits.first(20)).manifest.published == {}
    assert acw.read_audit(tmp_path).manifest.published == {}


def test_wrong_normalisation(trained, digits):
    result = audited(Changed(trained, before=Do(lambda x: x / 255)), digits.first(100))
    (found,) = [f for f in result.findings if f.check == "wrong normalisation"]
    assert "With images multiplied by 255" in found.saw
    mean, deviation = float(digits.x.mean()), float(digits.x.std())
    expects = Changed(trained, before=Do(lambda x: torch.sigmoid(50 * (x * deviation + mean - 0.25))))
    (found,) = [f for f in audited(expects, digits.first(100)).findings if f.check == "wrong normalisation"]
    assert "standardised channel by channel" in found.saw or "scaled to [-1, 1]" in found.saw


def test_misaligned(trained, digits):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    result = audited(Changed(trained, after=Do(lambda z: z[:, order])), digits.first(400))
    assert "misaligned labels" in network_findings(result)


def test_a_weak_attack(trained, digits):
    """An attack of one small step leaves what the reference attack breaks."""
    lazy = {"lazy": lambda c: acw.PGD(c, eps=0.2, eps_step=0.001, max_iter=1, verbose=False)}
    result = audited(trained, digits.first(200), lazy, "Linf:0.2")
    short, few, broke = [f.saw for f in result.findings if f.check == "weak attack"]
    assert "No attack (lazy) is a gradient search of 10 steps or more within Linf:0.2" in few
    assert short == "The steps of lazy cover at most 0.001, but the radius is 0.2."
    assert "Margin PGD of 40 steps broke" in broke


def test_attacks_without_a_radius_and_short_ones_are_not_compared():
    held = {"fgsm": first(300), "deepfool": first(900)}
    told = {"fgsm": {"max_iter": 1}, "deepfool": {"kind": "art.attacks.evasion.deepfool.DeepFool", "eps": None}}
    assert checks(made(held, attacks=told)) == []
    other_norm = {"fgsm": {"max_iter": 1}, "pgd-20": {"norm": 2}}
    found = checks(made({"fgsm": first(300), "pgd-20": first(900)}, attacks=other_norm))
    assert found == ["weak attack", "another threat model"]  # none is a long search within the threat model
    short = {"pgd-10": {"max_iter": 10}, "pgd-50": {"max_iter": 50, "eps_step": 1e-4}}
    assert checks(made({"pgd-10": first(300), "pgd-50": first(900)}, attacks=short)) == ["weak attack"]


def test_the_smallest_perturbations_of_another_norm_are_not_those_of_the_audits():
    kind = {"kind": "art_classwise.attacks.minimum_norm.MinimumNormAttack", "eps": None, "max_iter": 100}
    held = {"fgsm": first(300), "fmn": first(250)}
    told = {"fgsm": {"max_iter": 1}, "fmn": {**kind, "norm": "inf"}}
    assert checks(made(held, attacks=told)) == []
    result = made(held, attacks={**told, "fmn": {**kind, "norm": 2}})
    assert checks(result) == ["weak attack", "another threat model"]
    said = "fmn looks for perturbations that are small in norm 2, but the audit is for Linf:8/255"
    assert said in str(result.findings[1])
    black = {**BLACK_BOX[3], "norm": 2, "eps": None}
    found = checks(made({"pgd-20": first(250), "black": first(300)}, attacks={"black": black}))
    assert found == ["another threat model"]


def test_a_healthy_leaderboard_raises_no_alarm():
    """Of 300 walks over 76 models, both numbers measured on 1,000 of the published network's examples."""
    rng = np.random.default_rng(0)
    alarms = 0
    label = np.arange(N) % 10
    z = 3.6  # of 1 - 0.01 / (2 * 76)
    for clean, robust in rng.uniform((0.8, 0.4), (0.95, 0.7), (40, 2)):
        right = rng.random(N) < clean
        result = made(
            {"aa": right & (rng.random(N) < robust / clean)},
            attacks=AUTOATTACK,
            label=label,
            clean=np.where(right, label, (label + 1) % 10),
            published={f"m{i}": told_of(clean, robust)["published"]["net"] for i in range(75)}
            | told_of(clean, robust)["published"],
        )
        assert abs(right.mean() - clean) < z * 0.013
        alarms += len(result.findings)
    assert alarms == 0


def test_numbers_of_some_classes_are_not_compared():
    label = np.zeros(N, int) + 3
    clean = np.where(first(300), label, 4)
    assert checks(made({"aa": first(100)}, attacks=AUTOATTACK, label=label, clean=clean, **told_of(0.9, 0.5))) == []


def test_published_networks_raise_none(published, cifar10):
    data = cifar10.first(700)
    classifier = published("cifar10-cnn-a")
    audit = acw.ClassWiseAudit("Linf:4/255", ("fgsm", "pgd-10", "margin-20"), verbose=False)
    assert audit.evaluate({"cnn-a": classifier}, data).findings == ()


@pytest.mark.slow
def test_a_published_mnist_network_raises_none(published, mnist_root):
    data = acw.load_dataset("mnist", "test", root=mnist_root).first(700)
    classifier = published("mnist-smallcnn-trades")
    audit = acw.ClassWiseAudit("Linf:0.3", ("fgsm", "pgd-20"), verbose=False)
    assert audit.evaluate({"trades": classifier}, data).findings == ()


# Where probes are kept.


def test_probes_are_kept_with_the_outcomes(trained, digits, tmp_path):
    data = digits.first(40)
    result = audited(trained, data, store=tmp_path / "a")
    again = acw.read_audit(tmp_path / "a")
    assert again.manifest.probes == result.manifest.probes
    assert again.findings == result.findings
    result.save(tmp_path / "b")
    assert acw.read_audit(tmp_path / "b").findings == result.findings
    assert not list((tmp_path / "a" / "locks").glob("probe-*"))


def test_probes_are_tried_once(trained, digits, tmp_path, monkeypatch):
    data = digits.first(40)
    first_time = audited(trained, data, store=tmp_path)
    monkeypatch.setattr(probes, "probe", None)
    assert audited(trained, data, store=tmp_path).findings == first_time.findings


def test_without_checks_the_network_itself_is_left_alone(trained, digits, monkeypatch):
    monkeypatch.setattr(probes, "probe", None)
    result = audited(trained, digits.first(40), checks=False)
    assert result.manifest.probes == {}
    assert checks(result) == ["few examples"]  # what outcomes show is looked for all the same


def test_probes_leave_nothing_behind(trained, digits):
    network = Changed(trained, after=nn.Dropout(0.5)).train()
    network.zero_grad()
    flags = [p.requires_grad for p in network.parameters()]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    classifier = acw.as_classifier(network, digits.input_shape, 10, device="cpu")
    threat = acw.ThreatModel("Linf", 0.1)
    few, options = digits.first(20), {"threat": threat, "seed": 0}
    one = probes.probe(classifier, few, few, few, most=7, **options)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert network.training
    assert [p.requires_grad for p in network.parameters()] == flags
    assert all(p.grad is None for p in network.parameters())
    assert one == probes.probe(classifier, few, few, few, most=20, **options)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_within_the_far_radius_every_image_can_become_grey(norm):
    threat = probes._whole_box(acw.ThreatModel(norm, 0.1), 48)
    x = (torch.rand(8, 3, 4, 4) > 0.5).float()  # corners of the box are the farthest
    grey = torch.full_like(x, 0.5)
    inside = threat.project(grey, x, torch.tensor(0.0), torch.tensor(1.0))
    assert torch.allclose(inside, grey, atol=1e-5)
    smaller = acw.ThreatModel(norm, 0.99 * threat.eps)
    assert not torch.allclose(smaller.project(grey, x, torch.tensor(0.0), torch.tensor(1.0)), grey, atol=1e-4)


def test_an_overstatement_by_eleven_points_shows_in_a_thousand_examples():
    """Of 60 % that withstood, 11 of 60 would have been broken: what the binomial distribution says of finding it."""
    n = len(probes.attacked_rows(np.ones(1024, bool), np.ones(1024, bool)))
    level = 0.01 / sum(check.statistical for check in CHECKS)
    assert n == 256
    needed = next(k for k in range(n) if exceeds(k, n, 0.05 / 0.6, level))
    assert binom.sf(needed - 1, n, 11 / 60) > 0.95
    assert binom.sf(needed - 1, n, 3 / 60) < 1e-6


def test_tried_examples_are_spread_over_the_set():
    assert probes.spread_over(10).tolist() == list(range(10))
    rows = probes.spread_over(50_000)
    assert len(rows) == 64
    assert rows[0] == 0
    assert rows[-1] == 49_999
    assert np.all(np.diff(rows) > 700)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n": -1}, r"probes\.net\.n must be at least 0, but is -1"),
        ({"n": True}, r"probes\.net\.n must be a whole number, but is True"),
        ({"right": 65}, "`right` must be at most 20, but is 65"),
        ({"gradients_wrong": 99}, "`gradients_wrong` must be at most"),
        ({"alternatives": {"x": {"gained": 999, "lost": 0}}}, "more images changed 'x' than there are"),
        ({"attacked": ["a"]}, r"probes\.net\.attacked\.0 must be a whole number, but is 'a'"),
        ({"far_withstood": 10**400}, r"probes\.net\.far_withstood must be"),
        ({"zero_gradient": 1000}, "`zero_gradient` must be at most"),
        (
            {"alternatives": {"x": {"gained": -1, "lost": 0}}},
            r"probes\.net\.alternatives\.x\.gained must be at least 0",
        ),
        ({"broken": [-1]}, "must be among those in `attacked`"),
        ({"batch_change": float("inf")}, r"probes\.net\.batch_change must be a finite number"),
        ({"batch_error": 3}, r"probes\.net\.batch_error must be a text, but is 3"),
        ({"far_eps": "1"}, r"probes\.net\.far_eps must be a number, but is '1'"),
    ],
)
def test_probes_from_anyone_are_checked(trained, digits, tmp_path, change, says):
    audited(trained, digits.first(20), store=tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    content["probes"]["net"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=says):
        acw.read_audit(tmp_path)


def test_probes_of_another_release_are_tried_anew(trained, digits, tmp_path):
    result = audited(trained, digits.first(20), store=tmp_path)
    (path,) = (tmp_path / "probes").iterdir()
    content = json.loads(path.read_text()) | {"more": 1}
    path.unlink()
    path.with_name(f"{path.name.partition('-')[0]}-0123456789abcdef.json").write_text(json.dumps(content))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"probes": {}}))
    assert acw.read_audit(tmp_path).manifest.probes == {}
    assert audited(trained, digits.first(20), store=tmp_path).manifest.probes == result.manifest.probes


@pytest.mark.parametrize(
    "told",
    [
        {"num_random_init": "x"},
        {"num_random_init": [1]},
        {"max_iter": 10**400},
        {"eps": 10**400},
        {"eps": "x", "norm": {}},
        {"eps_step": None},
        {"attack": 3},
    ],
)
def test_parameters_from_anyone_are_no_trouble(told):
    held = {"fgsm": first(520), "pgd-20": first(480), "odd": first(475)}
    assert checks(made(held, attacks={"fgsm": {"max_iter": 1}, "odd": told}, **probed())) == []


def test_two_names_of_one_network_are_looked_at_once(trained, digits, monkeypatch):
    asked = []
    probe = probes.probe
    monkeypatch.setattr(probes, "probe", lambda *a, **k: asked.append(1) or probe(*a, **k))
    classifier = acw.as_classifier(trained, digits.input_shape, 10, device="cpu")
    audit = acw.ClassWiseAudit("Linf:0.05", "fgsm", verbose=False)
    result = audit.evaluate({"one": classifier, "same": classifier}, digits.first(20))
    assert len(asked) == 1
    assert result.manifest.probes["one"] == result.manifest.probes["same"]


def test_what_is_published_is_checked_too(trained, digits, tmp_path):
    audited(trained, digits.first(20), store=tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    plain = told_of(0.5, 0.5)["published"]["net"].model_dump()
    for told, says in (
        ({"source": "x"}, "lacks published.net.norm"),
        ({**plain, "clean": 2.0}, "published.net.clean"),
        ({**plain, "eps": None}, "published.net: a robust accuracy is published, but its radius"),
        ({**plain, "source": []}, "published.net.source must be a text"),
    ):
        path.write_text(json.dumps({**content, "published": {"net": told}}))
        with pytest.raises(InputError, match=says):
            acw.read_audit(tmp_path)


def test_the_documentation_lists_every_check():
    page = (ROOT / "docs" / "how-to" / "read-a-report.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    lists = {row[0].removeprefix("| "): row[1].split("; ") for row in rows}
    for check in CHECKS:
        assert check.looks_for in lists[check.name]


def test_a_finding_reads_as_a_sentence():
    finding = Finding(None, "few examples", "There are few.", "Take more.")
    assert str(finding) == "few examples: There are few. Take more."
