"""A model card as the Hugging Face hub reads it: Markdown below metadata in YAML, with ``model-index``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from art_classwise import __version__
from art_classwise.audit.result import AuditResult
from art_classwise.errors import InputError, printable, unknown
from art_classwise.report.data import Estimate, ModelData, ReportData, report_data
from art_classwise.report.limits import limits, worst_class
from art_classwise.report.tables import percent

__all__ = ["check_license", "model_card"]

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,99}")


def check_license(name: str | None) -> str:
    """Return an identifier of a licence, as the hub writes them, in small letters.

    Raises:
        InputError: There is none, or it has another form.
    """
    if name is None:
        raise InputError(
            "A model card names the model's licence, which an audit doesn't know: give `license`, e.g. "
            "`license='apache-2.0'`; the hub's identifiers are listed at https://hf.co/docs/hub/repositories-licenses, "
            "and `license='other'` stands for one that isn't."
        )
    found = name.strip().lower() if isinstance(name, str) else ""
    if not _LICENSE.fullmatch(found):
        raise InputError(
            f"`license` must be an identifier of the hub, such as mit, apache-2.0 or other, but got {name!r:.60}."
        )
    return found


def model_card(result: AuditResult, model: str | None = None, *, license: str | None = None) -> str:
    """Return a model card: ``README.md`` of a model's repository on the Hugging Face hub.

    Its metadata hold a ``model-index`` with clean and robust accuracy, means over classes and worst class, in percent;
    its text the accuracy of each class with intervals, what wasn't tested and what looks wrong.

    Args:
        result: The audit.
        model: Name of a model; the one that there is, if absent.
        license: The model's licence, as the hub writes it, e.g. ``"apache-2.0"``. An audit doesn't know it.

    Raises:
        InputError: There is no licence, the audit has no such model, or several and none is named.
    """
    if model is None:
        if len(result.models) > 1:
            raise InputError(f"A model card is of one model: name one, `model={result.models[0]!r}`.")
        (model,) = result.models
    if model not in result.models:
        raise unknown("model", model, result.models)
    identifier = check_license(license)
    report = report_data(result)
    (data,) = (one for one in report.models if one.name == model)
    head = "\n".join(_yaml(_metadata(result, report, data, identifier)))
    return f"---\n{head}\n---\n\n{_body(result, report, data)}"


def _metadata(result: AuditResult, report: ReportData, model: ModelData, license: str) -> dict[str, Any]:
    examples = result.manifest.examples
    under = f"under {', '.join(result.adversaries)} at {report.threat}"
    robust = "Robust accuracy"
    if not result.adversaries:
        robust, under = "Accuracy under corruptions", f"mean of {', '.join(report.attacks)}"
    metrics = [
        _metric("Clean accuracy, mean over classes", model.clean),
        _metric(f"{robust}, mean over classes, {under}", model.robust),
        _metric(f"{robust}, worst class ({model.worst_class}), {under}", worst_class(report, model)),
    ]
    evaluated = {
        "task": {"type": "image-classification", "name": "Image Classification"},
        "dataset": {"type": examples.dataset, "name": examples.dataset, "split": examples.split},
        "metrics": metrics,
    }
    return {
        "license": license,
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "art-classwise"],
        "metrics": ["accuracy"],
        "model-index": [{"name": model.name, "results": [evaluated]}],
    }


def _metric(name: str, estimate: Estimate) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": "accuracy", "value": round(100 * estimate.value, 2), "name": name}
    if math.isfinite(estimate.low + estimate.high):
        ends = {"low": round(100 * estimate.low, 2), "high": round(100 * estimate.high, 2), "confidence": 0.95}
        metric["args"] = ends
    return metric


def _body(result: AuditResult, report: ReportData, model: ModelData) -> str:
    rows = [
        f"| {_text(one.name)} | {one.n:,} | {_text(str(one.clean))} | {_text(str(one.robust))} |"
        for one in model.classes
    ]
    attacks = [
        f"| {_text(attack)} | {percent(result.summary(attack)['mean'].to_dict()[model.name])} |"
        for attack in (*result.attacks, *result.together)
    ]
    source, examples = result.manifest.sources.get(model.name), result.manifest.examples
    of = "" if source is None else f", a {source.architecture} of {source.n_weights:,} weights"
    means = "Robust: the example withstands every attack below, corruptions aside."
    if not result.corruptions:
        means = "Robust: the example withstands every attack below."
    where = f"at {report.threat}" if result.adversaries else "under corruptions"
    if not result.adversaries:
        means = "Corrupted: the mean over the corruptions below, each counting alike."
    lines = [
        f"# {_text(model.name)}",
        "",
        _text(
            f"An image classifier of {len(result.classes)} classes{of}. Its robustness was measured class by class by "
            f"art-classwise {__version__} on {report.n_examples:,} examples of {examples.dataset} ({examples.split})."
        ),
        "",
        f"## Accuracy in % {_text(where)}, weakest class first",
        "",
        f"| class | n | clean | {report.robust} |",
        "| --- | ---: | ---: | ---: |",
        *rows,
        f"| mean over classes | {report.n_examples:,} | {_text(str(model.clean))} | {_text(str(model.robust))} |",
        "",
        f"In brackets: 95 % intervals. {means} A minimum of several classes is lower than the worst class's accuracy "
        "on new examples.",
        "",
        "| attack | mean over classes |",
        "| --- | ---: |",
        *attacks,
        "",
        "## What was not tested, and what to know",
        "",
        *(f"- {_text(sentence)}" for sentence in limits(report, model)),
        "",
    ]
    lines += [f"Root digest of the audit: `{root}`" for root in result.roots] + [""] * bool(result.roots)
    if result.manifest.command is not None:
        command = printable(result.manifest.command)
        fence = "`" * (2 + max((len(run) for run in re.findall("`+", command)), default=1))
        lines += ["## Reproduce", "", f"{fence}sh", command, fence, ""]
    return "\n".join(lines)


def _text(text: str) -> str:
    """Write a text so that Markdown and HTML take nothing in it for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", printable(text))


def _yaml(value: Any, indent: str = "") -> list[str]:
    """Write mappings, lists and plain values as block YAML; texts in double quotes, in ASCII."""
    if isinstance(value, Mapping):
        lines = []
        for key, one in value.items():
            nested = isinstance(one, (Mapping, list))
            lines += [f"{indent}{key}:", *_yaml(one, indent + "  ")] if nested else [f"{indent}{key}: {_scalar(one)}"]
        return lines
    lines = []
    for one in value:
        if isinstance(one, Mapping):
            first, *rest = _yaml(one, indent + "  ")
            lines += [f"{indent}- {first.removeprefix(indent + '  ')}", *rest]
        else:
            lines.append(f"{indent}- {_scalar(one)}")
    return lines


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[a-z][a-z-]*[a-z]", value) and value not in ("yes", "no", "on", "off", "true", "false", "null"):
        return value
    # YAML has JSON's escapes, but not pairs of surrogates.
    return f'"{"".join(map(_escaped, value))}"'


def _escaped(c: str) -> str:
    if c in '"\\':
        return f"\\{c}"
    if " " <= c <= "~":
        return c
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
