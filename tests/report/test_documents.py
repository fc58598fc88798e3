"""CycloneDX and the hub's model card: what their own readers find in them is what the audit says."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import replace

import pytest
from results import HOSTILE, make_result

import art_classwise as acw
from art_classwise import InputError
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.manifest import ModelSource
from art_classwise.report import cyclonedx, model_card

CLASSES = ("cat", HOSTILE, "e | 蜂 \u2028\u0085\x07 😀", "none")


@pytest.fixture(scope="module")
def result():
    made = make_result(CLASSES, models=("net", HOSTILE), attacks=("fgsm", "pgd-20"), n=40)
    source = ModelSource(file="net.pt", architecture="resnet18", n_weights=11_173_962, weights="0" * 32)
    command = "art-classwise audit --model 'a```b'"
    return replace(made, manifest=made.manifest.updated(sources={"net": source}, commands=(command,)))


def errors(text):
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    found = validation.JsonStrictValidator(schema.SchemaVersion.V1_7).validate_str(text)
    return None if found is None else str(found)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bill_of_materials_is_of_the_official_schema(result):
    text = cyclonedx(result, "apache-2.0")
    assert errors(text) is None
    wrong = json.loads(text)
    wrong["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] = 0.5
    assert errors(json.dumps(wrong)) is not None  # so the schema is looked at
    assert cyclonedx(result, "apache-2.0") == text
    assert cyclonedx(result) != text
    assert errors(cyclonedx(result)) is None


def test_metrics_are_the_class_accuracies(result):
    told = json.loads(cyclonedx(result))
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.7")
    assert uuid.UUID(told["serialNumber"].removeprefix("urn:uuid:")).version == 5
    assert [one["type"] for one in told["components"]] == ["machine-learning-model"] * 2
    assert len({one["bom-ref"] for one in told["components"]}) == 2
    metrics = told["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    found = {(m["type"], m["slice"]): m for m in metrics}
    assert len(found) == len(metrics)
    table, summary = result.class_table("net"), result.summary().loc["net"]
    robust = f"robust accuracy under {WORST_CASE} at {result.threat}"

    def same(metric, value, low, high):
        assert float(metric["value"]) == pytest.approx(value, abs=1e-5)
        ends = metric["confidenceInterval"]
        assert (float(ends["lowerBound"]), float(ends["upperBound"])) == pytest.approx((low, high), abs=1e-5)

    same(found[robust, "class: cat"], *table.loc["cat", ["robust", "robust_low", "robust_high"]])
    same(found["clean accuracy", "class: cat"], *table.loc["cat", ["clean", "clean_low", "clean_high"]])
    same(found[robust, "mean over classes"], *summary[["mean", "mean_low", "mean_high"]])
    worst = f"worst class: {summary['worst_class']}"
    same(found[robust, worst], *summary[["worst", "worst_low", "worst_high"]])
    fgsm = result.summary("fgsm").loc["net", ["mean", "mean_low", "mean_high"]]
    same(found[f"robust accuracy under fgsm at {result.threat}", "mean over classes"], *fgsm)
    assert not any(m["slice"] == "class: none" for m in metrics)  # of which nothing is known
    limits = " ".join(told["components"][0]["modelCard"]["considerations"]["technicalLimitations"])
    for said in ("no other norms or radii", "fgsm, pgd-20", "no example: none", "fewer than 50", "Finding, "):
        assert said in limits


def test_the_hub_reads_the_card(result):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(result, "net", license="Apache-2.0"))
    assert card.data.license == "apache-2.0"
    assert card.data.model_name == "net"
    summary = result.summary().loc["net"]
    values = {r.metric_name.partition(",")[0]: r for r in card.data.eval_results if "worst" not in r.metric_name}
    assert values["Clean accuracy"].metric_value == pytest.approx(100 * summary["clean"], abs=0.01)
    assert values["Robust accuracy"].metric_value == pytest.approx(100 * summary["mean"], abs=0.01)
    (worst,) = (r for r in card.data.eval_results if "worst" in r.metric_name)
    assert worst.metric_value == pytest.approx(100 * summary["worst"], abs=0.01)
    assert worst.metric_args["low"] == pytest.approx(100 * summary["worst_low"], abs=0.01)
    assert {r.task_type for r in card.data.eval_results} == {"image-classification"}
    assert "Only perturbations within" in card.text


def test_names_arrive_as_they_are(result):
    yaml = pytest.importorskip("yaml")
    odd = replace(result, manifest=result.manifest.updated(classes=CLASSES))
    for name in (HOSTILE,):
        text = model_card(odd, name, license="mit")
        head = yaml.safe_load(text.split("---\n")[1])
        assert head["model-index"][0]["name"] == name
    for awkward in ("null", "on", "1.5", "- x", "a: b", "😀\u2028\u0085\x07\\\"'", "=", "~", "@"):
        from art_classwise.report.card import _yaml

        told = {"key": awkward, "list": [awkward, {"a": awkward, "b": [{"c": awkward}]}]}
        assert yaml.safe_load("\n".join(_yaml(told))) == told


def test_nothing_in_a_name_is_markup(result):
    markdown = pytest.importorskip("markdown_it")
    text = model_card(result, HOSTILE, license="mit").split("---\n", 2)[2]
    html = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in html
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert {len(re.findall("<t[dh]", row)) for row in rows} == {4, 2}  # no name adds a column
    assert len(rows) == 1 + len(CLASSES) + 1 + 1 + len(result.attacks) + 1
    assert "audit --model 'a```b'" in html.replace("&#x27;", "'").replace("&#39;", "'")


@pytest.mark.parametrize("text", ["compliant", "compliance", "conform", "certified", "guarantee"])
def test_nothing_is_claimed_that_was_not_measured(result, text):
    for document in (cyclonedx(result), model_card(result, "net", license="mit")):
        assert text not in document.lower()


@pytest.mark.parametrize("bad", [None, "", "two words", "MIT\nx: y", 5, "a" * 200])
def test_a_licence_is_asked_for(result, bad):
    with pytest.raises(InputError, match="licen[cs]e"):
        model_card(result, "net", license=bad)


def test_one_model_is_named(result):
    with pytest.raises(InputError, match="name one"):
        model_card(result, license="mit")
    with pytest.raises(InputError, match="Did you mean net"):
        model_card(result, "nett", license="mit")


def test_on_the_command_line(result, command_line, tmp_path):
    result.save(tmp_path / "a")
    ask = ("report", tmp_path / "a", "--format")
    code, _, err = command_line(*ask, "card", "--model", "net")
    assert code == 2
    assert "give --license, e.g. --license apache-2.0" in err
    assert not (tmp_path / "a" / "report.html").exists()
    code, out, _ = command_line(*ask, "card", "--format", "cyclonedx", "--license", "mit", "--model", "net", "--json")
    assert code == 0
    files = json.loads(out)["files"]
    assert {"card", "cyclonedx", "report"} <= set(files)
    assert (tmp_path / "a" / "README.md").read_text() == model_card(
        acw.read_audit(tmp_path / "a"), "net", license="mit"
    )
    assert json.loads((tmp_path / "a" / "bom.cdx.json").read_text())["specVersion"] == "1.7"
    assert acw.read_audit(tmp_path / "a").models == result.models
    for extra, says in ((("--license", "mit"), "--license is for"), (("--model", "net"), "--model is for")):
        code, _, err = command_line("report", tmp_path / "a", *extra)
        assert (code, says in err) == (2, True)
