"""Whether a report's files say what the outcomes say, also where a browser has saved the page as it showed it."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from art_classwise import __version__
from art_classwise.audit.result import AuditResult, read_audit
from art_classwise.audit.store import Store
from art_classwise.certification.kept import read_certificates
from art_classwise.errors import InputError, first_line
from art_classwise.report.page import ABOUT, PICTURE, REPORT, TABLE, render, report_contents

__all__ = ["file_differences", "page_differences"]


def file_differences(store: Store, page: Path | None, unchecked: list[str]) -> Iterator[str]:
    """Yield what the report in an audit's folder says otherwise than its outcomes.

    Args:
        store: The audit's folder.
        page: The page, if it is another file than the folder's own.
        unchecked: Where to say what can't be compared.
    """
    try:
        content = page.read_bytes() if page is not None else _read(store, REPORT)
        text = None if content is None else content.decode("utf-8")
    except (OSError, ValueError) as error:
        yield f"The page can't be read: {first_line(error)}."
        return
    about = {} if text is None else _about(text)
    try:
        result = read_audit(store.address, models=about.get("models"), attacks=about.get("attacks"))
    except InputError as error:
        yield f"The page is of models or attacks that the outcomes aren't of: {error}"
        return
    if text is None:
        unchecked.append("The page: there is none.")
    elif about.get("release") != __version__:
        said = about.get("release", "an earlier release")
        by = {one.versions.get("art-classwise") for one in result.manifest.environments}
        if page is not None or by == {__version__}:  # asked about, or written by this release, which says so in it
            yield f"The page is by {said}, while this is {__version__}, so that nothing shows what it must be."
        unchecked.append(
            f"The page, which is by {said}, while this is {__version__}: `art-classwise report` renews it."
        )
    else:
        certificates = read_certificates(store.address, result)
        yield from page_differences(text, render(result, certificates))
    table = _read(store, TABLE)
    if table is None:
        unchecked.append("The table by_class.csv: there is none.")
    elif about.get("release") == __version__ and table != report_contents(result, [TABLE])[TABLE]:
        yield f"{TABLE} isn't the table of these outcomes."
    yield from _picture(store, result, about, unchecked)


def _picture(store: Store, result: AuditResult, about: dict[str, Any], unchecked: list[str]) -> Iterator[str]:
    there = _read(store, PICTURE)
    if there is None or about.get("release") != __version__:
        unchecked.append(f"The figure {PICTURE}: there is none of this release.")
        return
    made = report_contents(result, [PICTURE])[PICTURE]
    if there == made:
        return
    try:
        versions = [Image.open(io.BytesIO(content)).info.get("Software") for content in (there, made)]
    except (OSError, ValueError, SyntaxError) as error:
        yield f"{PICTURE} is damaged: {first_line(error)}."
        return
    if versions[0] == versions[1]:
        yield f"{PICTURE} isn't the figure of these outcomes."
    else:
        unchecked.append(f"The figure {PICTURE}, which is by {versions[0]}, while this is {versions[1]}.")


def _read(store: Store, name: str) -> bytes | None:
    try:
        return store.folder.read(name)
    except FileNotFoundError:
        return None


def _about(text: str) -> dict[str, Any]:
    """Return what a page says of itself; nothing where it says nothing that is understood."""
    try:
        told = json.loads(_Reading(text).about)
    except ValueError:
        return {}
    names = ("models", "attacks")
    fits = isinstance(told, dict) and all(
        isinstance(told.get(n), list) and all(isinstance(one, str) for one in told[n]) for n in names
    )
    return told if fits else {}


def page_differences(text: str, expected: str) -> Iterator[str]:
    """Yield where a page shows something else than another.

    A browser that saves a page writes down what its scripts have made of it: rows in another order, a field to search
    them by, other white space. That makes no difference here.

    Args:
        text: The page.
        expected: The page that it must be.
    """
    if text == expected:
        return
    saved, made = _Reading(text), _Reading(expected)
    for what in ("scripts", "styles"):
        if getattr(saved, what) != getattr(made, what):
            yield f"The page's {what} are others."
    if saved.active != made.active:
        yield f"The page holds {', '.join(sorted(set(saved.active) - set(made.active))) or 'fewer elements'}."
    if saved.words != made.words:
        place = next(
            (i for i, pair in enumerate(zip(saved.words, made.words, strict=False)) if pair[0] != pair[1]),
            min(len(saved.words), len(made.words)),
        )
        said, must = (" ".join(words[max(0, place - 3) : place + 5]) for words in (saved.words, made.words))
        yield f"The page says {said!r} in place of {must!r}."
    if len(saved.tables) != len(made.tables):
        yield f"The page has {len(saved.tables)} tables in place of {len(made.tables)}."
    for number, (own, other) in enumerate(zip(saved.tables, made.tables, strict=False), start=1):
        if own != other:
            row = next(iter((own - other) or (other - own)))
            yield f"Table {number} of the page differs, in the row {' | '.join(row)!r:.200}."
    if saved.drawn != made.drawn:
        yield "A figure of the page is another."
    for name in sorted(saved.files.keys() | made.files.keys()):
        if saved.files.get(name) != made.files.get(name):
            yield f"The file {name} within the page is another."


_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_ACTIVE = {"iframe", "object", "embed", "base", "form", "link", "audio", "video", "canvas", "template"}


class _Reading(HTMLParser):
    """What a page shows: words, tables, figures, files; and what could make it show something else."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []
        self.tables: list[Counter[tuple[str, ...]]] = []
        self.drawn: list[Any] = []
        self.files: dict[str, str] = {}
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.active: list[str] = []
        self.about = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._row: list[str] | None = None
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in _VOID:
            self._open.append((tag, given))
        self._seen(tag, given)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, dict(attrs))

    def _seen(self, tag: str, given: dict[str, str | None]) -> None:
        if self._is_tool():
            return
        if tag == "script":
            self.scripts.append("")
        elif tag == "style":
            self.styles.append("")
        elif tag == "table":
            self.tables.append(Counter())
        elif tag == "tr" and self._within("tbody"):
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._cell = []
        elif tag == "img":
            self._draw(("img", given.get("src")))
        elif tag == "a" and "download" in given:
            self.files[str(given["download"])] = str(given.get("href"))
        elif tag in _ACTIVE or (tag == "meta" and "http-equiv" in given):
            self.active.append(" ".join([tag, *(str(given[name]) for name in sorted(given))]))
        if tag != "svg" and self._within("svg"):
            self._draw((tag, sorted((name, value) for name, value in given.items() if value)))
        style = given.get("style") or ""
        if style and not self._within("svg") and not style.replace(" ", "").startswith("width:"):
            self.active.append(f"{tag} of style {style}")
        self.active += [f"{tag} with {name}" for name in given if name.startswith("on")]
        if "hidden" in given:
            self.active.append(f"hidden {tag}")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._row is not None and self._cell is not None:
            is_place = "place" in str(self._open[-1][1].get("class")).split() if self._open else False
            self._row.append("" if is_place else " ".join("".join(self._cell).split()))
            self._cell = None
        elif tag == "tr" and self._row is not None:
            self.tables[-1][tuple(self._row)] += 1
            self._row = None
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place][0] == tag:
                del self._open[place:]
                break

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ("", {})
        if inside[0] == "script":
            if inside[1].get("id") == ABOUT:
                self.about += data
            self.scripts[-1] = f"{self.scripts[-1]}{data}".strip()
        elif inside[0] == "style":
            self.styles[-1] = f"{self.styles[-1]}{data}".strip()
        elif self._is_tool():
            return
        elif self._within("svg"):
            for word in data.split():
                self._draw(("text", word))
        elif self._cell is not None:
            self._cell.append(data)
        else:
            self.words += data.split()

    def _draw(self, what: Any) -> None:
        """Note a part of a figure: within a table it belongs to its row, wherever that is sorted to."""
        if self._cell is None:
            self.drawn.append(what)
        else:
            self._cell.append(f" {what} ")

    def _within(self, tag: str) -> bool:
        return any(name == tag for name, _ in self._open)

    def _is_tool(self) -> bool:
        """Whether this is a field to search a table by, or how many rows it shows: scripts add them."""
        added = ("dt-search", "dt-info", "dt-column-order")
        return any(set(str(given.get("class")).split()) & {*added} for _, given in self._open)
