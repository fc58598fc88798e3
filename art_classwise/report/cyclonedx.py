"""An audit as a bill of materials of machine learning: CycloneDX 1.7 in JSON.

The specification is ECMA-424, https://cyclonedx.org/docs/1.7/json: a component per model, whose model card has the
class accuracies as ``performanceMetrics`` with slices and confidence intervals.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from art_classwise import __version__
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.result import AuditResult
from art_classwise.errors import printable
from art_classwise.report.data import Estimate, ModelData, ReportData, report_data
from art_classwise.report.limits import limits, worst_class

__all__ = ["cyclonedx"]


def cyclonedx(result: AuditResult, license: str | None = None) -> str:
    """Return an audit as a CycloneDX 1.7 document, in JSON.

    A component per model, of the type ``machine-learning-model``. Its ``quantitativeAnalysis.performanceMetrics`` hold
    clean accuracy and robust accuracy under all attacks, of each class (a slice) and their mean, that of the worst
    class, with 95 % intervals, and the mean under each attack; values are fractions. Its
    ``considerations.technicalLimitations`` say what wasn't tested, and what looks wrong.

    Args:
        result: The audit.
        license: Name of the models' licence; left out, if absent.
    """
    report = report_data(result)
    by_name = {model.name: model for model in report.models}
    components = [_component(result, report, by_name[name], license) for name in result.models]
    content: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "version": 1,
        "metadata": {
            "timestamp": result.manifest.created,
            "lifecycles": [{"phase": "post-build"}],
            "tools": {"components": [{"type": "application", "name": "art-classwise", "version": __version__}]},
        },
        "components": components,
    }
    # One audit gives one document, with one number.
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"art-classwise:{json.dumps(content, sort_keys=True)}")
    content = {**content, "serialNumber": f"urn:uuid:{number}"}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _component(result: AuditResult, report: ReportData, model: ModelData, license: str | None) -> dict[str, Any]:
    manifest, source = result.manifest, result.manifest.sources.get(model.name)
    examples = manifest.examples
    parameters: dict[str, Any] = {
        "task": "image classification",
        "datasets": [
            {
                "type": "dataset",
                "name": printable(examples.dataset),
                "description": printable(f"Evaluation: {report.n_examples:,} examples, {examples.split}"),
            }
        ],
        "inputs": [{"format": "image"}],
        "outputs": [{"format": f"one of {len(result.classes)} classes"}],
    }
    if source is not None:
        parameters["modelArchitecture"] = printable(source.architecture)
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{result.models.index(model.name)}:{manifest.models.get(model.name, '')}",
        "name": printable(model.name),
        "modelCard": {
            "modelParameters": parameters,
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(result, report, model))},
            "considerations": {"technicalLimitations": [printable(text) for text in limits(report, model)]},
        },
        "properties": [{"name": name, "value": printable(value)} for name, value in _properties(result, model.name)],
    }
    return component if license is None else {**component, "licenses": [{"license": {"name": printable(license)}}]}


def _metrics(result: AuditResult, report: ReportData, model: ModelData) -> Iterator[dict[str, Any]]:
    under = f"robust accuracy under {WORST_CASE} at {report.threat}" if result.adversaries else result.overall
    for kind, mean in (("clean accuracy", model.clean), (under, model.robust)):
        yield _metric(kind, mean, "mean over classes")
    yield _metric(under, worst_class(report, model), f"worst class: {model.worst_class}")
    by_name = {one.name: one for one in model.measured}
    for name in (name for name in result.classes if name in by_name):
        one = by_name[name]
        yield _metric("clean accuracy", one.clean, f"class: {name}")
        yield _metric(under, one.robust, f"class: {name}")
    for attack in result.attacks:
        of: dict[Any, dict[Any, Any]] = result.summary(attack).to_dict("index")
        mean = Estimate.of(of[model.name], "mean", "mean_low", "mean_high")
        kind = f"robust accuracy under {attack} at {report.threat}"
        yield _metric(kind if attack in result.adversaries else f"accuracy under {attack}", mean, "mean over classes")


def _metric(kind: str, estimate: Estimate, slice_: str) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": printable(kind), "value": f"{estimate.value:.6g}", "slice": printable(slice_)}
    if estimate.low == estimate.low and estimate.high == estimate.high:  # not NaN
        interval = {"lowerBound": f"{estimate.low:.6g}", "upperBound": f"{estimate.high:.6g}"}
        metric["confidenceInterval"] = interval
    return metric


def _properties(result: AuditResult, model: str) -> Iterator[tuple[str, str]]:
    """Yield names and values that the format has no place for."""
    manifest, source = result.manifest, result.manifest.sources.get(model)
    yield "art-classwise:confidence", "0.95"
    yield "art-classwise:threat", str(result.threat)
    yield "art-classwise:attacks", ", ".join(result.attacks)
    yield "art-classwise:findings", str(sum(f.model in (None, model) for f in result.findings))
    yield "art-classwise:finished", str(result.finished).lower()
    for root in result.roots:
        yield "art-classwise:root-digest", root
    if model in manifest.models:
        yield "art-classwise:model-fingerprint", manifest.models[model]
    if source is not None:
        yield "art-classwise:weights-fingerprint", source.weights
    if manifest.examples.fingerprint is not None:
        yield "art-classwise:data-fingerprint", manifest.examples.fingerprint
    if manifest.command is not None:
        yield "art-classwise:command", manifest.command
