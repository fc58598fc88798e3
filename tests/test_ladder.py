from __future__ import annotations

import pytest

import art_classwise as acw
from art_classwise import InputError
from art_classwise.attacks import ladder


def test_ladder_names_set_the_parameters(classifier):
    made = {n: f(classifier) for n, f in ladder(["pgd-7", "margin-3", "tpgd2.5-9"], "L2:0.5", seed=4).items()}
    assert [a.max_iter for a in made.values()] == [7, 3, 9]
    assert [a.inverse_temperature for a in made.values()] == [1.0, float("inf"), 2.5]
    assert {(a.norm, a.eps, a.eps_step, a.num_random_init, a.seed) for a in made.values()} == {(2, 0.5, 0.125, 1, 4)}
    assert list(ladder("quick", "Linf:0.1")) == ["fgsm", "pgd-10"]
    assert list(ladder(["quick", "pgd-20"], "Linf:0.1")) == ["fgsm", "pgd-10", "pgd-20"]


@pytest.mark.parametrize(
    ("attacks", "says"),
    [
        ("pdg-20", "Unknown attack 'pdg-20'. Did you mean pgd-20"),
        (["fgsm", "cw"], "Unknown attack 'cw'"),
        ("pgd-0", "Unknown attack"),
        ("pgd", "Steps follow the hyphen"),
        ("tpgd0-20", "Unknown attack"),
        (["fgsm", "fgsm"], "named twice"),
        ([], "no attack"),
        ({}, "no attack"),
        ("", "Unknown attack ''"),
        (["quick", "pgd-10"], "'pgd-10' is named twice"),
        ({"all attacks": lambda c: c}, "stands for all attacks together"),
        ({"": lambda c: c}, "a text that isn't empty"),
        ({1: lambda c: c}, "a text that isn't empty, but got 1"),
        ({"a": 3}, "'a' must be a function from a classifier to an attack on it, .* but is a int"),
        (lambda c: c, "must be a ladder, attack names, or a dict"),
        ([3], "must be a ladder, attack names, or a dict"),
    ],
)
def test_unknown_attacks_are_named(attacks, says):
    with pytest.raises(InputError, match=says):
        acw.ClassWiseAudit("Linf:0.1", attacks)
