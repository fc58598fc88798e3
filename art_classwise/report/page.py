"""The report: one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from art_classwise import __version__
from art_classwise._core.files import contents, output_file
from art_classwise._core.folders import open_folder
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.corrupted import MEAN_CORRUPTION
from art_classwise.audit.distances import measuring_attacks
from art_classwise.audit.findings import Finding
from art_classwise.audit.result import AuditResult
from art_classwise.certification.kept import check_examples, read_certificates
from art_classwise.certification.result import CertifiedResult
from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError, WriteError, first_line, unknown
from art_classwise.report import figures
from art_classwise.report.certified import CertifiedModel, shown_certificate
from art_classwise.report.data import FEWEST_EXAMPLES, ModelData, class_order, comparisons, pairs, report_data
from art_classwise.report.explorer import explored
from art_classwise.report.figures.layout import no_wider_than
from art_classwise.report.tables import percent, shorten, template

__all__ = ["ABOUT", "PICTURE", "REPORT", "TABLE", "render", "report_contents", "report_files", "write_report"]

_MOST_DRAWN = 20  # models: three figures of each take 100 kB and a second
_MANY_CLASSES = 20  # more of them: how many lie where says more than each one's bar


def render(result: AuditResult, certificates: Mapping[str, CertifiedResult] | None = None) -> str:
    """Return the report of an audit as HTML that needs no other file and no network.

    The tables can be sorted and searched (by DataTables, which stands within the page); without scripts they can be
    read all the same.

    Args:
        result: The audit.
        certificates: Of its models, by their names, to be shown, too.

    Returns:
        The page; names of classes, models and attacks are escaped.

    Raises:
        InputError: A certificate is of other examples, or of no model of the audit.
    """
    if certificates is not None and not isinstance(certificates, Mapping):
        raise InputError(
            "`certificates` must be a mapping from models' names to what certify() returned, such as "
            f"{{{result.models[0]!r}: certified}}, but is a {type(certificates).__name__}."
        )
    for name, one in (certificates or {}).items():
        if name not in result.models:
            raise unknown("model of a certificate", name, result.models)
        if not isinstance(one, CertifiedResult):
            raise InputError(
                f"`certificates` are what certify() returned, by models' names, but that of {name!r} is a "
                f"{type(one).__name__}."
            )
        check_examples(one, result, name)
    report, compared, script = report_data(result), comparisons(result), _script()
    certified = [shown_certificate(one, result, model) for model, one in (certificates or {}).items()]
    about = {
        "release": __version__,
        "roots": list(result.roots),
        "models": list(result.models),
        "attacks": list(result.attacks),
    }
    return template("page.html.j2").render(
        report=report,
        worst_case=report.overall,
        fewest_examples=FEWEST_EXAMPLES,
        figures={model.key: _model_figures(result, model) for model in report.models[:_MOST_DRAWN]},
        findings=_grouped(report.findings),
        compared=compared,
        explored=explored(result),
        certified=certified,
        drawn_certificates=_certificate_figures(certified),
        pair=_first_pair(result),
        snippet=_snippet(result),
        downloads=_downloads(result, certificates or {}),
        roots=result.roots,
        about_id=ABOUT,
        about=Markup(json.dumps(about).replace("<", "\\u003c")),
        style=Markup(_asset("page.css") + _asset("explorer.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


REPORT, PICTURE, TABLE = "report.html", "by_class.png", "by_class.csv"
"""The files of a report."""

ABOUT = "about-this-page"
"""The id of what a page says of itself for programs: a JSON object."""


def report_files(place: str | os.PathLike[str]) -> dict[str, str]:
    """Return where :func:`write_report` writes what, and where the outcomes are, by kind."""
    folder = open_folder(place)
    names = {"report": REPORT, "picture": PICTURE, "table": TABLE, "outcomes": "outcomes"}
    return {kind: folder.where(name) for kind, name in names.items()}


def write_report(result: AuditResult, place: str | os.PathLike[str]) -> None:
    """Write ``report.html``, ``by_class.png`` and ``by_class.csv`` into a folder.

    Certificates in the audit's folder, which ``art-classwise certify --audit`` writes, are shown on the page.

    Args:
        result: The audit.
        place: A folder, or an address such as ``"s3://bucket/audit"``.

    Raises:
        InputError: A certificate there is damaged, or of other examples.
        WriteError: It can't be written.
    """
    folder, certificates = open_folder(place), read_certificates(place, result)
    try:
        for name, content in report_contents(result, certificates=certificates).items():
            folder.write(name, content)
    except OSError as error:
        raise WriteError(f"The report can't be written to {folder.address}: {first_line(error)}.") from error


def report_contents(
    result: AuditResult,
    names: Iterable[str] = (REPORT, PICTURE, TABLE),
    *,
    certificates: Mapping[str, CertifiedResult] | None = None,
) -> dict[str, bytes]:
    """Return what :func:`write_report` writes, by the files' names.

    Args:
        result: The audit.
        names: Which files.
        certificates: As for :func:`render`.
    """

    def page(path: Path) -> None:
        with output_file(path, REPORT) as file:
            file.write_text(render(result, certificates), encoding="utf-8")

    write: dict[str, Callable[[Path], None]] = {
        REPORT: page,
        PICTURE: lambda path: figures.save(figures.models_by_class(result), path),
        TABLE: result.to_csv,
    }
    return contents({name: write[name] for name in names})


def _asset(name: str) -> str:
    return (files("art_classwise.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """Return the page's script: DataTables as itables carries it, in a data URL, and what uses it."""
    bundle = (files("itables") / "html" / "dt_bundle.js").read_bytes()
    source = f"data:text/javascript;base64,{base64.b64encode(bundle).decode()}"
    return f'import DataTable from "{source}";\n{_asset("page.js")}'


class _Picture(NamedTuple):
    """A figure on the page: its title, what a screen reader says of its frame and of it, and the SVG."""

    title: str
    label: str
    alt: str
    svg: Markup


def _model_figures(result: AuditResult, model: ModelData) -> list[_Picture]:
    name, numbers, report = model.name, "the table below holds the numbers", report_data(result)
    table, matrix, order = result.class_table(name), result.confusion(name, WORST_CASE), class_order(result)
    best = f"best {model.best.name}, {percent(model.best.robust.value)} %"
    pictures: dict[str, tuple[str, str, Callable[[Axes | None], Axes]]] = {
        "classes": (
            "Robust accuracy by class, all attacks" if result.adversaries else "Accuracy by class, mean corruption",
            f"worst {model.worst_class}, {percent(model.worst)} %, {best}; {numbers}",
            lambda ax: figures.class_accuracy(table, ax, order=order),
        ),
        "attacks": (
            "Accuracy by class and attack",
            numbers,
            lambda ax: figures.class_by_attack(
                result.by_attack(name).drop(columns=[*result.corruptions, MEAN_CORRUPTION], errors="ignore"),
                ax,
                order=order,
            ),
        ),
        "corruptions": (
            "Accuracy by class and corruption",
            f"{report.weakest_corruption(name)} {numbers[0].upper()}{numbers[1:]}",
            lambda ax: figures.class_by_attack(result.by_corruption(name), ax, order=order),
        ),
        "confusion": (
            f"Predictions under {'attack' if result.adversaries else 'corruptions'}",
            "the download confusion.csv holds the numbers",
            lambda ax: figures.confusion(matrix, ax, order=order),
        ),
        "histogram": (
            "Distribution of the class robust accuracies",
            f"{len(model.measured)} classes, mean {percent(model.robust.value)} %",
            lambda ax: figures.class_histogram(table, ax),
        ),
    }
    if measuring_attacks(result, name):
        pictures["radii"] = (
            "Robust accuracy by class at every radius",
            "from the smallest perturbation found of each example",
            lambda ax: figures.accuracy_by_radius(result, name, ax),
        )
    if len(result.adversaries) <= 1:
        del pictures["attacks"]
    if not result.corruptions:
        del pictures["corruptions"]
    if len(model.measured) <= _MANY_CLASSES:
        del pictures["histogram"]
    return [
        _Picture(title, f"Figure of {name}: {title}", f"{name}: {title}; {alt}.", _svg(draw, f"{model.key}-{kind}-"))
        for kind, (title, alt, draw) in pictures.items()
    ]


def _certificate_figures(certified: Sequence[CertifiedModel]) -> dict[str, _Picture]:
    """Return the figure of each certificate that reaches anywhere, by model."""
    title = "Certified accuracy by class"
    return {
        one.model: _Picture(
            title,
            f"Figure of {one.model}: {title}",
            f"{one.model}: {title}; the table below holds the numbers.",
            _svg(partial(figures.certified_by_radius, one.certified), f"c{number}-"),
        )
        for number, one in enumerate(certified)
        if one.certified.certificate.reach > 0
    }


class _Pair(NamedTuple):
    """The two most robust models: their names, the figure, and the classes, those that differ most clearly first."""

    first: str
    second: str
    figure: _Picture
    classes: list[tuple[Any, Mapping[Any, Any]]]


def _first_pair(result: AuditResult) -> _Pair | None:
    if not pairs(result):
        return None
    pair, order = pairs(result)[0], class_order(result)
    figure = _Picture(
        "Robust accuracy by class, all attacks",
        "Figure of the two most robust models",
        f"{pair.first} and {pair.second}: robust accuracy by class; the table below holds the numbers.",
        _svg(lambda ax: figures.compared(pair, ax, order=order), "pair-"),
    )
    table = pair.by_class.sort_values("p_adjusted", kind="stable", na_position="last")
    return _Pair(pair.first, pair.second, figure, list(table.to_dict("index").items()))


_WIDTH = 3.9  # inches: on a telephone, which is that wide, letters keep their size


def _svg(draw: Callable[[Axes | None], Axes], prefix: str) -> Markup:
    """Draw a figure for a telephone's width and return it as an SVG element in the page's colours and fonts."""
    from matplotlib import pyplot

    with pyplot.rc_context({"interactive": False}), no_wider_than(_WIDTH):
        figure = draw(None).figure
        assert isinstance(figure, Figure)
        try:
            return Markup(_in_colours_of_the_page(figures.to_svg(figure, prefix)))
        finally:
            pyplot.close(figure)


_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")
_STYLE = re.compile(r'style="[^"]*"')
_COLOUR = re.compile(r"#([0-9a-f]{6})\b")
_THEMED = (
    "000000",
    "ffffff",
    "404040",
    "999999",
    "bfbfbf",
    "cccccc",
    "e0e0e0",
    "ededed",
    "0072b2",
    "d55e00",
    "08519c",
    "d94801",
    "b34700",
)


def _in_colours_of_the_page(svg: str) -> str:
    """Let a figure's colours be the page's variables, which a dark scheme sets; without them they are as drawn."""

    def themed(style: re.Match[str]) -> str:
        return _COLOUR.sub(lambda c: f"var(--f-{c[1]}, {c[0]})" if c[1] in _THEMED else c[0], style[0])

    return _STYLE.sub(themed, _FAMILY.sub("", _METADATA.sub("", svg)))


def _grouped(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings of one kind and one advice together, in the order they first came."""
    together: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        together.setdefault((finding.check, finding.advice), []).append(finding)
    return [{"check": check, "advice": advice, "findings": alike} for (check, advice), alike in together.items()]


def _snippet(result: AuditResult) -> str:
    """Return Python code that reproduces the audit, for audits that no command line made."""
    manifest = result.manifest
    n, name = manifest.examples.n, manifest.examples.dataset
    if name in DATASETS:
        data = f"data = acw.load_dataset({name!r}, split={manifest.examples.split!r}, n_examples={n})"
    else:
        data = f"data = acw.Dataset(x, y, classes)  # the {n} examples of {shorten(repr(name), 60)}"
    options = {"seed": manifest.seed, "worst_case": manifest.worst_case or None}
    more = "".join(f", {key}={value!r}" for key, value in options.items() if value is not None)
    asked = f", attacks={list(result.adversaries)!r}" if result.adversaries else ""
    asked += f", corruptions={list(result.corruptions)!r}" if result.corruptions else ""
    given = ", ".join(f"{model!r}: classifier_{place}" for place, model in enumerate(result.models, start=1))
    return "\n".join(
        [
            "import art_classwise as acw",
            "",
            data,
            f"audit = acw.ClassWiseAudit(threat={str(result.threat)!r}{asked}{more})",
            f"result = audit.evaluate({{{given}}}, data)  # ART classifiers",
        ]
    )


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Download(NamedTuple):
    """A file within the page.

    Attributes:
        name: Its name.
        holds: What it holds, in words.
        url: A ``data:`` URL.
        size: In bytes.
    """

    name: str
    holds: str
    url: str
    size: int


def _downloads(result: AuditResult, certificates: Mapping[str, CertifiedResult]) -> list[_Download]:
    """Return the page's tables as CSV files, and how they were made as JSON.

    Numbers have six digits. Names that a spreadsheet would take for a formula begin with an apostrophe.
    """
    tables = [
        (TABLE, "accuracy per model, attack and class, with intervals", result.by_class()),
        ("summary.csv", "a row per model: mean, worst class, disparity measures", report_data(result).summary),
        (
            "confusion.csv",
            "how many examples of each class are predicted as which, under all attacks",
            _confused(result),
        ),
    ]
    if result.corruptions:
        by_model = pd.concat({name: result.by_corruption(name) for name in result.models}, names=["model"])
        tables += [
            ("corruptions.csv", "accuracy per class and corruption, the mean over severities", by_model),
            (
                "corruption_summary.csv",
                "a row per model: mean corruption accuracy, worst class, worst corruption",
                result.corruption_summary(),
            ),
        ]
    if pairs(result):
        by_class = {(one.first, one.second): one.table() for one in pairs(result)}
        tables += [
            ("comparison.csv", "each model compared with the best of the others", comparisons(result).table),
            (
                "comparison_by_class.csv",
                "the most robust model compared with each other one, per class",
                pd.concat(by_class, names=["first_model", "second_model"]),
            ),
        ]
    measured = {one.name: one.distances for one in report_data(result).models if one.distances is not None}
    if measured:
        distances = {name: of.table for name, of in measured.items()}
        at = {name: of.at for name, of in measured.items()}
        tables += [
            (
                "distances.csv",
                "how far away from misclassification each class is",
                pd.concat(distances, names=["model"]),
            ),
            ("robust_at.csv", "robust accuracy per class at several radii", pd.concat(at, names=["model"])),
        ]
    if certificates:
        certified = pd.concat({name: one.certified_at() for name, one in certificates.items()}, names=["model"])
        tables.append(("certified.csv", "certified accuracy per class and radius, with intervals", certified))
    checks = result.checks.set_index("model")
    tables.append(("checks.csv", "each check with its result, and what it could have missed", checks))
    if result.findings:
        rows = [(finding.model, finding.check, finding.saw, finding.advice) for finding in result.findings]
        table = pd.DataFrame(rows, columns=["model", "check", "saw", "advice"]).set_index("model")
        tables.append(("findings.csv", "what looks wrong", table))
    files = [_download(name, holds, "text/csv", _csv(table)) for name, holds, table in tables]
    method = result.sealed[0] if len(result.sealed) == 1 else result.manifest.to_json()
    return [
        *files,
        _download(
            "manifest.json",
            "attacks with all parameters, versions, hardware, commands, and the SHA-256 of each file",
            "application/json",
            method,
        ),
    ]


def _download(name: str, holds: str, kind: str, text: str) -> _Download:
    # Percent-encoded: of mostly digits and commas that is shorter than base64.
    return _Download(name, holds, f"data:{kind};charset=utf-8,{quote(text, safe=' ,:;/()')}", len(text.encode()))


def _csv(table: pd.DataFrame) -> str:
    flat = table.reset_index()
    for column in flat.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in flat.dtypes]]:
        flat[column] = flat[column].astype(object).map(_plain_text)
    return flat.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _plain_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _confused(result: AuditResult) -> pd.DataFrame:
    """Return the confusion matrices of all models as a row per pair that occurs."""
    pairs = []
    for model in result.models:
        counts = result.confusion(model, WORST_CASE, normalize=False)
        of, taken_for = np.nonzero(counts.to_numpy())
        rows = {
            "class": counts.index[of],
            "prediction": counts.columns[taken_for],
            "n": counts.to_numpy()[of, taken_for],
        }
        pairs.append(pd.DataFrame(rows).assign(model=model))
    return pd.concat(pairs).set_index(["model", "class", "prediction"])
