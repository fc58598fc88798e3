"""`--require` and `--junit`: exit code 4, what is named, and what is refused before any work."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

import art_classwise as acw


@pytest.fixture
def audited(classifier, images, tmp_path):
    """The folder of an audit, two attacks, all examples right without attack."""
    data = acw.Dataset(images, classifier.predict(images).argmax(1), ("ant", "bee", "cow", "n/a: doe"))
    audit = acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-5"), verbose=False, store=tmp_path / "a")
    return tmp_path / "a", audit.evaluate({"net": classifier}, data)


def flat(text):
    return " ".join(text.split())


def test_report_judges_and_exits(command_line, audited, tmp_path):
    folder, result = audited
    overall = result.rows("net")["withstood"].mean()
    low = result.check("overall >= 0.5")[0].low
    met, unmet = f"overall >= {low - 0.001:.6f}", f"overall >= {low + 0.001:.6f}"
    code, out, err = command_line("report", folder, "--require", met, "--junit", tmp_path / "j.xml")
    assert (code, err) == (0, "")
    assert f"met: {met}: net" in flat(out)
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == "0"
    both = ("--require", unmet, "--require", met)
    code, out, err = command_line("report", folder, *both, "--junit", tmp_path / "j.xml")
    assert code == 4
    assert err == "1 of 2 requirements are not met.\n"
    told = (
        f"not met: {unmet}: net, robust accuracy under all attacks at Linf:0.02: {100 * overall:.1f} %, 95 % interval"
    )
    assert told in flat(out)
    assert f"n = {len(result.rows('net'))}" in flat(out)
    assert (folder / "report.html").exists()
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_json_holds_requirements_and_verdicts(command_line, audited):
    folder, result = audited
    code, out, err = command_line("report", folder, "--json", "--require", "worst >= 99%", "--require", "examples >= 1")
    told = json.loads(out)
    assert code == 4
    assert "not judged: worst >= 99%: net" in err  # some class has a single example
    assert told["met"] is False
    verdicts = result.check(["worst >= 99%", "examples >= 1"])
    assert [row["met"] for row in told["requirements"]] == [False, True]
    for row, verdict in zip(told["requirements"], verdicts, strict=True):
        assert (row["value"], row["low"], row["n"], row["bound"]) == (
            None if np.isnan(verdict.value) else verdict.value,
            None if np.isnan(verdict.low) else verdict.low,
            verdict.n,
            verdict.requirement.bound,
        )
    assert "requirements" not in json.loads(command_line("report", folder, "--json")[1])


def test_compare_judges_differences(command_line, audited, tmp_path):
    folder, _ = audited
    ask = ("compare", folder, "--attacks", "fgsm,pgd-5", "--require")
    code, out, _ = command_line(*ask, "difference:overall > -0.9")
    assert code == 0
    assert "met: difference:overall > -0.9: fgsm minus pgd-5" in flat(out)
    code, out, err = command_line(*ask, "difference:overall > 0.9", "--json")
    assert code == 4
    assert json.loads(out)["requirements"][0]["other"] == "pgd-5"
    assert "not met" in err
    code, _, err = command_line(*ask, "worst >= 0.1")
    assert code == 2
    assert "audit and report" in err


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--require", "class:doe >= 0.1"), "n/a: doe"),
        (("--require", "worst@pdg-5 >= 0.1"), "Did you mean pgd-5"),
        (("--require", "difference:worst >= 0.1"), "art-classwise compare"),
        (("--require", "worst >= 1/0"), "divides by zero"),
        (("--junit", "x.xml"), "also give --require"),
        (("--require", "mean >= 0.1", "--junit", "."), "is a folder"),
    ],
)
def test_what_is_refused_writes_nothing(command_line, audited, asked, says):
    folder, _ = audited
    before = sorted(folder.rglob("*"))
    code, out, err = command_line("report", folder, *asked)
    assert code == 2
    assert out == ""
    assert says in err
    assert sorted(folder.rglob("*")) == before


def test_audit_checks_names_before_it_attacks(command_line, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    classifier = acw.as_classifier(network, (1, 8, 8), 10, device="cpu")
    acw.save_checkpoint(tmp_path / "m.pt", classifier, architecture="digits-cnn", classes=list("0123456789"))
    ask = ("audit", "--model", tmp_path / "m.pt", "--examples", 40, "--attacks", "fgsm", "--out", tmp_path / "runs")
    for bad, close in (
        ("n/worst >= 0.1", "Known: m"),
        ("worst@fgms >= 0.1", "fgsm"),
        ("class:ten >= 0.1", "Known"),
    ):
        code, _, err = command_line(*ask, "--require", bad)
        assert code == 2
        assert close in err
        assert not (tmp_path / "runs").exists()
    code, out, _ = command_line(*ask, "--require", "examples >= 41")
    assert code == 4
    assert "not met: examples >= 41: m" in flat(out)
    radii = (*ask[:-1], tmp_path / "radii", "--threat", "Linf:0.01,0.02", "--json", "--no-checks")
    code, out, _ = command_line(*radii, "--require", "examples >= 40", "--require", "overall >= 99%")
    assert code == 4
    told = json.loads(out)["requirements"]
    assert [row["met"] for row in told] == [True, False, True, False]
    assert {row["about"].rpartition(" ")[2] for row in told} == {"Linf:0.01", "Linf:0.02"}
