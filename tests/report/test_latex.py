"""Tables for LaTeX: they are whole, balanced and escaped."""

from __future__ import annotations

import re

import numpy as np
import pytest
from results import make_result

import art_classwise as acw
from art_classwise.studies import RadiusSweep

AWKWARD = ["R&D 50%", "a_b#c", "[x] {y} $z$", "~^\\<|>", "*é蜂*", "none"]


def checked(text):
    r"""Check what TeX would: environments and braces close, no active character is bare, and rows have all columns."""
    begun = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            begun.append(name)
        else:
            assert begun.pop() == name
    assert not begun
    bare = re.sub(r"(?m)^% root digest [0-9a-f]{64}$", "", text)
    depth, bare = 0, re.sub(r"\\[\\&%$#_{}]", "", bare)
    for c in bare:
        depth += {"{": 1, "}": -1}.get(c, 0)
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"[%#_^~]", bare)
    assert bare.count("$") % 2 == 0
    tables = re.findall(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}(.*?)\\end\{", text, re.DOTALL)
    for columns, body in tables:
        for line in body.splitlines():
            row = re.sub(r"\\[&]", "", line)
            if row.endswith(r" \\"):
                assert row.count("&") == len(columns) - 1
                assert not row.startswith(("[", "*"))
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(tables)
    return tables


@pytest.mark.parametrize("n_classes", [6, 50])
def test_tables_are_whole(n_classes):
    classes = [*AWKWARD[:-1], *[f"class {k}" for k in range(n_classes - 6)], "none"]
    result = make_result(classes, ("one_&", "two"), n=5, attacks=("fgsm", "pgd-20"))
    text = result.to_latex()
    models, *by_class = checked(text)
    assert ("longtable" in text) == (n_classes > 40)
    assert models[1].count(r"\\") == 3
    assert all(len(re.findall(r"& (?:5|\\textbf\{5\}) &", body)) == n_classes - 1 for _, body in by_class)
    for escaped in (r"R\&D 50\%", r"a\_b\#c", r"{[}x] \{y\} \$z\$", r"\textasciitilde{}\textasciicircum{}", "é蜂"):
        assert text.count(escaped) >= 2
    assert r"\textbf{R\&D 50\%}" in text  # the worst class
    assert r"one\_\&" in text
    compared = result.compare("one_&", "two").to_latex()
    ((columns, body),) = checked(compared)
    assert columns == "lrrrrr"
    assert all(total in body for total in ("all examples", "class means", "worst class"))
    assert "$-$" in compared or "0.0" in compared


def test_radii():
    sweep = RadiusSweep(tuple(make_result(AWKWARD, eps=eps) for eps in (0.05, 0.1)))
    ((columns, body),) = checked(sweep.to_latex())
    assert columns == "lrrlr"
    assert body.count(r"\\") == 5


def test_on_the_command_line(command_line, classifier, images, tmp_path):
    data = acw.Dataset(images, np.arange(16) % 4, AWKWARD[:4])
    audit = acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-2"), checks=False, verbose=False, store=tmp_path / "a")
    audit.evaluate({"net": classifier}, data)
    code, out, err = command_line("report", "a", "--latex", "tables/a.tex")
    assert code == 0, err
    assert "tables/a.tex" in out
    assert len(checked((tmp_path / "tables" / "a.tex").read_text(encoding="utf-8"))) == 2
    code, out, err = command_line("compare", "a", "--attacks", "fgsm,pgd-2", "--latex", "c.tex")
    assert code == 0, err
    assert len(checked((tmp_path / "c.tex").read_text(encoding="utf-8"))) == 1
    assert "c.tex" in out
