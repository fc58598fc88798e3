"""Two models or two attacks on the same examples: against loops over the outcomes, and what can't be compared."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import art_classwise as acw
from art_classwise import InputError, metrics
from art_classwise.audit import WORST_CASE, Manifest
from art_classwise.audit.comparison import compare, compare_within, comparison_table
from art_classwise.audit.manifest import Examples
from art_classwise.metrics.best import best_worst_class, compare_with_best
from art_classwise.metrics.comparison import mcnemar, paired_comparison
from art_classwise.studies.seeds import compare_over_seeds, spread_over_seeds

ATTACKS = ("weak", "strong")
CLASSES = ("ant", "bee", "cow", "doe")


def outcomes_of(model, attack, seed, rate, *, label, ids):
    rng = np.random.default_rng([seed, 1])
    clean = np.where(rng.random(len(label)) < 0.9, label, (label + 1) % 4)
    margin = rng.normal(size=len(label))  # of the network without attack: the same whatever the attack
    held = np.random.default_rng([seed, len(attack)]).random(len(label)) < rate - 0.1 * label
    return pd.DataFrame(
        {
            "model": model,
            "attack": attack,
            "example": ids,
            "label": label.astype(np.int32),
            "clean_prediction": clean.astype(np.int32),
            "prediction": np.where(held & (clean == label), label, (label + 1) % 4).astype(np.int32),
            "withstood": held & (clean == label),
            "clean_margin": margin.astype(np.float32),
            "margin": np.where(held, 1, -1).astype(np.float32),
            "perturbation": np.float32(0.1),
            "zero_gradient": False,
        }
    )


def altered(result, **changes):
    """The result with another manifest."""
    return replace(result, manifest=result.manifest.updated(**changes))


def made(rates, *, attacks=ATTACKS, n=150, seed=0, shift=0, **info):
    """Outcomes of models with a rate each, examples of three of four classes."""
    label, ids = np.random.default_rng(9).integers(0, 3, n), np.arange(n) + shift
    rows = pd.concat(
        [
            outcomes_of(model, attack, seed + i, rate, label=label, ids=ids)
            for i, (model, rate) in enumerate(rates.items())
            for attack in attacks
        ],
        ignore_index=True,
    )
    for column, order in (("model", list(rates)), ("attack", list(attacks))):
        rows[column] = pd.Categorical(rows[column], categories=order)
    told = {
        "dataset": "made",
        "split": "test",
        "data": "0" * 32,
        "models": {model: f"{seed + i:032x}" for i, model in enumerate(rates)},
        "attacks": {attack: {"class": attack, "eps": 0.1} for attack in attacks},
        "created": "today",
        **info,
    }
    examples = Examples(dataset=told.pop("dataset"), split=told.pop("split"), n=n, fingerprint=told.pop("data"))
    threat = acw.ThreatModel("Linf", 0.1)
    return acw.AuditResult(rows, Manifest.of_table(rows, CLASSES, threat, examples=examples, **told))


@pytest.fixture(scope="module")
def result():
    return made({"one": 0.9, "two": 0.75})


def withstood(result, model, attack):
    """By example, in a loop: under all attacks, each must be withstood."""
    rows = result.outcomes[result.outcomes["model"] == model]
    rows = rows if attack == WORST_CASE else rows[rows["attack"] == attack]
    held = {}
    for row in rows.itertuples():
        held[row.example] = held.get(row.example, True) and row.withstood
    return np.array([held[i] for i in sorted(held)])


# What it says.


@pytest.mark.parametrize("attack", [WORST_CASE, "strong"])
def test_models_are_compared_example_by_example(result, attack):
    found = result.compare("one", "two", attack=attack)
    a, b = withstood(result, "one", attack), withstood(result, "two", attack)
    y = result.outcomes["label"].to_numpy()[: len(a)]
    expected = paired_comparison(y, a, b, 4, classes=CLASSES)
    pd.testing.assert_frame_equal(found.by_class, expected)
    for side, name in (("first", "one"), ("second", "two")):
        told = result.class_table(name, attack)["robust"]
        assert found.by_class[side].to_numpy() == pytest.approx(told.to_numpy(), nan_ok=True)
        assert found.mean[side] == pytest.approx(told.mean())
        assert (found.worst_class[side], found.worst_class[f"{side}_class"]) == (told.min(), told.idxmin())
    assert found.overall["difference"] == pytest.approx(a.mean() - b.mean())
    assert found.overall["p"] == float(mcnemar((a & ~b).sum(), (~a & b).sum()))
    assert (found.n, found.attack, found.model, found.kind) == (150, attack, None, "robust")
    assert found.about == f"robust accuracy under {attack} at Linf:0.1"


def test_attacks_are_compared_on_a_model(result):
    found = result.compare("weak", WORST_CASE, model="two")
    weak, strongest = (result.class_table("two", a)["robust"] for a in ("weak", WORST_CASE))
    assert found.by_class["difference"].to_numpy() == pytest.approx((weak - strongest).to_numpy(), nan_ok=True)
    assert (found.by_class["difference"].dropna() >= 0).all()  # all attacks together break at least as many
    assert (found.model, found.attack) == ("two", None)
    alone = made({"one": 0.9})
    assert alone.compare("weak", "strong").model == "one"


def test_clean_accuracies_are_compared(result):
    found = result.compare("one", "two", kind="clean")
    one, two = (result.class_table(m)["clean"] for m in ("one", "two"))
    assert found.by_class["difference"].to_numpy() == pytest.approx((one - two).to_numpy(), nan_ok=True)
    assert (found.attack, found.threat) == (None, None)
    assert found.about == "clean accuracy"


def test_two_audits_say_what_one_says(result):
    """A model of each, of the same two: apart they say what they say in one."""
    whole = result.compare("one", "two", attack="weak")
    parts = [
        replace(result, outcomes=rows.assign(model=rows["model"].cat.remove_unused_categories()))
        for rows in (result.outcomes[result.outcomes["model"] == m] for m in result.models)
    ]
    for found in (compare(*parts, attack="weak"), compare(result, result, models=("one", "two"), attack="weak")):
        pd.testing.assert_frame_equal(found.by_class, whole.by_class)
        pd.testing.assert_series_equal(found.worst_class, whole.worst_class)
        assert (found.first, found.second) == ("one", "two")
    other = made({"one": 0.5}, seed=5)
    assert (compare(parts[0], other).first, compare(parts[0], other).second) == ("one (first)", "one (second)")


def test_outcomes_may_stand_in_any_order_of_attacks(result):
    """The row of an example under all attacks stands where the attack's that broke it does."""
    turned = result.outcomes.iloc[::-1]
    turned = turned.sort_values(["model", "example"], kind="stable").reset_index(drop=True)
    other = replace(result, outcomes=turned)
    pd.testing.assert_frame_equal(
        other.compare("one", "two").by_class, result.compare("one", "two").by_class, check_exact=False
    )


def test_a_worst_case_audit_is_compared_under_all_attacks(result):
    apart = made({"three": 0.6}, seed=7)
    found = compare(result.worst_case(), apart, models=("one", "three"))
    pd.testing.assert_frame_equal(found.by_class, compare(result, apart, models=("one", "three")).by_class)
    assert found.worst_case
    with pytest.raises(
        InputError, match="of 'one' skipped broken examples .* only under all attacks together, 'all attacks'"
    ):
        compare(result.worst_case(), apart, models=("one", "three"), attack="strong")
    both = compare(result.worst_case(), apart.worst_case(), models=("one", "three"), attack="strong")
    assert both.by_class["first"].equals(found.by_class["first"])  # the last attack, after all others
    alone = made({"three": 0.6}, seed=7, attacks=("strong",)).worst_case()
    with pytest.raises(InputError, match="'strong' counts with the attacks before it, .* 'one' alone has weak"):
        compare(result.worst_case(), alone, models=("one", "three"), attack="strong")
    three, turned = ("weak", "strong", "last"), ("strong", "weak", "last")
    audits = [made({"net": 0.6}, seed=i, attacks=order).worst_case() for i, order in enumerate((three, turned))]
    with pytest.raises(InputError, match="'last' counts .*: their order is weak, strong, last and strong, weak, last"):
        compare(*audits, attack="last")


def test_table_and_file_hold_all_of_it(result, tmp_path):
    found = result.compare("one", "two")
    table = found.table()
    pd.testing.assert_frame_equal(table.loc["class"], found.by_class)
    assert table.loc[("all examples", ""), "p"] == found.overall["p"]
    assert table.loc[("mean over classes", ""), "low"] == found.mean["low"]
    assert table.loc["worst class", "high"].tolist() == [found.worst_class["high"]]
    found.to_csv(tmp_path / "found.csv")
    read = pd.read_csv(tmp_path / "found.csv", keep_default_na=False, na_values=[""])
    assert read["difference"].to_numpy() == pytest.approx(table["difference"].to_numpy(), nan_ok=True)
    assert set(read["first_name"]) == {"one"}
    assert set(read["about"]) == {found.about}


def test_pairs_are_adjusted_together():
    result = made({"one": 0.9, "two": 0.75, "three": 0.85})
    pairs = [result.compare("one", other) for other in ("two", "three")]
    table = comparison_table(pairs)
    assert table.index.tolist() == [("one", "two"), ("one", "three")]
    assert table["p_adjusted"].tolist() == metrics.comparison.holm(table["p"]).tolist()
    for pair, (_, row) in zip(pairs, table.iterrows(), strict=True):
        assert row["mean_difference"] == pair.mean["difference"]
        assert (row["second_worst_class"], row["second_worst"]) == tuple(pair.worst_class[["second_class", "second"]])
        assert row["worst_low"] == pair.worst_class["low"]


# What can't be compared.


def test_other_examples_are_refused(result):
    with pytest.raises(InputError, match="other examples: of 150 and 150 they share 140, and first differ at place 0"):
        compare(result, made({"three": 0.5}, seed=5, shift=10), models=("one", "three"))
    with pytest.raises(InputError, match="of 150 and 100 they share 100, .* at place 100, example 100 and none"):
        compare(result, made({"three": 0.5}, seed=5, n=100), models=("one", "three"))
    rows = made({"three": 0.5}, seed=5)
    turned = replace(rows, outcomes=rows.outcomes.iloc[::-1])
    with pytest.raises(InputError, match="the same examples in another order: .* share 150"):
        compare(result, turned, models=("one", "three"))
    other = result.outcomes[(result.outcomes["model"] != "two") | (result.outcomes["example"] != 3)]
    with pytest.raises(InputError, match="first differ at place 3, example 3 and 4"):
        replace(result, outcomes=other).compare("one", "two")


def test_other_labels_and_images_are_refused(result):
    other = made({"three": 0.5}, seed=5)
    rows = other.outcomes.copy()
    rows.loc[rows["example"] == 7, "label"] = 3
    with pytest.raises(InputError, match="other labels: 1 of 150 differ, the first of example 7, '.*' and 'doe'"):
        compare(result, replace(other, outcomes=rows), models=("one", "three"))
    with pytest.raises(InputError, match=r"other images \(their fingerprints are 00000000 and 11111111\)"):
        compare(result, made({"three": 0.5}, seed=5, data="1" * 32), models=("one", "three"))
    compare(result, made({"three": 0.5}, seed=5, data=None), models=("one", "three"))  # it isn't known
    compare(result, made({"three": 0.5}, seed=5, dataset="else"), models=("one", "three"))  # the same by another name


@pytest.mark.parametrize(
    ("other", "options", "says"),
    [
        ({"dataset": "else", "data": None}, {}, r"'one' was tried on made \(test\) and 'three' on else \(test\)"),
        ({"split": "train", "data": "1" * 32}, {"kind": "clean"}, r"on made \(train\)"),
        ({"attacks": ("weak", "third")}, {}, "'one' alone has strong; 'three' alone has third. .* both have, weak"),
        ({"attacks": ("third",)}, {}, "'one' alone has weak, strong; .* audit both with the same attacks"),
        ({"attacks": ("third",)}, {"attack": "weak"}, "Unknown attack 'weak'"),
        ({}, {"attack": "middle"}, "Unknown attack 'middle'"),
        ({}, {"models": ("ome", "three")}, "Unknown model 'ome'. Did you mean one"),
        ({}, {"models": ("one",)}, "must be two names"),
        ({}, {"models": None}, r"The first audit has 2 models \(one, two\)"),
        ({}, {"kind": "robus"}, "Unknown kind of accuracy 'robus'. Did you mean robust"),
        ({}, {"confidence": 95}, "between 0 and 1"),
    ],
)
def test_what_differs_is_named(result, other, options, says):
    with pytest.raises(InputError, match=says):
        compare(result, made({"three": 0.5}, seed=5, **other), **{"models": ("one", "three"), **options})


def test_other_threats_classes_and_settings_are_refused(result):
    other = made({"three": 0.5}, seed=5)
    models = {"models": ("one", "three")}
    stronger = altered(other, threat=acw.ThreatModel("L2", 0.5))
    with pytest.raises(InputError, match="'one' was attacked at Linf:0.1 and 'three' at L2:0.5"):
        compare(result, stronger, **models)
    assert compare(result, stronger, kind="clean", **models).threat is None
    with pytest.raises(InputError, match="4 and 4; the first that differ are 'doe' and 'elk'"):
        compare(result, altered(other, classes=(*CLASSES[:3], "elk")), **models)
    with pytest.raises(InputError, match="4 and 3; the first that differ are none and more"):
        compare(result, altered(other, classes=CLASSES[:3]), **models)
    weaker = other.manifest.attacks["weak"].updated(parameters={"class": "weak", "eps": 0.2})
    changed = altered(other, attacks=other.manifest.attacks | {"weak": weaker})
    with pytest.raises(InputError, match="The attack 'weak' on 'one' and that on 'three' differ: eps 0.1 and 0.2"):
        compare(result, changed, **models)
    compare(result, changed, attack="strong", **models)


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (("one", "one"), {}, "'one' can't be compared with itself"),
        (("weak", "weak"), {"model": "one"}, "'weak' can't be compared with itself"),
        (("one", "weak"), {}, "'one' is a model and 'weak' an attack"),
        (("weak", "one"), {}, "'one' is a model and 'weak' an attack"),
        (("one", "twu"), {}, "Unknown model or attack 'twu'. Did you mean two"),
        (("weak", "strong"), {}, "There are 2 models: choose one, e.g. `model='one'`"),
        (("weak", "strong"), {"model": "on"}, "Unknown model 'on'"),
        (("weak", "strong"), {"model": "one", "kind": "clean"}, "`attack` and `kind` are for two models"),
        (("weak", "strong"), {"model": "one", "attack": "weak"}, "`attack` and `kind` are for two models"),
        (("one", "two"), {"model": "one"}, "`model` is for two attacks"),
        (("one", "two"), {"attack": "strng"}, "Unknown attack 'strng'. Did you mean strong"),
    ],
)
def test_names_that_mean_no_comparison_are_refused(result, names, options, says):
    with pytest.raises(InputError, match=says):
        compare_within(result, *names, **options)


def test_models_may_be_named_like_attacks():
    result = made({"weak": 0.9, "strong": 0.75})
    with pytest.raises(InputError, match="both models and attacks: .* `model=...`; .* `attack='all attacks'`"):
        result.compare("weak", "strong")
    on = result.compare("weak", "strong", model="weak")
    assert (on.model, on.attack) == ("weak", None)
    assert on.by_class["second"].equals(result.class_table("weak", "strong")["robust"].rename("second"))
    under = result.compare("weak", "strong", attack="weak")
    assert (under.model, under.attack) == (None, "weak")
    assert under.by_class["second"].equals(result.class_table("strong", "weak")["robust"].rename("second"))
    assert result.compare("weak", "strong", kind="clean").kind == "clean"
    assert result.compare("weak", WORST_CASE, model="strong").model == "strong"
    assert made({"weak": 0.9}).compare("weak", "strong").model == "weak"  # "strong" is no model


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: compare("runs/a", "runs/b"), r"The first must be an audit's result, but is 'runs/a': .* read_audit"),
        (lambda: compare(made({"one": 0.5}), None), "The second must be an audit's result, but is None"),
        (lambda: spread_over_seeds(["a", "b"]), "Audit 0 must be an audit's result, but is 'a'"),
        (lambda: spread_over_seeds("runs/a"), "must be an audit's result, but is 'runs/a'"),
        (lambda: spread_over_seeds([made({"one": 0.5}), "b"]), "Audit 1 must be"),
        (lambda: comparison_table([]), "There is no comparison"),
    ],
)
def test_what_is_no_audit_is_refused(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_attacks_that_were_not_tried_on_both_are_refused(result):
    rows = result.outcomes
    partly = replace(result, outcomes=rows[(rows["model"] != "two") | (rows["attack"] != "strong")])
    with pytest.raises(InputError, match="'one' alone has strong. To compare, name one that both have, weak"):
        partly.compare("one", "two")
    with pytest.raises(InputError, match="no outcome of 'strong' on 'two'"):
        partly.compare("one", "two", attack="strong")
    partly.compare("one", "two", attack="weak")
    some = replace(result, outcomes=rows[(rows["attack"] != "strong") | (rows["example"] < 100)])
    with pytest.raises(InputError, match="Attacks on 'one' were tried on different examples"):
        some.compare("one", "two")


def test_a_network_is_not_compared_with_itself(result):
    again = altered(result, models={"one": result.manifest.models["two"], "two": "f" * 32})
    with pytest.raises(InputError, match="'one' of the first audit and 'one' of the second are the same network"):
        compare(result, result, models=("one", "one"))
    compare(result, again, models=("two", "one"))  # one fingerprint, but other answers: of names, then


# The data's fingerprint goes with the outcomes.


def test_outcomes_know_which_images_they_are_of(classifier, data, tmp_path):
    audit = acw.ClassWiseAudit("Linf:0.02", "fgsm", store=tmp_path / "a", verbose=False)
    result = audit.evaluate({"net": classifier}, data)
    expected = acw.audit.provenance.data_fingerprint(data)
    result.save(tmp_path / "b")
    for folder in "ab":
        assert acw.read_audit(tmp_path / folder).manifest.examples.fingerprint == expected
    darker = acw.Dataset(data.x * 0.9, data.y, data.classes, ids=data.ids)
    other = acw.ClassWiseAudit("Linf:0.02", "fgsm", verbose=False).evaluate({"net": classifier}, darker)
    with pytest.raises(InputError, match="same numbers and labels, but other images"):
        compare(acw.read_audit(tmp_path / "b"), other)


def test_folders_that_do_not_say_whether_they_were_saved_are_read(classifier, data, tmp_path):
    """As earlier releases wrote them: a saved result's data had no fingerprint."""
    audit = acw.ClassWiseAudit("Linf:0.02", "fgsm", store=tmp_path / "a", verbose=False)
    result = audit.evaluate({"net": classifier}, data)
    result.save(tmp_path / "b")
    for folder, fingerprint in (("a", result.manifest.examples.fingerprint), ("b", None)):
        path = tmp_path / folder / "manifest.json"
        content = json.loads(path.read_text())
        del content["examples"]["saved"]
        content["examples"]["fingerprint"] = fingerprint
        path.write_text(json.dumps(content))
        assert acw.read_audit(tmp_path / folder).outcomes.equals(result.outcomes)
    assert audit.evaluate({"net": classifier}, data).outcomes.equals(result.outcomes)
    with pytest.raises(InputError, match="holds a saved result"):
        acw.ClassWiseAudit("Linf:0.02", "fgsm", store=tmp_path / "b", verbose=False).evaluate({"net": classifier}, data)


# Seeds.


def test_each_model_is_compared_with_the_best():
    several = made({"one": 0.9, "two": 0.75, "three": 0.6})
    y = several.rows("one")["label"].to_numpy().astype(np.int64)
    for kind, column in (("robust", None), ("clean", "clean_prediction")):
        for attack in (None, "weak"):
            rows = [several.rows(m, attack or "all attacks") for m in several.models]
            right = np.stack([r["withstood"] if column is None else r[column] == r["label"] for r in rows])
            expected = compare_with_best(y, right, 4, models=several.models, measure="worst")
            found = several.compare_with_best(attack=attack, measure="worst", kind=kind)
            pd.testing.assert_frame_equal(found, expected)
            best = several.best_worst_class(attack, kind=kind)
            assert best.equals(best_worst_class(y, right, 4, models=several.models))
    assert several.compare_with_best(["two", "three"]).index.tolist() == ["two", "three"]
    with pytest.raises(InputError, match="There is one model, 'two'"):
        several.compare_with_best(["two"])
    with pytest.raises(InputError, match="Unknown model 'tow'"):
        several.compare_with_best(["one", "tow"])
    with pytest.raises(InputError, match="must be several names"):
        several.compare_with_best("one")
    with pytest.raises(InputError, match="Unknown kind of accuracy"):
        several.compare_with_best(kind="both")


def test_spread_over_seeds_is_that_of_the_accuracies():
    rates = {"s0": 0.9, "s1": 0.75, "s2": 0.8, "s3": 0.85}
    result = made(rates)
    found = spread_over_seeds(result, attack="weak", confidence=0.9)
    y = result.rows("s0")["label"].to_numpy().astype(np.int64)
    for kind in ("clean", "robust"):
        rows = [result.rows(m, "weak") for m in rates]
        right = np.stack([r["withstood"] if kind == "robust" else r["clean_prediction"] == r["label"] for r in rows])
        over_both = metrics.accuracy_over_seeds(y, right, 4, classes=CLASSES, confidence=0.9)
        for name in CLASSES[:3]:
            values = np.array([result.class_table(m, "weak").loc[name, kind] for m in rates])
            row = found.by_class.loc[(kind, name)]
            assert (row["n_seeds"], row["min"], row["max"]) == (4, values.min(), values.max())
            assert (row["mean"], row["sd"]) == pytest.approx((values.mean(), np.std(values, ddof=1)))
            assert row[["low", "high"]].tolist() == over_both.loc[name, ["low", "high"]].tolist()
        mean = found.summary.loc["clean" if kind == "clean" else "mean"]
        assert mean[["low", "high"]].tolist() == over_both.loc["mean over classes", ["low", "high"]].tolist()
    summary = result.summary("weak").drop(columns=["worst_class", "held_out", "left_out", "p"])
    summary = summary[[c for c in summary if not c.endswith(("_low", "_high"))]]
    assert found.summary["mean"].to_dict() == pytest.approx(summary.mean().to_dict())
    assert found.summary["sd"].to_dict() == pytest.approx(summary.std().to_dict())
    over_seeds = stats.sem(summary) * stats.t.isf(0.05, 3)
    assert ((found.summary["high"] - found.summary["low"]).loc[summary.columns] > 0.5 * over_seeds).all()
    assert found.by_class.loc[("robust", "doe"), "n_seeds"] == 0
    assert found.by_class.loc[("robust", "doe"), ["mean", "sd", "low", "high", "min"]].isna().all()
    assert (found.models, found.attack) == (tuple(rates), "weak")


def test_two_recipes_are_compared_seed_by_seed():
    rates = {"a0": 0.9, "a1": 0.85, "a2": 0.88, "b0": 0.6, "b1": 0.65, "b2": 0.7}
    result = made(rates)
    y = result.rows("a0")["label"].to_numpy().astype(np.int64)
    right = np.stack([result.rows(m, "strong")["withstood"] for m in rates])
    expected = metrics.difference_over_seeds(y, right[:3], right[3:], 4, classes=CLASSES)
    found = compare_over_seeds(result, ["a0", "a1", "a2"], ["b0", "b1", "b2"], attack="strong")
    pd.testing.assert_frame_equal(found, expected)
    for first, second, says in (
        (["a0", "a1"], ["b0"], "the first recipe has 2 of them and the second 1|two seeds or more"),
        (["a0", "a1"], ["a1", "b0"], "'a1' and 'a1' are the same network"),
        (["a0", "x"], ["b0", "b1"], "Unknown model 'x'"),
        ([], ["b0", "b1"], "has no networks"),
        ("a0", ["b0", "b1"], "must be several names"),
    ):
        with pytest.raises(InputError, match=says):
            compare_over_seeds(result, first, second)


def test_audits_of_a_seed_each_say_what_one_audit_of_all_says():
    result = made({"s0": 0.9, "s1": 0.75, "s2": 0.8})
    parts = [made({"net": rate}, seed=i) for i, rate in enumerate((0.9, 0.75, 0.8))]
    found, whole = spread_over_seeds(parts), spread_over_seeds(result)
    pd.testing.assert_frame_equal(found.summary, whole.summary)
    pd.testing.assert_frame_equal(found.by_class, whole.by_class)
    assert found.models == ("net (0)", "net (1)", "net (2)")
    some = spread_over_seeds([result, result], ["s0", "s1"])
    pd.testing.assert_frame_equal(some.summary, spread_over_seeds(result, ["s0", "s1"]).summary)


def test_a_network_counts_as_one_seed(result):
    """Though a folder was read twice, or two names were given to it."""
    with pytest.raises(InputError, match=r"'net \(0\)' and 'net \(2\)' are the same network: every seed counts once"):
        spread_over_seeds([made({"net": 0.9}), made({"net": 0.8}, seed=1), made({"net": 0.9})])
    with pytest.raises(InputError, match="'one' and 'two' are the same network"):
        spread_over_seeds([result, made({"two": 0.9})], ["one", "two"])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: spread_over_seeds(r, ["one"]), "at least two networks, but got 1"),
        (lambda r: spread_over_seeds([]), "at least two networks, but got 0"),
        (lambda r: spread_over_seeds(r, ["one", "one"]), "A network appears twice in one, one"),
        (lambda r: spread_over_seeds(r, "one"), "must be several names"),
        (lambda r: spread_over_seeds(r, ["one", "tow"]), "Unknown model 'tow'. Did you mean two"),
        (lambda r: spread_over_seeds([r, r]), "Audit 0 has 2 models"),
        (lambda r: spread_over_seeds([r, r], ["one"]), "There are 2 audits, but 1 names"),
        (lambda r: spread_over_seeds([r, r], ["one", "one"]), "An audit appears twice with the same network"),
        (lambda r: spread_over_seeds(r, attack="x"), "Unknown attack 'x'"),
        (lambda r: spread_over_seeds(r, confidence=95), "`confidence`"),
        (
            lambda r: spread_over_seeds([made({"a": 0.5}), made({"b": 0.5}, seed=3, shift=1)]),
            "other examples: of 150 and 150 they share 149",
        ),
    ],
)
def test_what_has_no_spread_is_refused(result, call, says):
    with pytest.raises(InputError, match=says):
        call(result)
