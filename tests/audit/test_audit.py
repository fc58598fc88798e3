from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.attacks import ladder
from art_classwise.audit import WORST_CASE

CLASSES = ("ant", "bee", "cow", "doe")  # of the fixture `data`, which has no example of the last


def logits(classifier, x):
    with torch.no_grad():
        return classifier.model(torch.from_numpy(x)).numpy()


def test_outcomes_equal_a_plain_loop(classifier, data, result):
    assert list(result.outcomes["attack"]) == ["fgsm"] * 16 + ["pgd-20"] * 16
    clean = logits(classifier, data.x)
    rows = np.arange(16)
    for attack, make in ladder(("fgsm", "pgd-20"), "Linf:0.02").items():
        x_adv = make(classifier).generate(data.x, data.y, example_ids=data.ids)
        attacked = logits(classifier, x_adv)
        table = result.outcomes[result.outcomes["attack"] == attack]
        assert table["model"].tolist() == ["net"] * 16
        assert table["example"].tolist() == list(range(100, 116))
        assert table["label"].tolist() == data.y.tolist()
        assert table["clean_prediction"].tolist() == clean.argmax(1).tolist()
        assert table["prediction"].tolist() == attacked.argmax(1).tolist()
        right = (clean.argmax(1) == data.y) & (attacked.argmax(1) == data.y)
        assert table["withstood"].tolist() == right.tolist()
        for column, values in (("clean_margin", clean), ("margin", attacked)):
            others = values.copy()
            others[rows, data.y] = -np.inf
            np.testing.assert_allclose(table[column], values[rows, data.y] - others.max(1), atol=1e-5)
        size = np.abs(x_adv - data.x).reshape(16, -1).max(1)
        np.testing.assert_allclose(table["perturbation"], size, atol=1e-7)
        assert not table["zero_gradient"].any()


def test_fgsm_is_one_step_of_full_length_from_x(classifier, data):
    x = torch.from_numpy(data.x).requires_grad_()
    loss = nn.functional.cross_entropy(classifier.model(x), torch.from_numpy(data.y))
    (gradient,) = torch.autograd.grad(loss, x)
    expected = (x + 0.02 * gradient.sign()).clamp(0, 1).detach().numpy()
    right = classifier.predict(data.x).argmax(1) == data.y  # the others need no attack
    expected = np.where(right[:, None, None, None], expected, data.x)
    fgsm = ladder("fgsm", "Linf:0.02")["fgsm"](classifier)
    assert 0 < right.sum() < 16
    np.testing.assert_allclose(fgsm.generate(data.x, data.y), expected, atol=1e-6)


def test_by_class_counts_outcomes(result, data):
    table = result.by_class()
    assert table.index.names == ["model", "attack", "class"]
    assert len(table) == 3 * 4
    for attack in ("fgsm", "pgd-20"):
        rows = result.outcomes[result.outcomes["attack"] == attack]
        for k, name in enumerate(CLASSES[:3]):
            own = rows[rows["label"] == k]
            row = table.loc[("net", attack, name)]
            assert row["n"] == len(own)
            assert row["robust"] == pytest.approx(own["withstood"].mean())
            assert row["clean"] == pytest.approx((own["clean_prediction"] == k).mean())
            low, high = acw.metrics.wilson(own["withstood"].sum(), len(own))
            assert (row["robust_low"], row["robust_high"]) == pytest.approx((float(low), float(high)))
        absent = table.loc[("net", attack, "doe")]
        assert absent["n"] == 0
        assert absent.drop("n").isna().all()


def test_all_attacks_together_are_the_conjunction(result):
    wide = result.outcomes.pivot(index="example", columns="attack", values="withstood").all(axis=1)
    labels = result.outcomes.drop_duplicates("example").set_index("example")["label"]
    expected = wide.groupby(labels).mean()
    found = result.class_table("net", WORST_CASE)["robust"]
    assert found.to_numpy()[:3] == pytest.approx(expected.to_numpy())
    assert (found[:3] <= result.class_table("net", "pgd-20")["robust"][:3]).all()


def test_summary_names_the_worst_class(result):
    table = result.class_table("net", "fgsm")
    summary = result.summary("fgsm").loc["net"]
    assert summary["worst"] == table["robust"].min()
    assert table.loc[summary["worst_class"], "robust"] == summary["worst"]
    assert summary["mean"] == pytest.approx(table["robust"].mean())
    assert summary["mcd"] == pytest.approx(table["robust"].max() - table["robust"].min())


def test_confusion_is_of_the_predictions_under_attack(result):
    rows = result.outcomes[result.outcomes["attack"] == "pgd-20"]
    expected = acw.metrics.confusion(rows["label"], rows["prediction"], 4, classes=CLASSES)
    pd.testing.assert_frame_equal(result.confusion("net", "pgd-20"), expected)


def test_batch_size_and_company_change_nothing(classifier, data):
    audit = {"threat": "Linf:0.02", "attacks": ("pgd-20", "tpgd5-20"), "verbose": False}
    whole = acw.ClassWiseAudit(**audit).evaluate({"net": classifier}, data).outcomes
    small = acw.ClassWiseAudit(**audit, batch_size=3).evaluate({"net": classifier}, data).outcomes
    alone = acw.ClassWiseAudit(**audit).evaluate({"net": classifier}, data.take(np.arange(5, 9))).outcomes
    assert small.equals(whole)
    some = whole[whole["example"].between(105, 108)].reset_index(drop=True)
    assert alone.equals(some)


class Cheat:
    """An 'attack' that returns what it likes."""

    attack_params = ()

    def __init__(self, x_adv):
        self.x_adv = x_adv

    def generate(self, x, y):
        return self.x_adv(x)


def test_what_leaves_the_ball_is_brought_back_before_the_verdict(classifier, data):
    audit = acw.ClassWiseAudit("Linf:0.001", {"cheat": lambda c: Cheat(lambda x: 1 - x + 5)}, verbose=False)
    outcomes = audit.evaluate({"net": classifier}, data).outcomes
    assert outcomes["perturbation"].max() <= 0.001 + 1e-6
    attacked = logits(classifier, np.clip(data.x + 0.001, 0, 1))
    assert outcomes["prediction"].tolist() == attacked.argmax(1).tolist()


def test_misclassified_without_attack_has_not_withstood(classifier, data):
    """Even if the attack happens to mend it."""
    identity = acw.ClassWiseAudit("Linf:0.001", {"identity": lambda c: Cheat(lambda x: x)}, verbose=False)
    outcomes = identity.evaluate({"net": classifier}, data).outcomes
    wrong = outcomes["clean_prediction"] != outcomes["label"]
    assert wrong.any()
    assert outcomes["withstood"].tolist() == (~wrong).tolist()


@pytest.mark.parametrize(
    ("x_adv", "says"), [(lambda x: x[:3], "shape"), (lambda x: x * np.nan, "values that are not finite")]
)
def test_a_broken_attack_is_named(classifier, data, x_adv, says):
    audit = acw.ClassWiseAudit("Linf:0.1", {"broken": lambda c: Cheat(x_adv)}, verbose=False)
    with pytest.raises(InputError, match=f"'broken' must return finite images .*{says}"):
        audit.evaluate({"net": classifier}, data)


def test_arts_own_attacks_take_part_and_are_seeded(classifier, data):
    attacks = {"art-fgsm": lambda c: FastGradientMethod(c, eps=0.05, num_random_init=2)}
    tables = []
    for seed in (0, 0, 1):
        np.random.seed(len(tables))
        audit = acw.ClassWiseAudit("Linf:0.05", attacks, seed=seed, verbose=False)
        tables.append(audit.evaluate({"net": classifier}, data).outcomes)
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0]["margin"].equals(tables[2]["margin"])
    assert audit.evaluate({"net": classifier}, data).manifest.parameters("art-fgsm")["eps"] == 0.05


@pytest.mark.parametrize("attacks", ["quick", {"art": lambda c: FastGradientMethod(c, eps=0.05)}])
def test_leaves_everything_as_it_was(classifier, data, attacks):
    """Also under ART's attacks, which change mode and gradients."""
    classifier.model.train()
    classifier.model[1].eval()
    classifier.model[5].weight.grad = seven = torch.full_like(classifier.model[5].weight, 7.0)
    modes = [m.training for m in classifier.model.modules()]
    buffers = classifier.model[1].running_mean.clone()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    acw.ClassWiseAudit("Linf:0.05", attacks, verbose=False).evaluate({"net": classifier}, data)
    assert [m.training for m in classifier.model.modules()] == modes
    assert torch.equal(classifier.model[1].running_mean, buffers)
    assert all(p.requires_grad for p in classifier.model.parameters())
    assert classifier.model[5].weight.grad is seven
    assert torch.equal(seven, torch.full_like(seven, 7.0))
    assert classifier.model[0].weight.grad is None
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_bad_input_is_named(classifier, data, digits, tmp_path):
    audit = acw.ClassWiseAudit("Linf:0.1", "fgsm", verbose=False)
    nan = acw.as_classifier(classifier.model, (3, 6, 6), 4, device="cpu")
    for call, says in [
        (lambda: acw.ClassWiseAudit("Linf"), "norm:radius"),
        (lambda: acw.ClassWiseAudit("Linf:0.1", batch_size=0), "`batch_size`"),
        (lambda: acw.ClassWiseAudit("Linf:0.1", seed=-1), "`seed`"),
        (lambda: acw.ClassWiseAudit("Linf:0.1", seed=2**63), "`seed` must be .* below"),
        (lambda: audit.evaluate({"\udcff": classifier}, data), "not UTF-8: choose another"),
        (
            lambda: acw.ClassWiseAudit(
                "Linf:0.1", {"aimed": lambda c: acw.TemperaturePGD(c, targeted=True)}, verbose=False
            ).evaluate({"net": classifier}, data),
            "'aimed' is targeted: it would drive each example towards its true label",
        ),
        (lambda: audit.evaluate({}, data), "at least one ART classifier"),
        (lambda: audit.evaluate(classifier, data), "dict of at least one ART classifier"),
        (lambda: audit.evaluate({"": classifier}, data), "a non-empty string"),
        (lambda: audit.evaluate({"net": classifier.model}, data), "must be an ART PyTorchClassifier"),
        (lambda: audit.evaluate({"net": classifier}, digits), "has 4 classes, but digits has 10"),
        (
            lambda: audit.evaluate({"net": classifier}, acw.Dataset(digits.x, digits.y % 4, CLASSES)),
            r"takes images of shape \(3, 6, 6\)",
        ),
        (lambda: acw.ClassWiseAudit("Linf:8", "fgsm").evaluate({"n": classifier}, data), "did you mean"),
    ]:
        with pytest.raises(InputError, match=says):
            call()
    for clip_values in (None, (0, 255)):
        other = PyTorchClassifier(
            classifier.model, nn.CrossEntropyLoss(), (3, 6, 6), 4, clip_values=clip_values, device_type="cpu"
        )
        with pytest.raises(InputError, match=r"has clip_values .* make the classifier with clip_values=\(0, 1\)"):
            audit.evaluate({"net": other}, data)
    with torch.no_grad():
        nan.model[5].bias[0] = float("nan")
    with pytest.raises(InputError, match="logits that are not finite, first for example 100"):
        audit.evaluate({"net": nan}, data)


def test_unknown_names_of_a_result_are_named(result):
    with pytest.raises(InputError, match="Unknown model 'nut'. Did you mean net"):
        result.confusion("nut", "fgsm")
    with pytest.raises(InputError, match="Unknown attack 'pgd20'. Did you mean pgd-20"):
        result.summary("pgd20")


def test_a_folder_that_can_not_be_written_is_found_before_the_work(classifier, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written .*: choose another"):
        acw.ClassWiseAudit("Linf:0.1", store=tmp_path / "file" / "runs")


def test_every_example_has_a_start_of_its_own_beyond_the_first_shard(classifier, monkeypatch):
    """Two equal images, one in each of two shards, are attacked from different starts."""
    from art_classwise.audit import audit as module

    monkeypatch.setattr(module, "_SHARD", 3)
    x = np.tile(np.full((1, 3, 6, 6), 0.5, np.float32), (4, 1, 1, 1))
    data = acw.Dataset(x, np.zeros(4, int), CLASSES)
    outcomes = acw.ClassWiseAudit("Linf:0.05", "pgd-1", verbose=False).evaluate({"net": classifier}, data).outcomes
    assert outcomes["example"].tolist() == [0, 1, 2, 3]
    assert outcomes["margin"].nunique() == 4


class Saturated(nn.Module):
    """Constant where the first pixel is dark: there no gradient is to be had."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(torch.where(x[:, :1, :1, :1] < 0.5, torch.zeros_like(x), x))


def test_zero_gradients_are_kept_and_shown(network, data):
    from art_classwise.report import render

    data.x[:, 0, 0, 0] = np.where(np.arange(16) < 4, 0.2, 0.8)
    saturated = acw.as_classifier(Saturated(network), (3, 6, 6), 4, device="cpu")
    data = acw.Dataset(data.x, saturated.predict(data.x).argmax(1), CLASSES)  # what is wrong already isn't attacked
    result = acw.ClassWiseAudit("Linf:0.05", "fgsm", verbose=False).evaluate({"net": saturated}, data)
    assert result.outcomes["zero_gradient"].tolist() == [True] * 4 + [False] * 12
    foot = render(result).partition("<tfoot>")[2].partition("</tfoot>")[0]
    assert "zero gradients" in foot
    assert "<td>25.0</td>" in foot


def test_probabilities_in_place_of_logits_are_warned_of(network, data):
    softmax = acw.as_classifier(nn.Sequential(network, nn.Softmax(1)), (3, 6, 6), 4, device="cpu")
    with pytest.warns(UserWarning, match="seems to return probabilities"):
        acw.ClassWiseAudit("Linf:0.05", "fgsm", verbose=False).evaluate({"net": softmax}, data)


def test_arts_black_box_attack_takes_part(classifier, data):
    """Its parameters hold the classifier itself, which is no parameter."""
    from art.attacks.evasion import SquareAttack

    attacks = {"square": lambda c: SquareAttack(c, eps=0.05, max_iter=5, verbose=False)}
    result = acw.ClassWiseAudit("Linf:0.05", attacks, verbose=False).evaluate({"net": classifier}, data)
    assert result.manifest.parameters("square")["max_iter"] == 5
    assert "estimator" not in result.manifest.parameters("square")


def test_defences_that_predict_otherwise_than_by_logits_are_refused(network, data):
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    smoothed = PyTorchRandomizedSmoothing(
        network, nn.CrossEntropyLoss(), (3, 6, 6), 4, clip_values=(0, 1), device_type="cpu"
    )
    with pytest.raises(InputError, match="predicts otherwise than by its network's logits"):
        acw.ClassWiseAudit("Linf:0.1", "fgsm", verbose=False).evaluate({"net": smoothed}, data)


def test_precision_reaches_the_attacks(classifier, data, monkeypatch):
    from art_classwise.attacks import _base

    asked = []
    monkeypatch.setattr(
        _base, "fast_network", lambda estimator, x, precision, **_: asked.append(precision) or estimator.model
    )
    acw.ClassWiseAudit("Linf:0.1", "fgsm", precision="bf16", checks=False, verbose=False).evaluate(
        {"net": classifier}, data
    )
    assert asked == ["bf16"]
