"""The one table, and what is left of it where broken examples leave: against loops over examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import art_classwise as acw
from art_classwise import InputError
from art_classwise.audit import Manifest
from art_classwise.audit import audit as audit_module
from art_classwise.audit.outcomes import assembled, disassembled, joined

ATTACKS = ("first", "second", "third")


@pytest.fixture
def whole():
    """Forty examples of three classes under three attacks, of which each breaks some; two models."""
    rng = np.random.default_rng(0)
    parts = []
    for model in ("a", "b"):
        label, clean = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
        clean = np.where(rng.random(40) < 0.8, label, clean)
        for attack in ATTACKS:
            prediction = np.where(rng.random(40) < 0.6, clean, rng.integers(0, 3, 40))
            parts.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "attack": attack,
                        "example": np.arange(100, 140),
                        "label": label.astype(np.int32),
                        "clean_prediction": clean.astype(np.int32),
                        "prediction": prediction.astype(np.int32),
                        "withstood": (clean == label) & (prediction == label),
                        "clean_margin": label.astype(np.float32) + 1,
                        "margin": rng.normal(size=40).astype(np.float32),
                        "perturbation": rng.random(40).astype(np.float32),
                        "zero_gradient": rng.random(40) < 0.3,
                    }
                )
            )
    outcomes = pd.concat(parts, ignore_index=True)
    for column, order in (("model", ["a", "b"]), ("attack", list(ATTACKS))):
        outcomes[column] = pd.Categorical(outcomes[column], categories=order)
    manifest = Manifest.of_table(outcomes, ("x", "y", "z"), acw.ThreatModel("Linf", 0.1))
    return acw.AuditResult(outcomes, manifest)


def test_worst_case_keeps_the_row_of_the_first_that_broke(whole):
    found = whole.worst_case()
    assert found.manifest.worst_case is True
    assert found.outcomes.dtypes.equals(whole.outcomes.dtypes)
    rows = whole.outcomes.set_index(["model", "attack", "example"])
    for (model, attack, example), row in found.outcomes.set_index(["model", "attack", "example"]).iterrows():
        expected = rows.loc[(model, ATTACKS[0], example)].copy()
        if expected["clean_prediction"] != expected["label"]:
            expected["prediction"], expected["margin"] = expected["clean_prediction"], expected["clean_margin"]
            expected["withstood"], expected["perturbation"], expected["zero_gradient"] = False, 0.0, False
        else:
            for before in ATTACKS[: ATTACKS.index(attack) + 1]:
                expected = rows.loc[(model, before, example)]
                if not expected["withstood"]:
                    break
        assert row.to_dict() == expected.to_dict()


def test_worst_case_withstands_what_all_attacks_leave(whole):
    found = whole.worst_case()
    for model in ("a", "b"):
        last = found.class_table(model, "third")[["n", "clean", "robust", "robust_low", "robust_high"]]
        together = whole.class_table(model)[["n", "clean", "robust", "robust_low", "robust_high"]]
        pd.testing.assert_frame_equal(last, together)
        pd.testing.assert_frame_equal(found.class_table(model)[["n", "robust"]], together[["n", "robust"]])
    pd.testing.assert_frame_equal(found.worst_case().outcomes, found.outcomes)  # once more changes nothing
    assert whole.worst_case() is found  # it is computed once


def test_attacks_on_different_examples_have_no_worst_case(whole, tmp_path):
    rows = whole.outcomes
    some = rows[(rows["attack"] != "second") | (rows["example"] < 120)]
    partly = acw.AuditResult(some, whole.manifest)
    with pytest.raises(InputError, match="'a' were tried on different examples, so they have no common worst case"):
        partly.worst_case()
    with pytest.raises(InputError, match="'a' were tried on different examples: save them separately"):
        partly.save(tmp_path)


@pytest.mark.parametrize("worst_case", [False, True])
def test_a_table_taken_apart_is_put_together_again(whole, worst_case):
    result = whole.worst_case() if worst_case else whole
    rows = result.outcomes[result.outcomes["model"] == "a"]
    tables = [rows[rows["attack"] == a].drop(columns=["model", "attack"]).reset_index(drop=True) for a in ATTACKS]
    clean, *attacked = disassembled(tables, worst_case=worst_case)
    if worst_case:
        assert len(attacked[0]) > len(attacked[1]) > len(attacked[2])
    for found, expected in zip(assembled(clean, attacked, worst_case=worst_case), tables, strict=True):
        pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(ValueError, match="were left to attack, but other"):
        assembled(clean, [attacked[0], attacked[1][1:], attacked[2]], worst_case=worst_case)
    with pytest.raises(ValueError, match="example 999 was attacked but not requested"):
        joined(clean, attacked[0].assign(example=999 + np.arange(len(attacked[0]))))


# By the audit itself.


@pytest.mark.parametrize("shard", [3, 512])
def test_an_audit_of_the_worst_case_is_what_is_derived(classifier, data, asked, monkeypatch, shard):
    monkeypatch.setattr(audit_module, "_SHARD", shard)
    options = {"threat": "Linf:0.03", "attacks": ["fgsm", "pgd-5", "tpgd5-5", "margin-5"], "verbose": False}
    every = acw.ClassWiseAudit(**options).evaluate({"net": classifier}, data)
    cost = sum(asked)
    asked.clear()
    worst = acw.ClassWiseAudit(worst_case=True, **options).evaluate({"net": classifier}, data)
    assert worst.outcomes.equals(every.worst_case().outcomes)
    assert worst.manifest.worst_case
    assert not every.manifest.worst_case
    assert 0 < worst.outcomes["withstood"].mean() < (data.y == classifier.predict(data.x).argmax(1)).mean()
    assert sum(asked) < cost


def test_no_example_left_is_no_error(classifier, data):
    """All of them misclassified already: no attack is run, and nothing withstands."""
    wrong = acw.Dataset(data.x, (classifier.predict(data.x).argmax(1) + 1) % 4, data.classes)
    ran = []

    def attack(c):
        made = acw.PGD(c, eps=0.02, verbose=False)
        made.generate = lambda *_, **__: ran.append(1)
        return made

    audit = acw.ClassWiseAudit("Linf:0.02", {"one": attack, "two": attack}, worst_case=True, verbose=False)
    outcomes = audit.evaluate({"net": classifier}, wrong).outcomes
    assert not outcomes["withstood"].any()
    assert (outcomes["prediction"] == outcomes["clean_prediction"]).all()
    assert len(outcomes) == 32
    assert ran == []


@pytest.mark.slow
def test_outcomes_are_the_same_to_the_bit_for_any_batch_size(classifier, data, monkeypatch):
    """Also those of AutoAttack, whose random numbers belong to a batch."""
    data = data.first(10)
    monkeypatch.setattr(audit_module, "_SHARD", 7)
    attacks = ["fgsm", "pgd-5x2", "apgd-ce", "square", "transfer-pgd-3"]
    options = {"threat": "Linf:0.03", "attacks": attacks, "surrogate": classifier, "verbose": False}
    tables = [
        acw.ClassWiseAudit(batch_size=size, **options).evaluate({"net": classifier}, data).outcomes
        for size in (None, 1, 3, 100)
    ]
    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0].groupby("attack", observed=True)["withstood"].mean().between(0, 1, inclusive="neither").all()


def test_out_of_memory_the_batch_is_halved(classifier, network, data):
    import torch

    expected = acw.ClassWiseAudit("Linf:0.03", ["pgd-3", "apgd-ce"], verbose=False).evaluate({"n": classifier}, data)
    large = data.take(np.tile(np.arange(16), 4))
    large = acw.Dataset(large.x, large.y, large.classes)
    seen = []

    def small_memory(module, inputs):
        seen.append(len(inputs[0]))
        if len(inputs[0]) > 32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    whole = acw.ClassWiseAudit("Linf:0.03", ["pgd-3", "apgd-ce"], verbose=False).evaluate({"n": classifier}, large)
    hook = network.register_forward_pre_hook(small_memory)
    with pytest.warns(
        UserWarning, match=r"Out of memory \(CUDA out of memory.*\): continuing with \d+ examples at a time"
    ):
        found = acw.ClassWiseAudit("Linf:0.03", ["pgd-3", "apgd-ce"], verbose=False).evaluate({"n": classifier}, large)
    hook.remove()
    assert found.outcomes.equals(whole.outcomes)
    assert len(expected.outcomes) * 4 == len(found.outcomes)
    assert max(seen[-5:]) <= 32

    def none(module, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    network.register_forward_pre_hook(none)
    with (
        pytest.warns(UserWarning, match="Out of memory"),
        pytest.raises(InputError, match="isn't enough memory for a single example"),
    ):
        acw.ClassWiseAudit("Linf:0.03", "fgsm", verbose=False).evaluate({"n": classifier}, data)


def test_examples_with_the_same_number_are_refused(classifier, data):
    twice = acw.Dataset(data.x, data.y, data.classes, ids=np.arange(16) // 2)
    with pytest.raises(InputError, match="ids must differ"):
        acw.ClassWiseAudit("Linf:0.03", "fgsm", verbose=False).evaluate({"n": classifier}, twice)


def test_an_attack_with_other_parameters_on_another_model_is_refused(classifier, network, data):
    sizes = iter([0.02, 0.03])
    audit = acw.ClassWiseAudit(
        "Linf:0.02", {"mine": lambda c: acw.PGD(c, eps=next(sizes), verbose=False)}, verbose=False
    )
    with pytest.raises(InputError, match="'mine' has other parameters on 'two' than on 'one'"):
        audit.evaluate({"one": classifier, "two": classifier}, data)


def test_attacks_leave_the_examples_as_they_are(classifier, data):
    before = data.x.copy()
    acw.ClassWiseAudit("Linf:0.1", ["fgsm", "pgd-2"], verbose=False).evaluate({"n": classifier}, data)
    assert np.array_equal(data.x, before)
