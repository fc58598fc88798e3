"""The command `compare`: what it prints and writes is what the audits say, and what it refuses."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len

import art_classwise as acw
from art_classwise.audit.comparison import compare, compare_within, comparison_table
from art_classwise.metrics.comparison import holm
from art_classwise.report.tables import shorten
from art_classwise.report.terminal import print_comparison, print_pairs


@pytest.fixture
def labelled(data, classifier):
    """Examples that the network gets right but for a few, so that there is something to break."""
    y = classifier.predict(data.x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    return acw.Dataset(data.x, y, data.classes)


@pytest.fixture
def networks(network):
    """Three, of which the second and the third hear the first less and less."""
    made = {}
    for i, name in enumerate(("one", "two", "three")):
        other = copy.deepcopy(network)
        rng = np.random.default_rng(i)
        noise = rng.normal(scale=0.15 * i, size=tuple(other[5].weight.shape)).astype(np.float32)
        other[5].weight.data += other[5].weight.data.new_tensor(noise)
        made[name] = acw.as_classifier(other, (3, 6, 6), 4, device="cpu")
    return made


@pytest.fixture
def audited(labelled, networks, tmp_path):
    """Audit networks into a folder."""

    def call(folder, *names, threat="Linf:0.02", attacks=("fgsm", "pgd-5"), examples=labelled):
        audit = acw.ClassWiseAudit(threat, attacks, store=tmp_path / folder, verbose=False)
        return audit.evaluate({name: networks[name] for name in names}, examples)

    return call


def rows_of(out, name):
    """The cells of the table's rows that begin so."""
    after = [line.strip().removeprefix(name).split() for line in out.splitlines() if line.strip().startswith(name)]
    return [[name, *cells] for cells in after if cells and cells[0][-1].isdigit()]  # not the title, nor the notes


def test_two_models_of_a_folder(command_line, audited, tmp_path):
    result = audited("a", "one", "two")
    code, out, err = command_line("compare", "a", "--out", "t/found.csv")
    assert (code, err) == (0, "")
    found = result.compare("one", "two")
    assert "one and two: robust accuracy under all attacks at Linf:0.02" in out
    for name, row in found.by_class.iterrows():
        (cells,) = rows_of(out, str(name))
        assert cells[1] == f"{row['n']:.0f}"
        if row["n"]:
            assert cells[2:4] == [f"{100 * row['first']:.1f}", f"{100 * row['second']:.1f}"]
            assert float(cells[4].replace("\N{MINUS SIGN}", "-")) == pytest.approx(100 * row["difference"], abs=0.051)
    (cells,) = rows_of(out, "all examples")
    assert cells[1:4] == ["16", *(f"{100 * found.overall[side]:.1f}" for side in ("first", "second"))]
    assert max(map(len, out.splitlines())) <= 80
    assert f"table     t{os.sep}found.csv" in out
    found.to_csv(tmp_path / "own.csv")
    assert (tmp_path / "t" / "found.csv").read_text() == (tmp_path / "own.csv").read_text()


def test_worst_classes_come_first(command_line, audited):
    result = audited("a", "one", "two")
    out = command_line("compare", "a")[1]
    told = result.compare("one", "two").by_class
    lowest = told[["first", "second"]].min(axis=1).sort_values(kind="stable", na_position="last")
    found = [line.split()[0] for line in out.splitlines() if line.split()[1:2] and line.split()[1].isdigit()]
    assert found == list(lowest.index)


def test_options_reach_the_comparison(command_line, audited):
    result = audited("a", "one", "two", "three")
    for options, expected in (
        (("--models", "three, one"), compare_within(result, "three", "one")),
        (("--models", "three,one", "--attack", "fgsm"), compare_within(result, "three", "one", attack="fgsm")),
        (("--models", "one,two", "--clean"), compare_within(result, "one", "two", kind="clean")),
        (("--attacks", "fgsm,pgd-5", "--model", "two"), compare_within(result, "fgsm", "pgd-5", model="two")),
        (
            ("--attacks", "fgsm,all attacks", "--model", "two"),
            compare_within(result, "fgsm", "all attacks", model="two"),
        ),
    ):
        code, out, err = command_line("compare", "a", *options, "--out", "found.csv")
        assert (code, err) == (0, "")
        assert expected.about in out
        read = pd.read_csv("found.csv")
        assert read["difference"].to_numpy() == pytest.approx(expected.table()["difference"].to_numpy(), nan_ok=True)
        assert (read["first_name"][0], read["second_name"][0]) == (expected.first, expected.second)


def test_many_models_are_also_compared_with_the_best_of_them(command_line, audited):
    """Which one is the best is known from the outcomes alone: of that the first table knows nothing."""
    result = audited("a", "one", "two", "three")
    code, out, err = command_line("compare", "a")
    assert (code, err) == (0, "")
    document = json.loads(command_line("compare", "a", "--json")[1])["compared_with_best"]
    for measure, title in (("mean", "mean over classes, robust accuracy"), ("worst", "worst class, robust accuracy")):
        table = result.compare_with_best(measure=measure)
        assert [row["name"] for row in document[measure]] == list(table.index)
        assert document[measure][0]["p_adjusted"] == table["p_adjusted"].iloc[0]
        shown = out[out.index(title) :]
        for name, row in table.iterrows():
            cells = rows_of(shown, name)[0]
            assert cells[1] == f"{100 * row['accuracy']:.1f}"
            assert cells[-2:] == [f"{row['rank']:.0f}", f"({row['all_ranks_low']:.0f}–{row['all_ranks_high']:.0f})"]
    assert max(map(len, out.splitlines())) <= 80
    assert "compared_with_best" not in json.loads(command_line("compare", "a", "--models", "one,two", "--json")[1])


def test_many_models_are_compared_with_the_first(command_line, audited):
    result = audited("a", "one", "two", "three")
    code, out, err = command_line("compare", "a", "--out", "pairs.csv")
    assert (code, err) == (0, "")
    read = pd.read_csv("pairs.csv", index_col=["first", "second"])
    expected = comparison_table([result.compare("one", "two"), result.compare("one", "three")])
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
    assert read["p_adjusted"].to_numpy() == pytest.approx(holm(read["p"]))
    assert max(map(len, out.splitlines())) <= 80
    pairs, _, _ = out.partition("mean over classes,")
    assert [cells[0] for cells in rows_of(pairs, "one")] == ["one", "one"]
    code, out, _ = command_line("compare", "a", "--models", "three,one,two", "--out", "pairs.csv")
    assert [*pd.read_csv("pairs.csv")["second"]] == ["one", "two"]


def test_two_folders(command_line, audited):
    first, second, third = audited("a", "one"), audited("b", "two"), audited("c", "one", "three")
    code, out, err = command_line("compare", "a", "b", "--out", "found.csv")
    assert (code, err) == (0, "")
    assert pd.read_csv("found.csv")["low"].to_numpy() == pytest.approx(
        compare(first, second).table()["low"].to_numpy(), nan_ok=True
    )
    code, out, _ = command_line("compare", "b", "c", "--models", "two,three")
    assert "two and three: robust accuracy" in out
    command_line("compare", "b", "c", "--out", "pairs.csv")
    expected = comparison_table([compare(second, third, models=("two", name)) for name in ("one", "three")])
    pd.testing.assert_frame_equal(pd.read_csv("pairs.csv", index_col=["first", "second"]), expected, check_dtype=False)
    # "one" lies in both: it isn't compared with itself, and a name says of which folder it is.
    code, out, err = command_line("compare", "a", "c")
    assert (code, err) == (0, "")
    assert "a/one and c/three: robust accuracy" in out


def test_names_of_others_move_no_cursor(command_line, audited, labelled):
    hostile = acw.Dataset(labelled.x, labelled.y, ("[red]ant", "b\x1b[2Jee", "cow", "doe"))
    audited("a", "one", "two", examples=hostile)
    code, out, _ = command_line("compare", "a")
    assert code == 0
    assert "\x1b[2J" not in out
    assert "[red]ant" in out


def test_models_named_like_attacks(command_line, labelled, networks, tmp_path):
    audit = acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-5"), store=tmp_path / "a", verbose=False)
    result = audit.evaluate({"fgsm": networks["one"], "pgd-5": networks["two"]}, labelled)
    code, out, err = command_line("compare", "a")
    assert (code, err) == (0, "")
    assert "fgsm and pgd-5: robust accuracy under all attacks" in out
    code, out, err = command_line("compare", "a", "--attacks", "fgsm,pgd-5", "--model", "pgd-5", "--out", "t.csv")
    assert (code, err) == (0, "")
    assert "fgsm and pgd-5: robust accuracy of pgd-5 at" in out
    expected = result.compare("fgsm", "pgd-5", model="pgd-5").table()["difference"]
    assert pd.read_csv("t.csv")["difference"].to_numpy() == pytest.approx(expected.to_numpy(), nan_ok=True)


def test_names_may_hold_commas(command_line, labelled, networks, tmp_path):
    audit = acw.ClassWiseAudit("Linf:0.02", "fgsm", store=tmp_path / "a", verbose=False)
    audit.evaluate({"one": networks["one"], "two, wide,r": networks["two"], "three": networks["three"]}, labelled)
    for text, names in (
        ("one,two, wide,r", ["one / two, wide,r"]),
        (" two, wide,r , three", ["two, wide,r / three"]),
        ("three,two, wide,r,one", ["three / two, wide,r", "three / one"]),
    ):
        code, _, err = command_line("compare", "a", "--models", text, "--out", "t.csv")
        assert (code, err) == (0, "")
        read = pd.read_csv("t.csv")
        first, second = ("first", "second") if len(names) > 1 else ("first_name", "second_name")
        assert [*dict.fromkeys(f"{row[first]} / {row[second]}" for _, row in read.iterrows())] == names
    code, _, err = command_line("compare", "a", "--models", "one,two, wide")
    assert code == 2
    assert "Unknown model 'two'" in err


# What is printed.


def printed(capsys, show, *arguments):
    show(*arguments)
    out = capsys.readouterr().out
    assert max(map(cell_len, out.splitlines())) <= 80
    return out


def widest(comparison, **names):
    """With the longest numbers that can be, and a class whose name is long."""
    worst = {"difference": -1.0, "low": -1.0, "high": -1.0, "first": 1.0, "second": 1.0}
    labels = dict.fromkeys(comparison.by_class.index[:1], "长" * 20)
    by_class = comparison.by_class.assign(n=50_000, p_adjusted=0.1234, **worst).rename(index=labels)
    rest = {
        name: pd.Series({**getattr(comparison, name), **worst}, dtype=object)
        for name in ("overall", "mean", "worst_class")
    }
    return replace(comparison, by_class=by_class, n=50_000, **rest, **names)


NAMES = ("Rebuffi2021Fixing_28_10_cutmix_ddpm", "Rebuffi2021Fixing_70_16_cutmix_ddpm")


@pytest.mark.parametrize("names", [NAMES, ("对抗训练网络第一版本", "对抗训练网络第二版本"), ("fgsm", "all attacks")])
def test_no_digit_is_cut(audited, capsys, names, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = widest(audited("a", "one", "two").compare("one", "two"), first=names[0], second=names[1])
    out = printed(capsys, print_comparison, found)
    numbers = "100.0", "100.0", "\N{MINUS SIGN}100.0 (\N{MINUS SIGN}100.0 to \N{MINUS SIGN}100.0)", ".123"
    rows = [line.rstrip() for line in out.splitlines() if "(" in line]
    assert len(rows) == 4 + 3
    for line in rows[:4]:
        assert line.split("50000")[1].split() == " ".join(numbers).split()
    assert "长…长" in out.replace("长长", "长")
    pairs = [found] * 3
    out = printed(capsys, print_pairs, comparison_table(pairs), pairs)
    assert out.count("(\N{MINUS SIGN}100.0 to \N{MINUS SIGN}100.0)") == 6
    assert out.count(" 100.0") == 6


def test_names_that_look_alike_when_cut(audited, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = replace(audited("a", "one", "two").compare("one", "two"), first=NAMES[0], second=NAMES[1])
    out = printed(capsys, print_comparison, found)
    heads = next(line for line in out.splitlines() if "worst first" in line)
    assert heads.split() == ["worst", "first", "n", "first", "second", "difference", "p"]
    assert "difference: first minus second" in " ".join(out.split())
    for name in NAMES:
        assert name in " ".join(out.split())
    out = printed(capsys, print_pairs, comparison_table([found] * 2), [found] * 2)
    cells = "".join(line.strip().split("  ")[0] for line in out.splitlines())
    for name in NAMES:  # in full, over two lines
        assert cells.count(name) == 2
    attacks = replace(found, first="fgsm", second="all attacks")
    assert "all attacks" in printed(capsys, print_comparison, attacks).split("\n", 1)[1].split("worst first")[1]


def test_names_are_cut_by_the_cells_they_take():
    assert shorten("对抗训练", 8) == "对抗训练"
    for text in ("对抗训练网络第一版本", "a对抗训练网络第一版本b", "a" * 50):
        for length in range(3, 20):
            short = shorten(text, length)
            assert cell_len(short) <= length
            start, end = short.split("…")
            assert text.startswith(start)
            assert text.endswith(end)
    assert shorten("abcdefghijk", 7) == "abc…ijk"


def test_it_is_said_that_attacks_count_with_those_before(command_line, labelled, networks, tmp_path):
    for folder, worst_case in (("a", False), ("b", True)):
        options = {"store": tmp_path / folder, "verbose": False, "worst_case": worst_case}
        acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-5"), **options).evaluate(networks, labelled)
        for names, attack, said in (
            ("one,two", "pgd-5", worst_case),
            ("one,two,three", "pgd-5", worst_case),
            ("one,two,three", "all attacks", False),
        ):
            _, out, _ = command_line("compare", folder, "--models", names, "--attack", attack)
            assert ("each attack with those before it" in " ".join(out.split())) == said


def test_what_cannot_be_compared_is_one_line(command_line, audited, labelled, tmp_path):
    audited("a", "one", "two")
    audited("alone", "one")
    audited("wide", "three", threat="Linf:0.05")
    audited("few", "three", examples=labelled.first(10))
    audited("unfinished", "three")
    next((tmp_path / "unfinished").rglob("*.parquet")).unlink()
    for arguments, says in (
        (("alone",), "A single model, 'one', can't be compared; alone holds one. Name two of its"),
        (("a", "--models", "one"), "A single model, 'one', can't be compared; a holds one, two"),
        (("a", "--models", "one,tow"), "Unknown model 'tow'. Did you mean two?"),
        (("a", "--models", "one,one"), "'one' can't be compared with itself"),
        (("a", "--attack", "pgd"), "Unknown attack 'pgd'. Did you mean pgd-5?"),
        (("alone", "--attacks", "fgsm"), "--attacks takes two names separated by a comma, e.g. fgsm,pgd-5"),
        (("a", "--attacks", "fgsm,one", "--model", "one"), "Unknown attack 'one'"),
        (("a", "--attacks", "fgsm,pgd-5", "--attack", "fgsm"), "--attacks can't be combined with --attack or --clean"),
        (("a", "--attacks", "fgsm,pgd-5", "--clean"), "--attacks can't be combined with --attack or --clean"),
        (("a", "--attacks", "fgsm,pgd-5"), "The audit has 2 models: choose one, e.g. --model one"),
        (("a", "--attacks", "fgsm,pgd-5", "--models", "one,two"), "give one folder and no --models"),
        (("a", "alone", "--attacks", "fgsm,pgd-5"), "give one folder and no --models"),
        (("a", "--model", "one"), "also give --attacks X,Y"),
        (("a", "wide", "--models", "one,three"), "'one' was attacked at Linf:0.02 and 'three' at Linf:0.05"),
        (("a", "few", "--models", "one,three"), "of 16 and 10 they share 10"),
        (("a", "few", "--models", "one"), "--models takes one name of each audit"),
        (("alone", "alone"), "are the same network"),
        (("a", "nowhere"), "nowhere"),
        (("a", "unfinished"), "holds an unfinished audit"),
        (("a", "--out", "."), "is a folder: name a file"),
    ):
        code, out, err = command_line("compare", *arguments)
        assert (code, out) == (2, ""), arguments
        assert says in err
        assert err.count("\n") == 1
