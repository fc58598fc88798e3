"""What an audit's result answers: the metrics, asked of its outcomes."""

import copy
import inspect
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from results import make_result
from torch import nn

import art_classwise as acw
from art_classwise import metrics
from art_classwise.audit.comparison import Side
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


def test_rows(result):
    for attack in result.attacks:
        expected, rows = columns(result, "other", attack), result.rows("other", attack)
        assert list(rows) == list(result.outcomes)
        assert all(np.array_equal(rows[name], values) for name, values in expected.items())
    of_all = result.rows("other")
    assert np.array_equal(of_all["example"], columns(result, "other", "fgsm")["example"])
    assert set(of_all["attack"]) == {"all attacks"}
    withstood = [columns(result, "other", attack)["withstood"] for attack in result.attacks]
    assert np.array_equal(of_all["withstood"], withstood[0] & withstood[1])
    with pytest.raises(InputError, match="Unknown model 'another'"):
        result.rows("another")
    with pytest.raises(InputError, match="Unknown attack 'pgd-50'"):
        result.rows("other", "pgd-50")


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


def test_by_attack(result):
    table = result.by_attack("other")
    assert list(table.columns) == ["clean", "fgsm", "pgd-5", "all attacks"]
    assert list(table.index) == list(CLASSES)
    fgsm, pgd = columns(result, "other", "fgsm"), columns(result, "other", "pgd-5")
    for k, name in enumerate(CLASSES):
        of = fgsm["label"] == k
        assert table.loc[name, "clean"] == (fgsm["clean_prediction"] == k)[of].mean()
        assert table.loc[name, "pgd-5"] == pgd["withstood"][of].mean()
        assert table.loc[name, "all attacks"] == (fgsm["withstood"] & pgd["withstood"])[of].mean()
    rows = result.outcomes[result.outcomes["label"] != 2]
    absent = replace(result, outcomes=rows).by_attack("one")
    assert absent.loc["ship"].isna().all()
    assert absent.drop("ship").notna().all(axis=None)
    with pytest.raises(InputError, match="Unknown model 'two'"):
        result.by_attack("two")


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
    assert (summary["held_out"], summary["worst_low"], summary["worst_high"]) == tuple(
        expected[["accuracy", "low", "high"]]
    )
    assert summary["p"] == p["p"]


def test_what_a_summary_can_not_say_is_nan(classifier, images):
    one_class = acw.Dataset(images[:1], np.zeros(1, int), tuple("abcd"))
    audit = acw.ClassWiseAudit("Linf:0.02", "fgsm", verbose=False)
    row = audit.evaluate({"net": classifier}, one_class).summary().loc["net"]
    assert np.isnan([row["held_out"], row["worst_low"], row["worst_high"], row["p"]]).all()
    assert row["mean"] in (0, 1)
    # A class of one example can't be split: it is left out, as worst_class leaves it out, and counted.
    single = acw.Dataset(images[:5], np.array([0, 0, 1, 1, 2]), tuple("abcd"))
    result = audit.evaluate({"net": classifier}, single)
    row, worst = result.summary().loc["net"], result.worst_class("net")
    assert row["left_out"] == worst["left_out"] == 1
    assert row[["held_out", "worst_low", "worst_high"]].tolist() == worst[["accuracy", "low", "high"]].tolist()
    assert 0 <= row["p"] <= 1


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


def test_all_attacks_keep_the_order_of_the_examples(result):
    """Different attacks break different examples, whose numbers are not in order."""
    rng = np.random.default_rng(0)
    rows = result.outcomes.assign(withstood=rng.random(len(result.outcomes)) < 0.6)
    numbers = rng.permutation(40)
    rows["example"] = numbers[rows["example"]]
    mixed = replace(result, outcomes=rows)
    weak, strong = (columns(mixed, "one", attack) for attack in ("fgsm", "pgd-5"))
    both = weak["withstood"] & strong["withstood"]
    assert (both != weak["withstood"]).any()
    assert (both != strong["withstood"]).any()
    expected = metrics.attack_strength(weak["label"], weak["withstood"], both, 4, classes=CLASSES)
    assert_frame_equal(mixed.attack_strength("one", "fgsm", "all attacks"), expected)
    ids, labels, right = Side(mixed, "one", "all attacks", "one").right("robust")
    assert np.array_equal(ids, weak["example"])
    assert np.array_equal(labels, weak["label"])
    assert np.array_equal(right, both)
    other = [columns(mixed, "other", attack)["withstood"] for attack in ("fgsm", "pgd-5")]
    tau = metrics.rank_agreement(labels, both, other[0] & other[1], 4)["tau"]
    assert mixed.rank_agreement().loc[("one", "other"), "tau"] == tau
    assert mixed.rows("one").dtypes.drop("attack").equals(rows.dtypes.drop("attack"))


def test_under_all_attacks_stands_the_row_that_came_nearest(result):
    rows = result.outcomes
    nearest = pd.concat([result.rows(name) for name in result.models]).set_index(["model", "example"])
    for key, part in rows.groupby(["model", "example"], observed=True):
        broken = part[~part["withstood"]] if not part["withstood"].all() else part
        assert nearest.loc[key, "margin"] == broken["margin"].min()


def test_what_an_attack_mends_is_no_error_but_has_not_withstood(result):
    rows = result.outcomes.copy()
    wrong = rows["clean_prediction"] != rows["label"]
    rows.loc[wrong, "prediction"] = rows.loc[wrong, "label"]
    mended = replace(result, outcomes=rows)
    robust = mended.class_table("one", "fgsm")["robust"].to_numpy()
    diagonal = np.diag(mended.confusion("one", "fgsm"))
    assert (diagonal > robust).any()
    counted = mended.confusion_pairs("one", "fgsm")["count"].sum()
    label, withstood = (columns(mended, "one", "fgsm")[name] for name in ("label", "withstood"))
    of_one = wrong[(rows["model"] == "one") & (rows["attack"] == "fgsm")].to_numpy()
    assert counted == (~withstood & ~of_one).sum() < (~withstood).sum()
    within = mended.within_groups("one", "transport-animal", "fgsm")
    assert within.loc["all groups", ["n", "errors"]].tolist() == [len(label), counted]


def test_results_are_equal_to_themselves_alone(result):
    assert result == result
    assert result != replace(result)
    comparison = result.compare("one", "other")
    assert comparison != result.compare("one", "other")
    assert len({result, comparison}) == 2


def test_what_can_not_be_asked_is_said(result):
    with pytest.raises(InputError, match="each attack.s result includes those before it and they agree anyway"):
        result.worst_case().rank_agreement(model="one")
    assert result.worst_case().rank_agreement(repeats=5)["n_classes"].tolist() == [4]
    with pytest.raises(InputError, match="Groups must be a mapping .* but got None"):
        result.by_group(None)
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
        result.manifest,
    )
    with pytest.raises(InputError, match="one model: compare attacks on it"):
        alone.rank_agreement()
    cut = result.outcomes.drop(index=result.outcomes.index[-1])
    with pytest.raises(InputError, match="other under fgsm and other under pgd-5 are of different examples"):
        acw.AuditResult(cut, result.manifest).attack_strength("other", "fgsm", "pgd-5")


def test_summary_measures_stay(result):
    summary = result.summary("fgsm")
    expected = metrics.disparity(result.class_table("one", "fgsm")["robust"])
    assert summary.loc["one", list(expected.index)].astype(float).to_dict() == expected.to_dict()
    assert isinstance(summary, pd.DataFrame)
    summary["mean"] = 0.0  # whoever writes into it writes into no one else's
    assert result.summary("fgsm").loc["one", "mean"] == expected["mean"]


def test_the_worst_group_is_the_worst_class_of_pooled_examples(result):
    rows = result.rows("one", "fgsm")
    groups = dict(zip(CLASSES, ["x", "y", "x", "y"], strict=True))
    y = (rows["label"].to_numpy() % 2).astype(np.int64)
    expected = metrics.worst_class(y, rows["withstood"].to_numpy(), 2, classes=["x", "y"], confidence=0.9)
    assert result.worst_group("one", groups, "fgsm", confidence=0.9).to_dict() == expected.to_dict()


OTHERS = {  # what a question about a model needs besides
    "attack_strength": ("fgsm", "pgd-5"),
    "within_groups": ({"ant": "insect", "bee": "insect", "cow": "mammal"},),
    "worst_group": ({"ant": "insect", "bee": "insect", "cow": "mammal"},),
}
NOT_ASKED = {"compare", "rank_agreement"}  # there, a model's name says what is compared
# Of which this audit has none: tests/audit/test_corruptions.py, tests/audit/test_distances.py.
OF_CORRUPTIONS, OF_DISTANCES = {"by_corruption"}, {"distances", "robust_at"}


def of_one_model():
    """Return the names of all methods of a result that ask about one model."""
    methods = inspect.getmembers(acw.AuditResult, inspect.isfunction)
    return [name for name, f in methods if name[0] != "_" and "model" in inspect.signature(f).parameters]


@pytest.mark.parametrize("name", sorted({*of_one_model()} - NOT_ASKED - OF_CORRUPTIONS - OF_DISTANCES))
def test_the_only_model_needs_no_name(name):
    one, two = (make_result(["ant", "bee", "cow"], models=m, attacks=("fgsm", "pgd-5")) for m in (("net",), ("a", "b")))
    others = OTHERS.get(name, ())
    (got, expected) = (getattr(one, name)(*before, *others) for before in ((), ("net",)))
    assert got.equals(expected)
    named = inspect.signature(getattr(one, name)).parameters
    by_name = dict(zip([n for n in named if n != "model"], others, strict=False))
    assert getattr(one, name)(**by_name).equals(expected)
    with pytest.raises(InputError, match="The audit has 2 models: name one, a or b"):
        getattr(two, name)(*others)


def test_what_a_question_lacks_is_said():
    one = make_result(["ant", "bee", "cow"], models=("net",), attacks=("fgsm", "pgd-5"))
    for given in ((), ("fgsm",)):
        with pytest.raises(InputError, match=r"takes a weaker and a stronger attack.*fgsm, pgd-5, all attacks"):
            one.attack_strength(*given)
    for ask in (one.worst_group, one.within_groups):
        with pytest.raises(InputError, match="Groups must be a mapping"):
            ask()
        with pytest.raises(InputError, match="Unknown"):
            ask("net")


def test_what_is_written_into_outcomes_leaves_the_result_as_it_is():
    given = make_result(["ant", "bee", "cow"], attacks=("fgsm", "pgd-5")).outcomes
    one = make_result(["ant", "bee", "cow"], attacks=("fgsm", "pgd-5"))
    one = replace(one, outcomes=given)
    before = [one.summary(), one.rows("one", "fgsm"), one.rows("one"), one.by_class()]
    outcomes, rows = one.outcomes, one.rows("one", "fgsm")
    for frame in (given, outcomes, rows, one.rows("one"), one.worst_case().outcomes, one.summary()):
        frame.loc[:, frame.columns[-1]] = frame.iloc[0, -1]
        for column in {"withstood", "mean"} & {*frame}:
            frame[column] = False
    del outcomes["label"]
    array = one.outcomes["withstood"].to_numpy()
    if array.flags.writeable:
        array[:] = False
    fresh = make_result(["ant", "bee", "cow"], attacks=("fgsm", "pgd-5"))
    for result in (one, fresh):
        now = [result.summary(), result.rows("one", "fgsm"), result.rows("one"), result.by_class()]
        for a, b in zip(before, now, strict=True):
            assert_frame_equal(a, b)
    assert_frame_equal(one.outcomes, fresh.outcomes)
    changed = replace(one, outcomes=one.outcomes.assign(withstood=False))
    assert (changed.summary()["mean"] == 0).all()


def test_results_are_copied_and_pickled_whatever_was_asked_of_them():
    one = make_result(["ant", "bee", "cow"], attacks=("fgsm", "pgd-5"))
    expected = one.summary()
    assert len(one.check_results) > 0
    for made in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert_frame_equal(made.summary(), expected)
        assert_frame_equal(made.outcomes, one.outcomes)
        assert made.manifest == one.manifest
        assert [str(found) for found in made.findings] == [str(found) for found in one.findings]
