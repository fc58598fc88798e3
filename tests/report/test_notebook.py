"""What a person sees at the end of a notebook's cell and in a Python shell, and in a notebook's bars."""

from __future__ import annotations

import inspect
import pickle
import pydoc
import subprocess
import sys
from html.parser import HTMLParser

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from torch import nn

import art_classwise as acw
from art_classwise.audit.findings import Finding, Findings
from art_classwise.datasets.dataset import LazyImages
from art_classwise.report.tables import interval, percent
from art_classwise.trainers.engine.checkpoint import history_table

HOSTILE = '<script>alert("x")</script>\x1b[31m & $a_b$'


class Page(HTMLParser):
    """The words and tags of some HTML, and whether its tags close."""

    VOID = ("img", "br", "meta", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.tags, self.open = [], [], []
        self.feed(text)
        self.close()
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.words.append(data.strip())


def seen(value) -> Page:
    """What a notebook shows of a value: well-formed, self-contained, without scripts."""
    page = Page(value._repr_html_())
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "link", "object", "form"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag in ("img", "a", "use"):
            target = attributes.get("src") or attributes.get("href") or attributes.get("xlink:href") or ""
            assert target.startswith(("data:image/png;base64,", "#"))
    return page


@pytest.fixture
def two(classifier, data):
    """An audit of two names of networks that answer differently."""
    torch.manual_seed(5)
    second = acw.as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)), (3, 6, 6), 4, device="cpu")
    audit = acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-20"), verbose=False)
    return audit.evaluate({"net": classifier, "line": second}, data)


@pytest.mark.parametrize("show", [repr, lambda value: seen(value).text], ids=["shell", "notebook"])
def test_an_audit_shows_its_finding_and_what_to_ask_next(show, two):
    shown = show(two)
    for name, row in two.summary().iterrows():
        assert name in shown
        for number in (percent(row["mean"]), percent(row["worst"]), percent(row["mcd"]), row["worst_class"]):
            assert number in shown
        assert interval(row["held_out"], row["worst_low"], row["worst_high"]) in shown
    assert "2 models under 2 attacks at Linf:0.02, 16 examples of data (test), 4 classes" in shown
    assert "few examples" in shown
    line = " ".join(shown.split()).partition("Ask next: ")[2]
    for call in (".by_class()", ".worst_class('net')", ".confusion('net', 'pgd-20')", ".compare('net', 'line')"):
        assert call in line
        eval(f"two{call}", {"two": two})  # it can be typed as it stands
    assert ".to_html(" in line


def test_an_audit_of_few_models_is_drawn(two):
    svgs = [attributes for tag, attributes in seen(two).tags if tag == "svg"]
    assert len(svgs) == 1
    assert svgs[0]["role"] == "img"
    many = pd.concat(
        [two.outcomes.astype({"model": str}).assign(model=lambda t, i=i: t["model"] + str(i)) for i in (1, 2)]
    )
    many["model"] = pd.Categorical(many["model"])
    table = seen(acw.AuditResult(many, two.manifest))
    assert "svg" not in {tag for tag, _ in table.tags}
    assert all(name in table.text for name in ("net1", "net2", "line1", "line2"))


def test_two_displays_on_one_page_share_no_ids(result, two):
    ids = [{a["id"] for _, a in seen(r).tags if "id" in a} for r in (result, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert result._repr_html_() == result._repr_html_()  # a notebook run again doesn't change


def test_a_reprs_lines_fit_80_columns(two, data, digits):
    for value in (two, two.compare("net", "line"), two.findings, two.findings[0], data, digits):
        lines = repr(value).splitlines()
        assert lines
        assert max(map(len, lines)) <= 80
        assert all(line == line.rstrip() for line in lines)


def test_names_are_escaped_everywhere(classifier, images):
    classes = (HOSTILE, "b" * 300, "cow", "<b>doe</b>")
    data = acw.Dataset(images, np.arange(16) % 4, classes, name="<i>data</i>")
    audit = acw.ClassWiseAudit("Linf:0.02", ("fgsm",), verbose=False)
    result = audit.evaluate({"<img src=x onerror=alert(1)>": classifier}, data)
    (model,) = result.models
    for value in (result, data, result.findings, result.by_class(), result.summary(), result.class_table(model)):
        page = seen(value)  # which finds no tag that isn't ours
        assert {"i", "b"} & {tag for tag, _ in page.tags} == set()
        assert "\x1b" not in value._repr_html_()
    assert "<img src=x onerror=alert(1)>" in seen(result.summary()).text
    for value in (result, data, result.findings):
        assert "\x1b" not in repr(value)
        assert max(map(len, repr(value).splitlines())) <= 80


def test_a_comparison_shows_the_difference_and_who_differs(two):
    comparison = two.compare("net", "line")
    for shown in (" ".join(repr(comparison).split()), seen(comparison).text):
        difference = f"{100 * comparison.mean['difference']:+.1f}".replace("-", "\N{MINUS SIGN}")
        assert f"net minus line, robust accuracy under all attacks at Linf:0.02: {difference} (" in shown
        for side in ("first", "second"):
            assert f"{comparison.worst_class[f'{side}_class']} {percent(comparison.worst_class[side])}" in shown
        n = int((comparison.by_class["p_adjusted"] < 0.05).sum())
        assert f"more than chance: {f'{n} of 4' if n else 'none'}" in shown


def test_findings_look_the_same_alone_and_together(two):
    assert isinstance(two.findings, tuple)
    assert isinstance(two.findings, Findings)
    assert pickle.loads(pickle.dumps(two.findings)) == two.findings
    for finding in two.findings:
        for part in (finding.check, finding.saw, finding.advice):
            assert part in seen(finding).text
            assert part in seen(two.findings).text
            assert part in " ".join(repr(two.findings).split())
    healthy = Findings()
    assert healthy == ()
    assert repr(healthy) == seen(healthy).text == "Nothing looks wrong."
    assert hash(Finding(None, "a", "b", "c")) == hash(Finding(None, "a", "b", "c"))


def test_a_data_set_shows_its_classes_and_one_example_of_each(digits, data):
    counts = np.bincount(digits.y)
    assert repr(digits).startswith("digits (test): 797 images of 1 x 8 x 8, 10 classes, 77 to 81 of each\n")
    page = seen(digits)
    assert all(f"{k}: {n}" in page.text for k, n in enumerate(counts))
    pictures = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert pictures == [f"an example of {k}" for k in range(10)]
    assert ", 3 to 9 of each, 1 without examples ant: 9, bee: 4, cow: 3, doe: 0" in " ".join(repr(data).split())
    assert len([tag for tag, _ in seen(data).tags if tag == "img"]) == 3
    many = acw.Dataset(np.zeros((1000, 1, 2, 2), np.float32), np.arange(1000), [f"class {k}" for k in range(1000)])
    assert "and 980 more" in " ".join(repr(many).split())
    assert len(seen(many).text) < 2000


def test_an_unreadable_image_takes_the_pictures_only():
    def read(i):
        raise acw.InputError("can't be read")

    data = acw.Dataset(LazyImages(read, np.arange(4), (3, 8, 8)), np.arange(4) % 2, ("a", "b"))
    assert "4 images of 3 x 8 x 8" in seen(data).text


def test_a_spread_over_seeds_is_shown(two):
    spread = acw.spread_over_seeds(two)
    for shown in (repr(spread), seen(spread).text):
        row = spread.summary.loc["worst"]
        assert interval(row["mean"], row["low"], row["high"]) in shown
        assert "2 networks of one recipe under all attacks" in shown


def test_an_exclusion_study_shows_homing(two):
    names = {"net": "all classes", "line": "without ant"}
    rows = two.outcomes.astype({"model": str})
    rows = rows[rows["attack"] == "pgd-20"].assign(
        model=rows["model"].map(names), attack=pd.Categorical(["pgd-20"] * 16 * 2)
    )
    rows = rows[~((rows["model"] == "without ant") & (rows["label"] == 0))]
    rows["model"] = pd.Categorical(rows["model"], categories=list(names.values()))
    audit = acw.AuditResult(rows, two.manifest)
    result = acw.studies.ExclusionResult(audit, ("ant",), None, {})
    for shown in (" ".join(repr(result).split()), seen(result).text):
        assert "Trained without ant, in turn, and attacked by pgd-20 at Linf:0.02" in shown
        table = result.homing(pooled=True)
        if len(table):
            row = table.loc["ant"]
            assert interval(row["homed"], row["low"], row["high"]) in shown
        else:
            assert "No example was moved" in shown


def test_a_repr_never_fails(two):
    broken = acw.AuditResult(pd.DataFrame({"model": pd.Categorical([])}), two.manifest)
    assert repr(broken).startswith("<AuditResult, which can't be shown: ")


# Tables


def tables(result):
    rows = [
        {"epoch": e, "loss": 1 / e, "clean": 0.9, "robust": 0.5, "clean_0": 0.9, "clean_1": 0.9, "robust_0": 0.6}
        | {"robust_1": 0.4 - e / 100}
        for e in range(1, 31)
    ]
    history = history_table(rows, 7)
    by_class = result.by_class()
    return {"history": history, "class_table": result.class_table("net"), "by_class": by_class,
            "summary": result.summary(), "by_group": result.by_group(["x", "y", "x", "y"])}  # fmt: skip


NAMES = ["history", "class_table", "by_class", "summary", "by_group"]


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_pandas_own_in_every_way(name, result, tmp_path):
    """So a user's code and tests can do with them what they do with a DataFrame: a subclass would break some of it."""
    table = tables(result)[name]
    plain = pd.DataFrame(table.to_dict("series"), index=table.index)
    assert type(table) is pd.DataFrame
    for one, other in ((table, plain), (plain, table)):
        pd.testing.assert_frame_equal(one, other)
    again = pickle.loads(pickle.dumps(table))
    pd.testing.assert_frame_equal(again, table)
    assert again.attrs == table.attrs
    assert type(pd.concat([table, table])) is type(table.copy()) is type(table.iloc[:1]) is pd.DataFrame
    assert b"art_classwise" not in pickle.dumps(table)
    table.to_parquet(tmp_path / "t.parquet")
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == len(table)
    assert table.to_csv() == plain.to_csv()
    number = "loss" if name == "history" else "clean"
    assert table.groupby(number, dropna=False).size().sum() == len(table)
    assert repr(table) == repr(plain)


@pytest.mark.parametrize("name", NAMES)
def test_tables_show_percents(name, result):
    table = tables(result)[name]
    page = seen(table)
    assert "%" in page.text
    column = "robust" if name != "summary" else "mean"
    for value in table[column].dropna().tail(10):
        assert percent(value) in page.text
    # What is no longer such a table is shown as pandas shows it.
    derived = table.rename(columns={"clean": "other"})
    assert derived._repr_html_() == pd.DataFrame(derived)._repr_html_()
    table.columns = [f"my {column}" for column in table.columns]
    assert table._repr_html_() == table.copy()._repr_html_()
    with pd.option_context("display.notebook_repr_html", False):
        assert table._repr_html_() is None


def marked(page):
    return [a for _, a in page.tags if "font-weight:bold" in a.get("style", "") and "rgba(213" in a["style"]]


def test_the_worst_class_is_marked(result):
    table = result.class_table("net")
    worst = int((table["robust"] == table["robust"].min()).sum())
    assert len(marked(seen(table))) == 4 * worst  # class, n, clean, robust
    assert f"mean {percent(table['robust'].mean())}" in seen(table).text


def test_a_history_shows_its_last_epochs_and_the_one_that_was_kept(result):
    page = seen(tables(result)["history"])
    epochs = [int(word) for word in page.words if word.isdecimal()]
    assert epochs == [7, *range(19, 31)]
    assert len(marked(page)) == 6
    assert "the weights are those of epoch 7" in page.text
    assert "1: 10.0" in page.text  # the worst class of the last epoch
    assert "13 of 30 epochs" in page.text


def test_fit_returns_a_history_with_a_display(train_set, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    classifier = acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer, device="cpu")
    trainer = acw.AdversarialTrainerStandardPyTorch(classifier, eps=0.1, max_iter=1, verbose=False)
    history = trainer.fit(train_set.x[:64], train_set.y[:64], nb_epochs=2)
    assert "the weights are those of epoch 2" in seen(history).text
    assert type(history) is pd.DataFrame


# Progress


@pytest.mark.slow
def test_in_a_notebook(tmp_path):
    """A kernel runs it: bars are the notebook's own, results are shown rich, and nothing goes to stderr."""
    cells = [
        "import numpy as np, torch, art_classwise as acw\n"
        "x = np.random.default_rng(0).random((16, 3, 6, 6), dtype=np.float32)\n"
        "data = acw.Dataset(x, np.arange(16) % 4, ('ant', 'bee', 'cow', 'doe'))\n"
        "torch.manual_seed(0)\n"
        "net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 4))\n"
        "optimizer = torch.optim.SGD(net.parameters(), lr=0.1)\n"
        "classifier = acw.as_classifier(net, (3, 6, 6), 4, optimizer=optimizer, device='cpu')",
        "acw.AdversarialTrainerStandardPyTorch(classifier, eps=0.02, max_iter=1).fit(data.x, data.y, nb_epochs=2)",
        "result = acw.ClassWiseAudit('Linf:0.02', ['fgsm']).evaluate({'net': classifier}, data); result",
        "result.class_table('net')",
        "result.findings",
        "data",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    held = [cell.outputs for cell in notebook.cells]
    for outputs in held:
        assert not [o for o in outputs if o.output_type == "stream"], outputs
    for number in (1, 2):  # training, audit
        assert any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in held[number])
    for number, word in ((1, "epoch"), (2, "Ask next"), (3, "class"), (4, "few examples"), (5, "16 images")):
        (last,) = [o for o in held[number] if o.output_type == "execute_result"]
        assert word in last.data["text/html"]
        assert last.data["text/plain"]


# What an editor shows


def test_tab_completes_and_help_helps():
    code = (
        "import rlcompleter, art_classwise as acw; print(*rlcompleter.Completer({'acw': acw}).attr_matches('acw.Cl'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {word.removeprefix("acw.").rstrip("(") for word in done.stdout.split()}
    assert names == {"ClassExclusionStudy", "ClassWiseAttack", "ClassWiseAudit"}
    page = pydoc.render_doc(acw.ClassWiseAudit.evaluate, renderer=pydoc.plaintext)
    assert "evaluate(" in page
    assert "Args:" in page
    assert "optional" in inspect.signature(acw.ClassWiseAudit.evaluate).parameters
    assert "load_robustbench" in pydoc.render_doc(acw, renderer=pydoc.plaintext)
