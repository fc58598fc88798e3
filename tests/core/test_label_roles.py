"""What ART's attacks take y for, by what they do with it; and who refuses which of them."""

from __future__ import annotations

import inspect
import sys
import types

import art.attacks.evasion as evasion
import numpy as np
import pytest
import torch
from art.attacks.attack import EvasionAttack
from art.metrics import adversarial_accuracy

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.labels import _ROLES, LabelRole, label_role
from art_classwise.audit.audit import checked_attack
from art_classwise.metrics import per_class
from art_classwise.trainers.engine.options import check_attack


@pytest.fixture(autouse=True)
def multiprocess(monkeypatch):
    """What ART's AutoAttack imports for its pools, which aren't used here, and doesn't declare."""
    monkeypatch.setitem(sys.modules, "multiprocess", types.ModuleType("multiprocess"))


QUIET = {"verbose": False}
_PGD = {"eps": 0.5, "eps_step": 0.1, "max_iter": 20, **QUIET}


def pgd(classifier, **options):
    return evasion.ProjectedGradientDescent(classifier, **_PGD, **options)


def inner(classifier, **options):
    return evasion.ProjectedGradientDescentPyTorch(classifier, **_PGD, **options)


MAKE = {
    "PGD": pgd,
    "targeted PGD": lambda c: pgd(c, targeted=True),
    "FGSM": lambda c: evasion.FastGradientMethod(c, eps=0.5),
    "targeted FGSM": lambda c: evasion.FastGradientMethod(c, eps=0.2, eps_step=0.2, targeted=True),
    "AutoAttack": lambda c: evasion.AutoAttack(c, eps=0.5, attacks=[inner(c)]),
    "AutoAttack, targeted": lambda c: evasion.AutoAttack(c, eps=0.5, attacks=[inner(c)], targeted=True),
    "JSMA": lambda c: evasion.SaliencyMapMethod(c, theta=0.5, gamma=0.5, **QUIET),
    "DeepFool": lambda c: evasion.DeepFool(c, epsilon=0.1, nb_grads=4, **QUIET),
    "Square": lambda c: evasion.SquareAttack(c, eps=0.5, max_iter=30, **QUIET),
    "universal": lambda c: evasion.UniversalPerturbation(c, "fgsm", {"eps": 0.5}, max_iter=3, eps=0.5, **QUIET),
    "universal, aimed": lambda c: evasion.UniversalPerturbation(
        c, "fgsm", {"eps": 0.5, "targeted": True}, max_iter=3, eps=0.5, **QUIET
    ),
    "universal of JSMA": lambda c: evasion.UniversalPerturbation(c, "jsma", max_iter=1, eps=0.5, **QUIET),
    "frames": lambda c: evasion.FrameSaliencyAttack(c, pgd(c), "one_shot", **QUIET),
    "frames, aimed": lambda c: evasion.FrameSaliencyAttack(c, pgd(c, targeted=True), "one_shot", **QUIET),
    "ours": lambda c: acw.PGD(c, eps=0.5, **QUIET),
    "ours, targeted": lambda c: acw.PGD(c, eps=0.5, targeted=True, **QUIET),
    "transfer": lambda c: acw.TransferAttack(c, acw.PGD(c, eps=0.5, **QUIET)),
    "transfer, targeted": lambda c: acw.TransferAttack(c, pgd(c, targeted=True)),
    "transfer of JSMA": lambda c: acw.TransferAttack(c, MAKE["JSMA"](c)),
    "class-wise": lambda c: acw.ClassWiseAttack(c, eps=0.5, **QUIET),
    "class-wise with ART's": lambda c: acw.ClassWiseAttack(c, eps=0.5, attack=pgd(c, targeted=True), **QUIET),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", MAKE)
def test_the_role_is_what_the_attack_does(name, classifier, images, own):
    """Given what the network predicts, an attack that takes it for targets moves nobody, and any other does."""
    attack = MAKE[name](classifier)
    x_adv, y = [], (own, (own + 1) % 4)
    for given in y:
        np.random.seed(0), torch.manual_seed(0)
        x_adv.append(attack.generate(images.copy(), np.eye(4, dtype=np.float32)[given]))
    stay = (classifier.predict(x_adv[0]).argmax(1) == own).mean()
    if label_role(attack) is LabelRole.TARGET:
        assert stay == 1
        if not name.startswith("universal"):
            assert (classifier.predict(x_adv[1]).argmax(1) == y[1]).mean() > 0.5
    else:
        assert stay < 0.6
        assert np.array_equal(*x_adv) == (label_role(attack) is LabelRole.UNREAD)


@pytest.mark.parametrize("name", MAKE)
def test_audits_trainers_metrics_and_the_class_wise_attack_go_by_it(name, classifier):
    attack = MAKE[name](classifier)
    aimed = label_role(attack) is LabelRole.TARGET
    away = [
        lambda: checked_attack(name, attack),
        lambda: check_attack(attack, classifier),
    ]
    for check in away:
        if aimed:
            with pytest.raises(InputError, match="is targeted: it would drive each example towards its true label"):
                check()
        else:
            check()
    if aimed:
        acw.ClassWiseAttack(classifier, attack=attack, **QUIET)
    else:
        with pytest.raises(InputError, match=f"but a {type(attack).__name__} isn't: it "):
            acw.ClassWiseAttack(classifier, attack=attack, **QUIET)


def test_what_reads_no_labels_or_returns_no_images_is_refused_everywhere(classifier, images, own):
    for attack, says in (
        (evasion.AdversarialPatchPyTorch(classifier, 0.0, 0.1, 1.0, patch_shape=(3, 4, 4), **QUIET), "returns a patch"),
        (evasion.FeatureAdversariesPyTorch(classifier, delta=0.1, layer=1, step_size=0.1), "takes y for images"),
    ):
        for check in (
            lambda a=attack: checked_attack("mine", a),
            lambda a=attack: check_attack(a, classifier),
            lambda a=attack: acw.ClassWiseAttack(classifier, attack=a, **QUIET),
            lambda a=attack: per_class(adversarial_accuracy)(classifier, images, own, attack_crafter=a),
        ):
            with pytest.raises(InputError, match=says):
                check()


# Attacks on what is no image classifier: object detectors, trackers, speech, video, malware.
_ELSEWHERE = {
    *("AdversarialTexturePyTorch", "AdversarialPatchTensorFlowV2", "CarliniWagnerASR", "DPatch", "RobustDPatch"),
    *("ImperceptibleASR", "ImperceptibleASRPyTorch", "MalwareGDTensorFlow", "OverTheAirFlickeringPyTorch"),
    *("OverloadPyTorch", "SNAL", "FeatureAdversariesTensorFlowV2"),
}


def test_each_attack_of_art_has_a_flag_or_stands_in_the_table():
    """A new one, or one whose flag went, is to be looked at."""
    for name, kind in inspect.getmembers(evasion, inspect.isclass):
        if not issubclass(kind, EvasionAttack) or name in _ELSEWHERE or name in _ROLES:
            continue
        handed_on = {"UniversalPerturbation", "FrameSaliencyAttack", "GeoDA", "LaserBeamAttack"}
        assert "targeted" in inspect.signature(kind.__init__).parameters or name in handed_on, name


def test_arts_autoattack_that_is_targeted_is_as_strong_in_an_audit(classifier, images, own):
    """It was refused with an untrue reason; ClassWiseAttack took it, and found nobody who can be moved."""
    x_adv = MAKE["AutoAttack, targeted"](classifier).generate(images, own)
    assert (classifier.predict(x_adv).argmax(1) != own).mean() > 0.5
    data = acw.Dataset(images, own, ("a", "b", "c", "d"))
    attacks = {"away": MAKE["AutoAttack"](classifier), "each class": MAKE["AutoAttack, targeted"](classifier)}
    result = acw.ClassWiseAudit("Linf:0.5", attacks, checks=False, verbose=False).evaluate({"net": classifier}, data)
    robust = {name: result.outcomes.query("attack == @name")["withstood"] for name in attacks}
    assert robust["each class"].mean() <= robust["away"].mean() < 0.5


def test_arts_autoattack_may_be_asked_twice_and_of_several_models(classifier, images, own, tmp_path):
    """It leaves the attacks it holds targeted, and holds a classifier whose predictions choose the examples."""
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 4))
    other = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    theirs = other.predict(images).argmax(1)
    y = np.where(np.arange(16) % 2, own, theirs)
    assert ((own != y) & (theirs == y)).sum() >= 4  # which the first model has wrong, and only the second can lose
    data = acw.Dataset(images, y, ("a", "b", "c", "d"))
    attack = MAKE["AutoAttack, targeted"](classifier)
    audit = acw.ClassWiseAudit("Linf:0.5", {"each": attack}, store=tmp_path, checks=False, verbose=False)
    results = [audit.evaluate({"net": classifier, "other": other}, data) for _ in range(2)]
    assert results[0].outcomes.equals(results[1].outcomes)
    rows = results[0].outcomes.query("model == 'other' and attack == 'each'")
    np.random.seed(0), torch.manual_seed(0)
    x_adv = MAKE["AutoAttack, targeted"](other).generate(images, y)
    assert np.array_equal(rows["withstood"], (theirs == y) & (other.predict(x_adv).argmax(1) == y))
