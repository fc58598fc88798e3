"""Attacks by name, and what becomes of attack objects."""

from __future__ import annotations

import numpy as np
import pytest
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from torch import nn

import art_classwise as acw
from art_classwise import PGD, AutoAttack, InputError, TemperaturePGD, TransferAttack
from art_classwise.attacks import ladder, usual_threat
from art_classwise.attacks.ladder import is_quick_estimate


def made(classifier, *arguments, **options):
    return {name: make(classifier) for name, make in ladder(*arguments, **options).items()}


def test_names_set_the_parameters(classifier):
    names = ["pgd-7", "margin-3", "tpgd2.5-9x4", "dlr-2", "kl-2"]
    attacks = made(classifier, names, "L2:0.5", seed=4, batch_size=9, precision="bf16")
    assert [type(a) for a in attacks.values()] == [PGD, PGD, TemperaturePGD, PGD, PGD]
    assert [a.max_iter for a in attacks.values()] == [7, 3, 9, 2, 2]
    assert [a.num_random_init for a in attacks.values()] == [1, 1, 4, 1, 1]
    assert attacks["tpgd2.5-9x4"].inverse_temperature == 2.5
    assert [attacks[n].loss for n in ("pgd-7", "margin-3", "dlr-2", "kl-2")] == ["cross_entropy", "margin", "dlr", "kl"]
    same = {(a.norm, a.eps, a.eps_step, a.seed, a.batch_size, a.early_stop, a.precision) for a in attacks.values()}
    assert same == {(2, 0.5, 0.125, 4, 9, True, "bf16")}
    fgsm = made(classifier, "fgsm", "Linf:0.1")["fgsm"]
    assert (fgsm.max_iter, fgsm.eps_step, fgsm.num_random_init) == (1, 0.1, 0)
    whole, square = made(classifier, ["autoattack", "square"], "L1:3", seed=4).values()
    assert type(whole) is type(square) is AutoAttack
    assert (whole.attacks, square.attacks, whole.norm, whole.eps, whole.seed) == ("standard", "square", 1, 3, 4)


def test_ladders_are_lists_of_names(classifier):
    assert list(ladder("quick", "Linf:0.1")) == ["fgsm", "pgd-10"]
    assert list(ladder(["quick", "pgd-20"], "Linf:0.1")) == ["fgsm", "pgd-10", "pgd-20"]
    temperatures = ["tpgd2-20", "tpgd5-20", "tpgd10-20", "tpgd50-20"]
    standard = ["fgsm", "pgd-20", "margin-20", *temperatures, "pgd-100x5", "autoattack"]
    assert list(ladder("standard", "Linf:0.1")) == standard
    assert list(ladder("blackbox", "Linf:0.1", surrogate=classifier)) == ["square", "transfer-pgd-20"]


def test_the_fast_ladder_searches_towards_the_nearest_classes(classifier):
    attacks = made(classifier, ["fast", "targeted3-40", "targeted9-8"], "L2:0.5", seed=4)
    assert list(attacks) == ["apgd-ce", "apgd-t3-40", "margin-20x3", "targeted3-40", "targeted9-8"]
    apgd = attacks["apgd-t3-40"]
    assert type(apgd) is AutoAttack
    assert (apgd.members, apgd.n_target_classes, apgd.target_order, apgd.n_iter) == (("apgd-t",), 3, "malt", 40)
    assert (apgd.norm, apgd.eps, apgd.seed) == (2, 0.5, 4)
    towards, all_of_three = attacks["targeted3-40"], attacks["targeted9-8"]
    assert type(towards) is acw.ClassWiseAttack
    assert (towards.targets, towards.order, towards.loss, towards.max_iter) == (3, "malt", "margin", 40)
    assert (towards.norm, towards.eps, towards.eps_step, towards.num_random_init) == (2, 0.5, 0.05, 0)
    assert (all_of_three.targets, all_of_three.eps_step, towards.seed) == (3, 0.125, 4)  # the network has four classes
    assert is_quick_estimate(["margin-20x3", "apgd-t3-40", "apgd-ce"])
    assert is_quick_estimate(["margin-20x3", "targeted3-40", "apgd-ce"])  # as it once was
    assert not is_quick_estimate(attacks)


def test_where_apgds_loss_lacks_classes_the_fast_ladder_searches_on_the_margin():
    three = acw.as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), (1, 2, 2), 3, device="cpu")
    attack = made(three, "fast", "Linf:0.1")["apgd-t3-40"]
    assert type(attack) is acw.ClassWiseAttack
    assert (attack.targets, attack.loss, attack.eps) == (2, "margin", 0.1)


@pytest.mark.parametrize(
    ("dataset", "threat", "eps_step", "steps"),
    [
        ("cifar10", "Linf:8/255", 2 / 255, 20),
        ("svhn", "Linf:8/255", 2 / 255, 20),
        ("mnist", "Linf:0.3", 0.01, 40),
        ("imagenet", "Linf:4/255", 1 / 255, 20),
    ],
)
def test_budgets_are_those_of_the_papers_where_none_is_given(classifier, dataset, threat, eps_step, steps):
    attacks = made(classifier, "standard", dataset=dataset)
    attack = attacks[f"pgd-{steps}"]
    assert str(usual_threat(dataset)) == threat
    assert attack.eps == acw.ThreatModel.parse(threat).eps
    assert attack.eps_step == pytest.approx(eps_step)
    assert attack.eps_step * attack.max_iter >= attack.eps  # a search must be able to cross the ball
    assert made(classifier, "quick", dataset=dataset)["pgd-10"].eps_step * 10 >= attack.eps
    own = made(classifier, "standard", "Linf:0.2", dataset=dataset)["pgd-20"]
    assert (own.eps, own.eps_step) == (0.2, 0.05)


def test_a_data_set_without_usual_budget_needs_one(classifier, data):
    with pytest.raises(
        InputError, match="Give a threat model.* no usual one for mine, only for digits, mnist, cifar10"
    ):
        ladder("quick", dataset="mine")
    with pytest.raises(InputError, match="Give a threat model"):
        ladder("quick")
    with pytest.raises(InputError, match="Give a threat model.* no usual one for data"):
        acw.ClassWiseAudit(verbose=False).evaluate({"net": classifier}, data)


def test_attack_objects_are_made_anew_for_each_classifier(classifier, network, images, labels):
    mine = ProjectedGradientDescentPyTorch(classifier, eps=0.03, eps_step=0.01, max_iter=3, verbose=False)
    ours = acw.ClassWiseAttack(classifier, eps=0.02, targets=2, verbose=False)
    chosen = ladder(["fgsm", mine, ours], "Linf:0.05")
    assert list(chosen) == ["fgsm", "ProjectedGradientDescentPyTorch", "ClassWiseAttack"]
    assert chosen["ClassWiseAttack"](classifier) is ours
    other = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    again = {name: make(other) for name, make in chosen.items()}
    assert again["ClassWiseAttack"].estimator is other
    assert (again["ClassWiseAttack"].targets, again["ClassWiseAttack"].eps) == (2, 0.02)
    assert np.array_equal(
        again["ProjectedGradientDescentPyTorch"].generate(images, labels), mine.generate(images, labels)
    )
    assert list(ladder(mine, "Linf:0.05")) == ["ProjectedGradientDescentPyTorch"]
    assert ladder({"mine": mine}, "Linf:0.05")["mine"](classifier) is mine


def test_transfers_come_from_the_surrogate(classifier, network, images, labels):
    surrogate = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    attacks = made(classifier, ["transfer-pgd-5", "transfer-fgsm"], "Linf:0.1", surrogate=surrogate)
    pgd = attacks["transfer-pgd-5"]
    assert type(pgd) is TransferAttack
    assert pgd.attack.estimator is surrogate
    assert not pgd.attack.early_stop  # what barely fools the surrogate seldom fools another
    expected = PGD(surrogate, eps=0.1, max_iter=5, verbose=False).generate(images, labels)
    assert np.array_equal(pgd.generate(images, labels), expected)


@pytest.mark.parametrize(
    ("attacks", "says"),
    [
        ("pdg-20", "Unknown attack 'pdg-20'. Did you mean pgd-20"),
        (["fgsm", "cw"], "Unknown attack 'cw'"),
        ("pgd-0", "Unknown attack"),
        ("pgd-20x0", "Unknown attack"),
        ("pgd", "Steps follow the hyphen"),
        ("tpgd0-20", "Unknown attack"),
        ("tpgd0.0-20", "Unknown attack"),
        ("transfer-pgd-20", "needs a model to transfer from: give `surrogate`"),
        ("blackbox", "needs a model to transfer from"),
        ("transfer-square", "Unknown attack 'transfer-square'. Write fgsm or a search"),
        ("transfer-", "Unknown attack 'transfer-'"),
        ("{foo}", "Unknown attack '{foo}'"),
        ("pgd-{steps}", "Unknown attack 'pgd-{steps}'"),
        ("targeted0-40", "Unknown attack 'targeted0-40'"),
        ("targeted3", "Did you mean targeted3-40"),
        ("apgd-t0-40", "Unknown attack 'apgd-t0-40'"),
        ("apgd-t3-40x2", "Did you mean apgd-t3-40"),
        ("autoatack", "Did you mean autoattack"),
        (["fgsm", "fgsm"], "named twice"),
        ([], "no attack"),
        ({}, "no attack"),
        ("", "Unknown attack ''"),
        (["quick", "pgd-10"], "'pgd-10' is named twice"),
        ({"all attacks": lambda c: c}, "is reserved for all attacks together"),
        ({"": lambda c: c}, "a non-empty string"),
        ({1: lambda c: c}, "a non-empty string, but got 1"),
        ({"a": 3}, "'a' must be an ART attack, or a function from a classifier to one, .* but is a int"),
        (lambda c: c, "must be a ladder, attack names, ART attacks, or a dict"),
        ([3], "must be a ladder, attack names, ART attacks, or a dict"),
    ],
)
def test_unknown_attacks_are_named(attacks, says):
    with pytest.raises(InputError, match=says):
        acw.ClassWiseAudit("Linf:0.1", attacks)
