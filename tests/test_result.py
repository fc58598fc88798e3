"""What an audit's result answers: the metrics, asked of its outcomes."""

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import nn

import art_classwise as acw
from art_classwise import metrics
from art_classwise.errors import InputError

CLASSES = ("cat", "dog", "ship", "truck")


@pytest.fixture(scope="module")
def result():
    """Two networks, two attacks, forty examples."""
    rng = np.random.default_rng(0)
    data = acw.Dataset(rng.random((40, 3, 6, 6), dtype=np.float32), rng.integers(0, 4, 40), CLASSES, name="mine")
    models = {}
    for i, name in enumerate(("one", "other")):
        torch.manual_seed(i)
        network = nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.Tanh(), nn.Linear(16, 4))
        models[name] = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    audit = acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-5"), verbose=False)
    return audit.evaluate(models, data)


def columns(result, model, attack):
    rows = result.outcomes[(result.outcomes["model"] == model) & (result.outcomes["attack"] == attack)]
    return {name: rows[name].to_numpy() for name in rows}


def test_by_group(result):
    groups = {"cat": "animal", "dog": "animal", "ship": "transport", "truck": "transport"}
    table = result.by_group(groups)
    rows = columns(result, "other", "pgd-5")
    for group, members in (("animal", (0, 1)), ("transport", (2, 3))):
        of = np.isin(rows["label"], members)
        row = table.loc[("other", "pgd-5", group)]
        assert row["n"] == of.sum()
        assert row["robust"] == rows["withstood"][of].mean()
        assert row["clean"] == (rows["label"] == rows["clean_prediction"])[of].mean()
    assert_frame_equal(table, result.by_group("transport-animal"))
    assert table.index.names == ["model", "attack", "group"]
    one_each = result.by_group(list(CLASSES))
    assert np.array_equal(one_each.to_numpy(), result.by_class().to_numpy())
    with pytest.raises(InputError, match="1 of 4 classes have no group: truck"):
        result.by_group({k: v for k, v in groups.items() if k != "truck"})


def test_confusion_pairs_and_groups(result):
    rows = columns(result, "one", "fgsm")
    expected = metrics.confusion_pairs(rows["label"], rows["prediction"], 4, classes=CLASSES)
    assert_frame_equal(result.confusion_pairs("one", "fgsm"), expected)
    within = result.confusion_pairs("one", "fgsm", groups="transport-animal")["within"]
    assert within.loc[("cat", "dog")] if ("cat", "dog") in within.index else True
    table = result.within_groups("one", "transport-animal", "fgsm")
    wrong = rows["label"] != rows["prediction"]
    assert table.loc["all groups", "within"] == pytest.approx(
        np.mean((rows["label"] // 2 == rows["prediction"] // 2)[wrong])
    )


def test_risks(result):
    rows = columns(result, "one", "pgd-5")
    table = result.risks("one", "pgd-5")
    by_class = result.class_table("one", "pgd-5")
    assert np.allclose(table["r_nat"], 1 - by_class["clean"])
    assert np.allclose(table["r_bndy"], by_class["clean"] - by_class["robust"])
    assert result.risks("one", "pgd-5", pooled=True).loc["all", "r_rob"] == pytest.approx(1 - rows["withstood"].mean())


def test_the_worst_class_and_chance(result):
    rows = columns(result, "one", "pgd-5")
    expected = metrics.worst_class(rows["label"], rows["withstood"], 4, classes=CLASSES)
    assert result.worst_class("one", "pgd-5").equals(expected)
    p = metrics.disparity_test(rows["label"], rows["withstood"], 4)
    assert result.disparity_test("one", "pgd-5").equals(p)
    permuted = result.disparity_test("one", "pgd-5", method="permutation", repeats=200)
    assert 0 < permuted["p"] <= 1
    summary = result.summary("pgd-5").loc["one"]
    assert (summary["held_out"], summary["low"], summary["high"]) == tuple(expected[["accuracy", "low", "high"]])
    assert summary["p"] == p["p"]


def test_what_a_summary_can_not_say_is_nan(classifier, images):
    one_class = acw.Dataset(images[:1], np.zeros(1, int), tuple("abcd"))
    audit = acw.ClassWiseAudit("Linf:0.02", "fgsm", verbose=False)
    row = audit.evaluate({"net": classifier}, one_class).summary().loc["net"]
    assert np.isnan([row["held_out"], row["low"], row["high"], row["p"]]).all()
    assert row["mean"] in (0, 1)


def test_attack_strength(result):
    weak, strong = columns(result, "one", "fgsm"), columns(result, "one", "pgd-5")
    expected = metrics.attack_strength(weak["label"], weak["withstood"], strong["withstood"], 4, classes=CLASSES)
    assert_frame_equal(result.attack_strength("one", "fgsm", "pgd-5"), expected)
    halved = result.attack_strength("one", "fgsm", "all attacks", split_seed=1)
    assert halved["n"].sum() < expected["n"].sum()


def test_rank_agreement(result):
    on_one = result.rank_agreement(model="one")
    first, second = columns(result, "one", "fgsm"), columns(result, "one", "pgd-5")
    tau = metrics.rank_agreement(first["label"], first["withstood"], second["withstood"], 4)
    assert on_one.loc[("fgsm", "pgd-5"), "tau"] == tau["tau"]
    between = result.rank_agreement(attack="pgd-5", repeats=50)
    other = columns(result, "other", "pgd-5")
    tau = metrics.rank_agreement(second["label"], second["withstood"], other["withstood"], 4, repeats=50)
    assert between.loc[("one", "other")].to_dict() == pytest.approx(tau.to_dict(), nan_ok=True)
    assert list(result.rank_agreement(repeats=5).index) == [("one", "other")]  # under all attacks


def test_what_can_not_be_asked_is_said(result):
    with pytest.raises(InputError, match="Give `model`, to compare the attacks"):
        result.rank_agreement(model="one", attack="fgsm")
    with pytest.raises(InputError, match="Unknown model 'two'"):
        result.rank_agreement(model="two")
    with pytest.raises(InputError, match="Unknown attack 'pgd-50'.*Did you mean pgd-5"):
        result.attack_strength("one", "fgsm", "pgd-50")
    alone = acw.AuditResult(
        result.outcomes[result.outcomes["model"] == "one"].assign(
            model=lambda t: t["model"].cat.remove_unused_categories()
        ),
        result.classes,
        result.threat,
        result.info,
    )
    with pytest.raises(InputError, match="one model: compare attacks on it"):
        alone.rank_agreement()
    cut = result.outcomes.drop(index=result.outcomes.index[-1])
    with pytest.raises(InputError, match="other under fgsm and other under pgd-5 are of different examples"):
        acw.AuditResult(cut, result.classes, result.threat, result.info).attack_strength("other", "fgsm", "pgd-5")


def test_summary_measures_stay(result):
    summary = result.summary("fgsm")
    expected = metrics.disparity(result.class_table("one", "fgsm")["robust"])
    assert summary.loc["one", list(expected.index)].astype(float).to_dict() == expected.to_dict()
    assert isinstance(summary, pd.DataFrame)
