"""Requirements: what their texts mean, which number they are held against, and what is never met."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results import make_result
from scipy.stats import beta

import art_classwise as acw
from art_classwise import InputError, metrics
from art_classwise.audit import Manifest, Requirement, Verdicts
from art_classwise.audit.requirements import MEASURES
from art_classwise.audit.result import AuditResult

ODD = ("traffic light", 'a "b"', "n/a: x", "x >= 0.5 @estimate", "bird's", "é蜂", "\\", " pad ")


def result_of(right, classes, clean=None, attack="fgsm", models=("net",)):
    """An audit in which class k has ``right[k] = (right, n)`` examples."""
    label = np.repeat(np.arange(len(right)), [n for _, n in right])
    withstood = np.concatenate([np.arange(n) < k for k, n in right]) if len(label) else np.zeros(0, bool)
    natural = withstood if clean is None else np.concatenate([np.arange(n) < k for k, n in clean])
    tables = [
        pd.DataFrame(
            {
                "model": model,
                "attack": attack,
                "example": np.arange(len(label)),
                "label": label.astype(np.int32),
                "clean_prediction": np.where(natural, label, (label + 1) % len(classes)).astype(np.int32),
                "prediction": np.where(withstood, label, (label + 1) % len(classes)).astype(np.int32),
                "withstood": withstood,
                "clean_margin": np.float32(1),
                "margin": np.float32(1),
                "perturbation": np.float32(0.1),
                "zero_gradient": False,
            }
        )
        for model in models
    ]
    outcomes = pd.concat(tables, ignore_index=True).astype({"model": "category", "attack": "category"})
    return AuditResult(outcomes, Manifest.of_table(outcomes, classes, acw.ThreatModel("Linf", 0.1)))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("worst >= 0.30", {"measure": "worst", "operator": ">=", "bound": 0.3}),
        ("  MEAN>=.5 ", {"measure": "mean", "bound": 0.5}),
        ("class:cat >= 25 %", {"measure": "class", "name": "cat", "bound": 0.25}),
        ("gap ≤ 2/5", {"measure": "gap", "operator": "<=", "bound": 0.4}),
        ("clean >= 0.9", {"measure": "mean", "kind": "clean"}),
        ("clean:class:dog > 1e-1", {"measure": "class", "name": "dog", "kind": "clean", "bound": 0.1}),
        ("difference:worst > -0.02", {"measure": "worst", "difference": True, "bound": -0.02}),
        ("difference:class:cat >= -2%", {"name": "cat", "difference": True, "bound": -0.02}),
        ("findings == 0", {"measure": "findings", "operator": "==", "bound": 0}),
        ("findings:masked gradients == 0", {"measure": "findings", "name": "masked gradients"}),
        ("my net/worst@pgd-20x5 >= 0.3", {"model": "my net", "attack": "pgd-20x5", "measure": "worst"}),
        ("mean@all attacks >= 0.3 @estimate", {"attack": "all attacks", "on_estimate": True}),
        ("worst@estimate >= 0.3", {"attack": None, "on_estimate": True}),
        ('worst@"estimate" >= 0.3', {"attack": "estimate", "on_estimate": False}),
        ("class:n/a >= 0.3", {"name": "n/a", "model": None}),
        ("class:a:b >= 0.3", {"name": "a:b"}),
        ("class:bird's nest >= 0.3", {"name": "bird's nest"}),
        (r"""'a/b'/class:"q\"<=1\\"@'x@y' >= 0.3""", {"model": "a/b", "name": 'q"<=1\\', "attack": "x@y"}),
    ],
)
def test_what_a_text_means(text, fields):
    got = Requirement.parse(text)
    rest = {"name": None, "kind": "robust", "difference": False, "model": None, "attack": None, "on_estimate": False}
    for key, value in {**rest, **fields}.items():
        assert getattr(got, key) == value, key
    assert str(got) == text.strip()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is a text"),
        (0.3, "is a text"),
        ("worst", "no comparison"),
        ("worst 0.3", "no comparison"),
        ("0.2 <= worst <= 0.3", "several comparisons"),
        ("class:a<b >= 0.3", "stand in quotes"),
        ("worst => 0.3", "Did you mean"),
        ("worst = 0.3", "Did you mean"),
        ("worst != 0.3", "Unknown comparison"),
        ("wurst >= 0.3", "Did you mean worst"),
        ("class >= 0.3", "names no class"),
        ("class: >= 0.3", "names no class"),
        ("worst:cat >= 0.3", "no meaning"),
        (">= 0.3", "no measure"),
        ("net/ >= 0.3", "no measure"),
        ("mean@ >= 0.3", "one attack"),
        ("mean@a@b >= 0.3", "one attack"),
        ('class:"cat >= 0.3', "not closed"),
        ("worst >= 1/0", "divides by zero"),
        ("worst >= 0/0", "divides by zero"),
        ("worst >= nan", "no number"),
        ("worst >= inf", "no number"),
        ("worst >= 1e9999999999", "no number"),
        ("worst >= mean", "no number"),
        ("worst >= 3", "Did you mean 0.03 or 3%"),
        ("worst >= 30", "Did you mean 0.3 or 30%"),
        ("worst >= 101%", "lies between 0 and 1"),
        ("worst > -0.02", "difference:worst"),
        ("difference:worst > -2", "lies between -1 and 1"),
        ("findings == 0.5", "whole number"),
        ("findings == 1%", "whole number"),
        ("findings <= -1", "whole number"),
        ("worst >= 0", "holds whatever comes"),
        ("gap <= 100%", "holds whatever comes"),
        ("findings >= 0", "holds whatever comes"),
        ("worst > 1", "can never hold"),
        ("findings < 0", "can never hold"),
        ("worst == 0.3", "never exactly"),
        ("difference:gap <= 0.1", "no difference is known"),
        ("difference >= 0.1", "Unknown measure"),
        ("clean@fgsm >= 0.1", "without attack"),
        ("difference:worst@fgsm >= 0.1", "--attack"),
        ("findings@fgsm == 0", "all attacks"),
        ("clean:findings == 0", "has no `clean:`"),
    ],
)
def test_what_is_no_requirement(text, says):
    with pytest.raises(InputError) as error:
        Requirement.parse(text)
    assert says in str(error.value)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_requirement_or_an_error(text):
    try:
        got = Requirement.parse(text)
    except InputError:
        return
    assert got.measure in MEASURES
    assert math.isfinite(got.bound)


@pytest.mark.parametrize("name", ODD)
def test_any_class_can_be_named_in_quotes(name):
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    result = result_of([(50, 50), (0, 50)], (name, "other"))
    (verdict,) = result.check(f'class:"{escaped}" >= 0.9')
    assert verdict.met
    assert verdict.requirement.name == name


def test_each_measure_is_held_against_the_end_of_its_own_interval():
    result = make_result(("a", "b", "c", "d", "none"), models=("net",), n=40)
    result = replace(result, manifest=result.manifest.updated(classes=("a", "b", "c", "d")))
    rows = result.rows("net")
    y, right = rows["label"].to_numpy().astype(int), rows["withstood"].to_numpy()
    worst = metrics.worst_class(y, right, 4)
    mean = metrics.mean_accuracy(y, right, 4)
    spread = metrics.disparity_intervals(y, right, 4)
    n, k = np.bincount(y), np.bincount(y[right])
    expected = {
        "worst": (k / n).min(),
        "mean": mean["mean"],
        "overall": right.mean(),
        "class:b": k[1] / n[1],
        "gap": (k / n).max() - (k / n).min(),
        "gini": spread.loc["gini", "value"],
    }
    ends = {
        "worst": (beta.ppf(0.025, k, n - k + 1).min(), worst["high"]),  # Clopper and Pearson's smallest
        "mean": (mean["low"], mean["high"]),
        "overall": tuple(map(float, metrics.wilson(right.sum(), len(right)))),
        "class:b": tuple(map(float, metrics.wilson(k[1], n[1]))),
        "gap": tuple(spread.loc["mcd", ["low", "high"]]),
        "gini": tuple(spread.loc["gini", ["low", "high"]]),
    }
    for measure, (low, high) in ends.items():
        for sign, end, less in ((">=", low, -1), ("<=", high, 1)):
            below, above = end + less * 1e-6, end - less * 1e-6
            verdicts = result.check([f"{measure} {sign} {below:.9f}", f"{measure} {sign} {above:.9f}"])
            assert [v.met for v in verdicts] == [True, False], (measure, sign)
            assert verdicts[0].value == pytest.approx(expected[measure])
            assert (verdicts[0].low, verdicts[0].high) == pytest.approx((low, high))
            assert verdicts[0].n == (n[1] if measure == "class:b" else len(y))
        value = expected[measure]
        estimated = result.check(
            [f"{measure} >= {value - 1e-6:.9f} @estimate", f"{measure} >= {value + 1e-6:.9f}@estimate"]
        )
        assert [v.met for v in estimated] == [True, False]


def test_clean_accuracy_and_one_attack():
    result = result_of([(20, 100), (50, 100)], ("a", "b"), clean=[(90, 100), (100, 100)])
    assert result.check("clean >= 0.85").met
    assert not result.check("mean >= 0.85").met
    assert result.check("clean:class:a >= 0.80").met
    assert result.check("mean@fgsm >= 0.28")[0].value == result.check("mean >= 0.28")[0].value == 0.35


def test_rounding_decides_nothing():
    """The mean of 0.1 and 0.2 is 0.15000000000000002 in floating point."""
    result = result_of([(10, 100), (20, 100)], ("a", "b"))
    assert result.check(["mean >= 0.15@estimate", "mean <= 0.15@estimate"]).met
    assert not any(v.met for v in result.check(["mean > 0.15@estimate", "mean < 0.15@estimate"]))


def test_each_model_has_to_meet_it_unless_one_is_named():
    result = make_result(("a", "b", "none"), models=("one", "two"))
    verdicts = result.check("examples >= 80")
    assert [(v.model, v.met) for v in verdicts] == [("one", True), ("two", True)]
    assert [v.model for v in result.check("two/examples >= 81")] == ["two"]
    assert not result.check("two/examples >= 81").met


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class:none >= 0.01", "no example"),
        ("worst >= 0.01", "have fewer than two examples|has fewer than two examples"),
        ("mean >= 0.01", "no example: none"),
        ("gap <= 0.99", "fewer than two examples"),
    ],
)
def test_what_has_no_examples_is_never_met(text, says):
    result = result_of([(100, 100), (100, 100), (0, 0)], ("a", "b", "none"))
    for asked in (text, f"{text} @estimate"):
        (verdict,) = result.check(asked)
        assert (verdict.met, verdict.state) == (False, "not judged")
        assert pd.Series([verdict.reason]).str.contains(says).all()
        assert math.isnan(verdict.value)
    assert result.check("overall >= 0.9").met  # which is about the examples that there are


def test_a_class_of_one_example_may_be_the_worst():
    result = result_of([(100, 100), (1, 1)], ("a", "b"))
    assert "fewer than two" in result.check("worst >= 0.01")[0].reason
    assert result.check("class:b >= 0.2").met  # Wilson's end of 1 of 1 is 0.2065
    assert not result.check("class:b >= 0.21").met


def test_a_division_by_zero_is_never_met():
    result = result_of([(0, 50), (0, 50)], ("a", "b"))
    for text in ("nsd <= 5", "gini <= 0.99", "nsd <= 5@estimate"):
        (verdict,) = result.check(text)
        assert verdict.state == "not judged"
        assert "divided by the mean" in verdict.reason
    assert result.check("gap <= 0.5").met


def test_an_unfinished_audit_is_never_met():
    result = replace(result_of([(100, 100), (100, 100)], ("a", "b")), missing=("pgd-20 is missing.",))
    for text in ("worst >= 0.01", "clean >= 0.01@estimate", "examples >= 1", "findings <= 50"):
        verdicts = result.check(text)
        assert not verdicts.met
        assert "pgd-20 is missing." in str(verdicts)


def test_findings_are_counted_and_unchecked_networks_are_not_innocent():
    result = result_of([(100, 100), (100, 100)], ("a", "b"))
    found = len(result.findings)
    assert found > 0  # fgsm alone is weak
    (verdict,) = result.check("findings == 0")
    assert (verdict.met, verdict.value, verdict.model) == (False, found, None)
    assert "weren't checked" in verdict.reason
    assert not result.check(f"findings == {found}").met
    assert not result.check("findings:weak attack == 0").met
    assert result.check("findings:weak attack == 1").met
    assert result.check("net/findings:weak attack <= 1").met
    with pytest.raises(InputError, match="Did you mean weak attack"):
        result.check("findings:weak attak == 0")


def test_a_check_that_was_not_run_is_not_judged():
    result = result_of([(100, 100), (100, 100)], ("a", "b"))
    skipped = {r.check.name for r in result.check_results if r.skipped}
    ran = {r.check.name for r in result.check_results if not r.skipped}
    for name in skipped - ran:
        (verdict,) = result.check(f'findings:"{name}" == 0')
        assert verdict.state == "not judged", name


def test_unknown_names_are_errors_with_close_ones():
    result = result_of([(5, 10), (5, 10)], ("cat", "dog"))
    for text, close in (
        ("class:kat >= 0.1", "Did you mean cat"),
        ("nett/worst >= 0.1", "Did you mean net"),
        ("worst@fgms >= 0.1", "Did you mean fgsm"),
        ("difference:worst >= 0.1", "art-classwise compare"),
    ):
        with pytest.raises(InputError, match=close):
            result.check(text)
    with pytest.raises(InputError, match="given twice"):
        result.check(["worst >= 0.1", "worst >= 0.1"])
    with pytest.raises(InputError, match="confidence"):
        result.check("worst >= 0.1", confidence=1.5)


def test_differences():
    result = make_result(("a", "b", "c"), models=("one", "two"), n=60)
    comparison = replace(
        result, manifest=result.manifest.updated(classes=("a", "b")), outcomes=result.outcomes
    ).compare("one", "two")
    for measure, row in (
        ("worst", comparison.worst_class),
        ("mean", comparison.mean),
        ("overall", comparison.overall),
        ("class:b", comparison.by_class.loc["b"]),
    ):
        low, high = float(row["low"]), float(row["high"])
        texts = [f"difference:{measure} > {low - 1e-6:.9f}", f"difference:{measure} > {low + 1e-6:.9f}"]
        texts += [f"difference:{measure} < {high + 1e-6:.9f}", f"difference:{measure} < {high - 1e-6:.9f}"]
        assert [v.met for v in comparison.check(texts)] == [True, False, True, False], measure
    (verdict,) = comparison.check("difference:worst > -0.9")
    assert (verdict.model, verdict.other) == ("one", "two")
    for text, says in (("worst >= 0.1", "audit and report"), ("difference:class:x >= 0.1", "Unknown class")):
        with pytest.raises(InputError, match=says):
            comparison.check(text)
    with pytest.raises(InputError, match="first of a pair"):
        comparison.check("two/difference:worst >= 0.1")


def test_a_difference_of_classes_without_examples_is_not_judged():
    result = make_result(("a", "b", "none"), models=("one", "two"))
    verdicts = result.compare("one", "two").check(
        [
            "difference:class:none > -0.9",
            "difference:worst > -0.9",
            "difference:mean > -0.9",
            "difference:overall > -0.9",
        ]
    )
    assert [v.state for v in verdicts] == ["not judged"] * 3 + ["met"]


def test_junit_is_what_continuous_integration_reads(tmp_path):
    name = "a\x00<b>&\"'\u202e"
    result = result_of([(90, 100), (5, 100)], (name, "b"), models=(name,))
    verdicts = result.check(["mean >= 0.4", "worst >= 0.30", "nsd <= 0.1"])
    verdicts.to_junit(tmp_path / "deep" / "out.xml", name=f"runs/{name}")
    root = ElementTree.parse(tmp_path / "deep" / "out.xml").getroot()
    assert root.tag == "testsuites"
    (suite,) = root
    assert suite.tag == "testsuite"
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures"), element.get("errors")) == ("3", "2", "0")
    cases = list(suite)
    assert [case.tag for case in cases] == ["testcase"] * 3
    assert [case.get("name") for case in cases] == ["mean >= 0.4", "worst >= 0.30", "nsd <= 0.1"]
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == 3
    assert all(float(case.get("time")) == 0 for case in cases)
    assert [[child.tag for child in case] for case in cases] == [["system-out"], ["failure"], ["failure"]]
    failure = cases[1][0]
    assert "5.0 %, 95 % interval 1.6 to 1" in failure.get("message")  # Clopper and Pearson's lower end of 5 of 100
    assert "n = 200" in failure.text
    Verdicts().to_junit(tmp_path / "none.xml")
    assert ElementTree.parse(tmp_path / "none.xml").getroot().get("tests") == "0"


def test_digits_tell_a_number_from_its_bound():
    result = result_of([(29_999, 100_000), (99_999, 100_000)], ("a", "b"))
    (verdict,) = result.check("class:a >= 0.3@estimate")
    assert "29.999" in str(verdict)


def test_it_is_said_where_only_the_interval_falls_short():
    result = result_of([(50, 100), (60, 100)], ("a", "b"))
    (verdict,) = result.check("class:a >= 0.45")
    assert not verdict.met
    assert "the number meets it, the low end of the interval doesn't" in str(verdict)
    assert "the high end" in str(result.check("class:a <= 0.55"))
    assert "meets it" not in str(result.check(["class:a >= 0.6", "class:a >= 0.3"]))


def test_the_table_has_a_row_per_verdict():
    table = result_of([(90, 100), (5, 100)], ("a", "b")).check(["mean >= 0.4", "worst >= 0.3"]).table()
    assert list(table["state"]) == ["met", "not met"]
    assert list(table["requirement"]) == ["mean >= 0.4", "worst >= 0.3"]
