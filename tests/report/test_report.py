from __future__ import annotations

import re

import pytest
from results import make_result

import art_classwise as acw
from art_classwise.audit import AuditResult
from art_classwise.audit.comparison import comparison_table
from art_classwise.report import print_tables, render
from art_classwise.report.terminal import print_comparison, print_pairs


@pytest.fixture
def result():
    return make_result(["ant", "bee", "cow", "doe"])


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
    rows = [line.split()[0] for line in classes.splitlines() if line.count("(") == 2]  # clean and robust
    assert len(rows) == 2 * 20
    # In the table of each model, and shorter as the worst class of one.
    assert classes.count("\\x1b[31…written") == 2
    assert out.count("\\x1b…tten") == 1
    assert "a rathe…umber 3 " in out  # the end of a long name tells it apart


def test_no_number_is_cut_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    attacks = [f"a{k}" for k in range(12)]
    models = [f"a model whose name is longer than a column {k}" for k in range(3)]
    made = make_result(["automobile", "airplane, small", "none"], models, n=3, attacks=attacks)
    all_right = made.outcomes.assign(withstood=made.outcomes["label"] == 1)
    wide = AuditResult(all_right, made.manifest)  # 0.0 of one class and 100.0 of the other
    print_tables(wide)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert not re.search(r"\d\N{HORIZONTAL ELLIPSIS}", out)
    assert out.count("100.0 (44–100)") == 2 * 3 + 3  # clean of both classes, robust of one
    assert len(re.findall(r"100\.0 *$", out, re.MULTILINE)) == 3  # the gap of each model, last of its row


@pytest.mark.parametrize("n_models", [1, 6, 7])
def test_six_models_have_a_table_each_and_more_a_row_each(n_models, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    models = [f"model-{k}" for k in range(n_models)]
    print_tables(make_result(["ant", "bee", "cow"], models))
    out = capsys.readouterr().out
    assert out.count("\nant ") + out.count("\n ant ") == (n_models if n_models <= 6 else 0)
    assert ("Models:" in out) == (n_models > 1)


def test_terminal_table_is_worst_first_and_absent_last(capsys, result):
    print_tables(result)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    names = [row[0] for row in rows if row and row[0] in result.classes]
    for i, model in enumerate(result.models):
        expected = result.class_table(model)["robust"].sort_values(kind="stable").index.tolist()
        assert names[4 * i : 4 * i + 4] == expected
    assert [row for row in rows if row and row[0] == "doe"] == [["doe", "0", "–", "–", "–"]] * 2


@pytest.mark.parametrize(("worst_case", "finished"), [(False, True), (True, True), (False, False)])
def test_pages_and_tables_say_what_kind_of_audit_it_was(classifier, data, worst_case, finished, capsys):
    made = acw.ClassWiseAudit("Linf:0.02", ["fgsm", "pgd-2"], verbose=False).evaluate({"net": classifier}, data)
    other = AuditResult(
        made.outcomes, made.manifest.updated(worst_case=worst_case), () if finished else ("one: no attack.",)
    )
    page = render(other)
    assert ("under it and all before it" in page) == worst_case
    assert ("The audit isn't finished" in page) == (not finished)
    print_tables(other)
    shown = " ".join(capsys.readouterr().out.split())
    assert ("each attack with those before it" in shown) == worst_case


def test_a_pipe_gets_all_columns_rows_and_names(capsys, monkeypatch):
    """No terminal, and no COLUMNS: nothing is cut, folded or left out."""
    monkeypatch.delenv("COLUMNS")
    classes = [f"a rather long name of a class, number {k}" for k in range(30)] + ["none"]
    models = [f"a model whose name is longer than any column, number {k}" for k in range(7)]
    attacks = [f"attack-{k}" for k in range(14)]
    made = make_result(classes, models, n=3, attacks=attacks)
    print_tables(made)
    out = capsys.readouterr().out
    assert "…" not in out
    assert "more classes" not in out
    assert "more attacks" not in out
    lines = [line.split() for line in out.splitlines()]
    for model in models:
        assert f"{model}: accuracy" in out
        (row,) = [line for line in lines if " ".join(line).startswith(f"{model} ") and "(" in " ".join(line)]
        assert str(made.worst_class(model)["class"]) in " ".join(row)
    heads = [line for line in lines if line[:2] == ["class", "n"]]
    assert heads == [["class", "n", "clean", *attacks, "all", "attacks"]] * len(models)
    for name in classes[:-1]:
        of_class = [line for line in lines if " ".join(line).startswith(f"{name} ")]
        assert len(of_class) == len(models)
        for line in of_class:
            assert len(line) == len(name.split()) + 1 + 2 + len(attacks) + 2  # n; clean and all attacks, intervals


def test_comparisons_in_a_pipe_have_all_rows_and_names(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    classes = [f"a rather long name of a class, number {k}" for k in range(30)] + ["none"]
    models = [f"a model whose name is longer than any column, number {k}" for k in range(3)]
    result = make_result(classes, models, n=3)
    found = [result.compare(models[0], other) for other in models[1:]]
    print_comparison(found[0])
    out = capsys.readouterr().out
    assert all(out.count(f"{name} ") >= 1 for name in (*classes[:-1], *models[:2]))
    assert "more classes" not in out
    print_pairs(comparison_table(found * 15), found * 15)
    out = capsys.readouterr().out
    assert [out.count(f"{name} ") for name in models] == [30, 15, 15]
    assert "…" not in out
