from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from results import HOSTILE, make_result

import art_classwise as acw
from art_classwise.audit import AuditResult
from art_classwise.report import print_tables, render, write_report


class Page(HTMLParser):
    """Tags with attributes, and the text of each table cell."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self._cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cells.append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data


@pytest.fixture
def result():
    return make_result(["ant", "bee", "cow", "doe"])


def test_page_holds_the_numbers_of_the_tables(result):
    page = Page(render(result))
    for model in result.models:
        for name, row in result.class_table(model).iterrows():
            cells = page.cells
            if row["n"] == 0:
                assert cells[cells.index(name) :][:5] == ["doe", "0", "–", "–", "–"]
                continue
            shown = f"{100 * row['robust']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
            assert shown in cells, (model, name)
    worst = result.class_table("one")["robust"].idxmin()
    assert page.cells[5] == worst  # the first row of the first table: the worst class


def test_page_needs_no_network_and_no_script(result):
    text = render(result)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "img")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:text/csv;base64,"))
    assert "url(http" not in text
    assert "@import" not in text
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_page_escapes_hostile_names():
    result = make_result([HOSTILE, "bee", "cow", "doe"], models=("<img src=x onerror=alert(1)>", "two"))
    text = render(result)
    page = Page(text)
    assert not [t for t, _ in page.tags if t in ("script", "img", "b")]
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert any(HOSTILE in cell for cell in page.cells)


def test_csv_of_the_page_is_the_table(result):
    import base64
    import io

    data = re.search(r"data:text/csv;base64,([A-Za-z0-9+/=]+)", render(result))
    csv = pd.read_csv(io.BytesIO(base64.b64decode(data[1])), index_col=["model", "attack", "class"])
    pd.testing.assert_frame_equal(csv, result.by_class(), check_exact=False, check_index_type=False)


def test_names_in_any_script_are_drawn_without_a_warning(tmp_path, capsys):
    result = make_result(["\N{CJK UNIFIED IDEOGRAPH-732B}", "\N{CJK UNIFIED IDEOGRAPH-72AC}", "x"], models=("only",))
    write_report(result, tmp_path)
    assert "\N{CJK UNIFIED IDEOGRAPH-732B}" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["by_class.csv", "by_class.png", "report.html"]


def test_terminal_tables_fit_80_columns_and_can_not_be_hijacked(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    hostile = "\x1b[31mred\rover\nwritten"
    print_tables(make_result([hostile, *[f"a rather long name of a class, number {k}" for k in range(60)]]))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert "\r" not in out
    assert "41 more classes in by_class.csv" in out
    classes, _, _ = out.partition("Models:")
    rows = [line.split()[0] for line in classes.splitlines() if "(" in line]
    assert len(rows) == 2 * 20
    # Withstands least: in its table, and as the worst class.
    assert out.count("\N{REPLACEMENT CHARACTER}[31mre…written") == 3
    assert "a rathe…umber 3 " in out  # the end of a long name tells it apart


def test_terminal_table_is_worst_first_and_absent_last(capsys, result):
    print_tables(result)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    names = [row[0] for row in rows if row and row[0] in result.classes]
    for i, model in enumerate(result.models):
        expected = result.class_table(model)["robust"].sort_values(kind="stable").index.tolist()
        assert names[4 * i : 4 * i + 4] == expected
    assert [row for row in rows if row and row[0] == "doe"] == [["doe", "0", "–", "–", "–"]] * 2


@pytest.mark.parametrize("told", [{}, {"worst_case": True}, {"unfinished": True}])
def test_pages_and_tables_say_what_kind_of_audit_it_was(classifier, data, told, capsys):
    made = acw.ClassWiseAudit("Linf:0.02", ["fgsm", "pgd-2"], verbose=False).evaluate({"net": classifier}, data)
    other = AuditResult(made.outcomes, made.classes, made.threat, {**made.info, **told})
    page = render(other)
    assert ("under it and all before it" in page) == ("worst_case" in told)
    assert ("The audit isn't finished" in page) == ("unfinished" in told)
    print_tables(other)
    shown = " ".join(capsys.readouterr().out.split())
    assert ("each attack with those before it" in shown) == ("worst_case" in told)
