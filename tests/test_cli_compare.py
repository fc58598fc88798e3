"""The command `compare`: what it prints and writes is what the audits say, and what it refuses."""

from __future__ import annotations

import copy
import os

import numpy as np
import pandas as pd
import pytest

import art_classwise as acw
from art_classwise.audit.compare import compare, compare_within, comparison_table
from art_classwise.metrics.comparison import holm


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


def test_many_models_are_compared_with_the_first(command_line, audited):
    result = audited("a", "one", "two", "three")
    code, out, err = command_line("compare", "a", "--out", "pairs.csv")
    assert (code, err) == (0, "")
    read = pd.read_csv("pairs.csv", index_col=["first", "second"])
    expected = comparison_table([result.compare("one", "two"), result.compare("one", "three")])
    pd.testing.assert_frame_equal(read, expected, check_dtype=False)
    assert read["p_adjusted"].to_numpy() == pytest.approx(holm(read["p"]))
    assert max(map(len, out.splitlines())) <= 80
    assert [cells[0] for cells in rows_of(out, "one")] == ["one", "one"]
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


def test_what_cannot_be_compared_is_one_line(command_line, audited, labelled, tmp_path):
    audited("a", "one", "two")
    audited("alone", "one")
    audited("wide", "three", threat="Linf:0.05")
    audited("few", "three", examples=labelled.first(10))
    audited("unfinished", "three")
    next((tmp_path / "unfinished").rglob("*.parquet")).unlink()
    for arguments, says in (
        (("alone",), "One model alone, 'one', can't be compared: alone holds one. Name two models"),
        (("a", "--models", "one"), "One model alone, 'one', can't be compared: a holds one, two"),
        (("a", "--models", "one,tow"), "Unknown model 'tow'. Did you mean two?"),
        (("a", "--models", "one,one"), "'one' can't be compared with itself"),
        (("a", "--attack", "pgd"), "Unknown attack 'pgd'. Did you mean pgd-5?"),
        (("a", "--attacks", "fgsm"), "--attacks takes two names with a comma between, e.g. fgsm,pgd-5"),
        (("a", "--attacks", "fgsm,one"), "Unknown attack 'one'"),
        (("a", "--attacks", "fgsm,pgd-5"), "There are 2 models: say on which"),
        (("a", "--attacks", "fgsm,pgd-5", "--models", "one,two"), "give one folder, and no --models"),
        (("a", "alone", "--attacks", "fgsm,pgd-5"), "give one folder, and no --models"),
        (("a", "--model", "one"), "name them, --attacks X,Y"),
        (("a", "wide", "--models", "one,three"), "'one' was attacked at Linf:0.02 and 'three' at Linf:0.05"),
        (("a", "few", "--models", "one,three"), "of 16 and 10 they share 10"),
        (("a", "few", "--models", "one"), "--models takes a name of each audit"),
        (("alone", "alone"), "are the same network"),
        (("a", "nowhere"), "nowhere"),
        (("a", "unfinished"), "holds an unfinished audit"),
        (("a", "--out", "."), "is a folder: name a file"),
    ):
        code, out, err = command_line("compare", *arguments)
        assert (code, out) == (2, ""), arguments
        assert says in err
        assert err.count("\n") == 1
