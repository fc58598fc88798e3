"""What the documentation takes from the rest of the repository, and how links to that become links within the site.

Links are written for the repository: they lead to the file from where they stand, in an editor as on a code forge.
"""

from __future__ import annotations

import csv
import importlib
import posixpath
import re
import subprocess
import sys
from fractions import Fraction
from html import unescape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
TAKEN = (
    "CHANGELOG.md",
    *("evaluations/*.*", "evaluations/*/*.py", "evaluations/results/*/*.*"),
    *("examples/*.ipynb", "examples/*.py"),
    "art_classwise/zoo/*.csv",
    "art_classwise/schemas/*.json",
)
COMMANDS = "<!-- commands -->"
TRAINERS = "<!-- trainers -->"
DATASETS = "<!-- data sets -->"
LEADERBOARDS = "<!-- leaderboards -->"
NETWORKS = "<!-- networks -->"
PUBLISHED = ROOT / "evaluations" / "results" / "published_networks"
RECIPES = "<!-- recipes -->"


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside of docs/."""
    for path in (path for pattern in TAKEN for path in sorted(ROOT.glob(pattern))):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where files stand in the site, and write the command line's reference."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    writers = ((TRAINERS, trainers), (DATASETS, datasets), (LEADERBOARDS, leaderboards), (NETWORKS, networks))
    for mark, written in (*writers, (RECIPES, recipes)):
        if mark in markdown:
            markdown = markdown.replace(mark, written())
    here, lines, fence = _in_repository(page.file.src_uri), [], ""
    for line in markdown.splitlines():
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence:
            line = re.sub(r"(?<=\]\()[^)\s]+(?=\))", lambda link: _in_site(link[0], here, page.file.src_uri), line)
        lines.append(line)
    return "\n".join(lines)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Treat notebooks, whose pages MkDocs leaves as they are: their links, and nothing from elsewhere."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    here = _in_repository(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        path, mark, anchor = _in_site(unescape(found[2]), here, page.file.src_uri).partition("#")
        if not path or ":" in path:
            return found[0]
        target = files.get_file_from_path(posixpath.normpath(posixpath.join(page.file.src_uri, "..", path)))
        if target is None:
            raise ValueError(f"{here} links to {found[2]}, which is not part of the documentation.")
        return f"{found[1]}{target.url_relative_to(page.file)}{mark}{anchor}{found[3]}"

    html = re.sub(r'(<a\b[^>]*?\bhref=")([^"]*)(")', link, html)
    return re.sub(r'<script\b[^>]*\bsrc="https?:[^>]*>\s*</script>', "", html)


def commands() -> str:
    """Return the reference of the command line as Markdown."""
    told = subprocess.run(
        [sys.executable, "-m", "typer", "art_classwise.cli", "utils", "docs", "--name", "art-classwise"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    return unescape(told[told.index("\n## ") :]).replace("$ art-classwise", "art-classwise")


def trainers() -> str:
    """Return the table of training methods, and the reference of their trainers, as Markdown."""
    methods = _table("art_classwise.trainers.catalog", "METHODS")
    rows = [f"| `{m.name}` | `{m.class_name}` | {m.summary} |" for m in methods]
    named = [f"::: art_classwise.trainers.{m.class_name}" for m in methods]
    return "\n".join(["| method | trainer | objective |", "| --- | --- | --- |", *rows, "", "\n\n".join(named)])


def datasets() -> str:
    """Return the table of data sets as Markdown."""
    rows = ["| name | shape, classes | usual threat model | step, number of steps |", "| --- | --- | --- | --- |"]
    for d in _table("art_classwise.datasets.catalog", "DATASETS"):
        shape, step = " x ".join(map(str, d.shape)), Fraction(d.eps_step).limit_denominator(255)
        length = f"{step}" if step.denominator == 255 else f"{d.eps_step:g}"
        rows.append(f"| `{d.name}` | {shape}, {d.n_classes:,} | `{d.threat}` | {length}, {d.steps} |")
    return "\n".join(rows)


def leaderboards() -> str:
    """Return the leaderboards of published networks as Markdown, as their evaluation wrote them."""
    rows = _published()
    parts = []
    for board in dict.fromkeys(row["board"] for row in rows):
        of = [row for row in rows if row["board"] == board]
        dataset, threat = board.split(", ")
        parts += [f"### {dataset}, {threat.replace(':', ' ')}", ""]
        head = ["rank", "network", "trained", "n", "clean", "mean", "worst class, held out"]
        head += ["gap", "PGD", "margin", "1/T = 5", "AutoAttack"]
        parts += [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
        for row in of:
            worst = f"{row['worst_class']}: **{_percent(row['held_out'])}**"
            worst += f" ({_percent(row['worst_low'])} to {_percent(row['worst_high'])})"
            cells = [f"{row['rank by mean']} → **{row['rank by worst class']}**", f"`{row['model']}`", row["family"]]
            cells += [f"{int(row['n']):,}", *(_percent(row[key]) for key in ("clean", "mean")), worst]
            cells += [
                _percent(row["gap"]),
                *(_under(row, kind) for kind in ("pgd", "margin", "tpgd5", "autoattack")),
            ]
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    first = rows[0]
    return "\n".join([*parts, f"`{first['command']}`; {first['hardware']}; {first['versions']}."])


def networks() -> str:
    """Return the list of published networks as Markdown."""
    described = dict.fromkeys((row["dataset"], row["model"], row["training"], row["source"]) for row in _published())
    rows = [f"| {dataset} | `{model}` | {training} | {source} |" for dataset, model, training, source in described]
    return "\n".join(["| data | network | trained | source |", "| --- | --- | --- | --- |", *sorted(rows)])


def _published() -> list[dict[str, str]]:
    """Return the rows of the evaluation's table, of the largest size that has been run."""
    path = next(p for size in ("full", "quick") if (p := PUBLISHED / f"published_networks_{size}.csv").is_file())
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _percent(share: str) -> str:
    return f"{100 * float(share):.0f}" if share else "–"


def _under(row: dict[str, str], kind: str) -> str:
    """Return the mean under the attack of a kind, whatever its number of steps."""
    found = [value for name, value in row.items() if re.fullmatch(rf"mean, {kind}(-\d+)?", name) and value]
    return _percent(found[0]) if found else "–"


def recipes() -> str:
    """Return the table of published recipes as Markdown, a row for all data sets and architectures of one source."""
    rows = ["| method | `--recipe` | networks | source | not verified |", "| --- | --- | --- | --- | --- |"]
    networks: dict[tuple[str, ...], list[str]] = {}
    published = _table("art_classwise.trainers.recipes", "PUBLISHED", items=True)
    for (method, architecture, dataset, name), recipe in published:
        unverified = "" if recipe.verified else recipe.unverified
        networks.setdefault((method, name, recipe.source, unverified), []).append(f"`{architecture}` on {dataset}")
    for (method, name, source, unverified), on in networks.items():
        rows.append(f"| {method} | `{name}` | {', '.join(on)} | {source} | {unverified} |")
    return "\n".join(rows)


def _table(module: str, name: str, *, items: bool = False) -> list[Any]:
    """Return the records of a table of the package in this repository, or pairs of key and record."""
    sys.path.insert(0, str(ROOT))
    try:
        table = getattr(importlib.import_module(module), name)
        return list(table.items() if items else table.values())
    finally:
        sys.path.remove(str(ROOT))


def _in_repository(uri: str) -> str:
    """Return where a page of the site lies in the repository."""
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def _in_site(link: str, here: str, page: str) -> str:
    """Return a link from a file of the repository as one from a page of the site."""
    path, mark, anchor = link.partition("#")
    if not path or ":" in path or path.startswith("/"):
        return link
    target = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    target = "index.md" if target == "README.md" else target.removeprefix("docs/")
    return posixpath.relpath(target, posixpath.dirname(page) or ".") + mark + anchor
