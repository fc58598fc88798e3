"""The report page without a browser: what it holds, that it is whole, and that names stay names."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from results import HOSTILE, make_result

import art_classwise as acw
from art_classwise.audit import AuditResult
from art_classwise.report import render, write_report

DIGITS = [str(k) for k in range(10)]


class Page(HTMLParser):
    """Tags with attributes; tables by their captions, as rows of cell texts; and files by name."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.files, self.texts = [], {}, {}, []
        self._rows, self._into = None, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "download" in attributes:
            self.files[attributes["download"]] = unquote(attributes["href"].partition(",")[2])
        if tag == "caption":
            self._into = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "table":
            self._rows = []

    def handle_endtag(self, tag):
        if tag == "caption":
            self.tables["".join(self._into)] = self._rows
            self._into = None
        elif tag == "table":
            self._rows = None

    def handle_data(self, data):
        self.texts.append(data)
        if self._into is not None:
            self._into.append(data)
        elif self._rows and self._rows[-1]:
            self._rows[-1][-1] += data

    def table(self, begin):
        """The one whose caption begins so: heads, rows by their first cell."""
        (rows,) = [rows for caption, rows in self.tables.items() if caption.startswith(begin)]
        heads, *body = [[" ".join(cell.split()) for cell in row] for row in rows]
        return heads, body

    def csv(self, name, **options):
        return pd.read_csv(io.StringIO(self.files[name]), **options)


@pytest.fixture(scope="module")
def result():
    return make_result(["ant", "bee", "cow", "doe"], attacks=("fgsm", "pgd-20"))


@pytest.fixture(scope="module")
def text(result):
    return render(result)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def shown(value):
    return "–" if np.isnan(value) else f"{100 * value:.1f}"


def test_class_tables_hold_the_numbers_of_the_result_worst_first(result, page):
    for model in result.models:
        heads, rows = page.table(f"{model}: accuracy in percent")
        assert heads == ["class", "n", "clean", "all attacks", "fgsm", "pgd-20"]
        table = result.class_table(model)
        order = table["robust"].sort_values(kind="stable").index
        assert [row[0] for row in rows] == [*order, "zero gradients"]
        for name, n, clean, robust, *under in rows[:-1]:
            of = table.loc[name]
            assert n == f"{of['n']:.0f}"
            if of["n"] == 0:
                assert [clean, robust, *under] == ["–"] * 4
                continue
            assert clean == f"{shown(of['clean'])} ({100 * of['clean_low']:.0f}–{100 * of['clean_high']:.0f})"
            assert robust == f"{shown(of['robust'])} ({100 * of['robust_low']:.0f}–{100 * of['robust_high']:.0f})"
            assert under == [shown(result.class_table(model, a).loc[name, "robust"]) for a in result.attacks]


def test_leaderboard_holds_the_summary_the_most_robust_first(result, page):
    heads, rows = page.table("Accuracy in percent at Linf:0.1")
    assert heads[:9] == ["place", "model", "clean", "robust", "worst", "worst class", "held out", "tail 20 %", "gap"]
    summary = result.summary().sort_values("mean", ascending=False)
    assert [row[1] for row in rows] == list(summary.index)
    for place, (row, (_, of)) in enumerate(zip(rows, summary.iterrows(), strict=True), start=1):
        held = f"{shown(of['held_out'])} ({100 * of['worst_low']:.0f}–{100 * of['worst_high']:.0f})"
        means = [
            f"{shown(of[key])} ({100 * of[f'{key}_low']:.0f}–{100 * of[f'{key}_high']:.0f})"
            for key in ("clean", "mean")
        ]
        assert row[:9] == [
            *(str(place), str(of.name), *means, shown(of["worst"]), of["worst_class"]),
            *(held, shown(of["tail20"]), shown(of["mcd"])),
        ]


def signed(value):
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def test_all_models_are_compared_at_once_with_the_best_one():
    """As many equal models have a best one by chance: nothing on the page may call it better."""
    result = make_result(DIGITS, models=[f"m{k}" for k in range(5)])
    page = Page(render(result))
    heads, rows = page.table("Each model beside the best of the others")
    assert heads == [
        *("model", "rank by mean", "mean over classes", "p", "rank by worst class", "worst class", "p"),
    ]
    for measure, at in (("mean", 1), ("worst", 4)):
        table = result.compare_with_best(measure=measure)
        assert {row[0] for row in rows} == set(table.index)
        for row in rows:
            of = table.loc[row[0]].to_dict()
            assert row[at] == f"{of['rank']:.0f} ({of['all_ranks_low']:.0f}–{of['all_ranks_high']:.0f})"
            low, high = signed(of["difference_low"]), signed(of["difference_high"])
            assert row[at + 1] == f"{signed(of['difference'])} ({low} to {high})"
    best, *others = result.compare_with_best().index
    assert (result.compare_with_best()["p_adjusted"] > 0.05).all()
    assert f"{best} has the highest mean over classes, but {', '.join(others)} may be as good." in page.texts


def test_a_model_that_is_better_is_called_so():
    made = make_result(DIGITS, models=("weak", "strong"), n=100)
    better = made.outcomes.assign(withstood=made.outcomes["withstood"] | (made.outcomes["model"] == "strong"))
    shown = render(AuditResult(better, made.manifest))
    assert "strong has a higher mean over classes than weak, beyond chance." in shown


def test_the_two_most_robust_models_are_compared_by_class(result, page):
    first, second = result.summary().sort_values("mean", ascending=False).index
    comparison = result.compare(first, second)
    _, rows = page.table("Accuracy in percent under all attacks and difference")
    for name, difference, *_, n in rows:
        of = comparison.by_class.loc[name]
        assert n == f"{of['n']:.0f}"
        assert difference.startswith("–" if np.isnan(of["difference"]) else signed(of["difference"]))


def headline(result):
    """The words of the headline and of the paragraph below it."""
    text = render(result)
    parts = [re.search(pattern, text, re.DOTALL)[1] for pattern in ("<h1>(.*?)</h1>", '<p class="lead">(.*?)</p>')]
    return [" ".join(re.sub(r"<[^>]+>", " ", part).replace("&nbsp;", " ").split()) for part in parts]


def test_the_headline_gives_estimates_with_their_intervals():
    result = make_result(["ant", "bee", "cow", "doe"], models=("only",), n=100)
    row = result.summary().loc["only"]
    head, lead = headline(result)
    whole, _, worst = head.partition(", and on ")
    assert whole.startswith(f"only withstands attack on at most {shown(row['mean'])} %")
    assert worst.startswith(f"at most {shown(row['held_out'])} % (")
    assert worst.endswith(") of ant")
    assert "ant is the worst" in lead


def equal_classes(n_classes, n):
    """An audit of classes that are equal but for chance."""
    made = make_result([f"c{k}" for k in range(n_classes + 1)], models=("only",), n=n)
    withstood = np.random.default_rng(0).random(len(made.outcomes)) < 0.5
    return AuditResult(made.outcomes.assign(withstood=withstood), made.manifest)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: equal_classes(500, 5), "differ by no more than chance may make them"),
        (lambda: equal_classes(10, 100), "differ by no more than chance may make them"),
        (lambda: make_result(DIGITS, n=20), "20 examples, the class with the lowest accuracy is too small"),
    ],
    ids=["many small classes", "equal classes", "small classes"],
)
def test_the_headline_names_no_class_that_may_not_be_the_worst(made, reason):
    result = made()
    head, lead = headline(result)
    assert reason in lead
    assert not any(re.search(rf"\b{name}\b", head) for name in result.classes if not name.isdecimal())
    assert head.endswith("of examples, averaged over classes")


def test_findings_come_before_all_else(result, text, page):
    assert [f.check for f in result.findings] == ["few examples"]
    main = text.partition("<main")[2]
    assert main.index('<a href="#findings">few examples</a>') < main.index("<h1>")
    assert main.index("What looks wrong") < main.index('id="models"')
    assert result.findings[0].saw in text
    assert result.findings[0].advice in text
    assert page.csv("findings.csv")["check"].tolist() == ["few examples"]


def test_every_check_is_listed_with_its_result_and_what_it_could_have_missed(result, page):
    heads, rows = page.table("Each check with its result")
    assert heads[:4] == ["check", "model", "looks for", "result"]
    checks = result.checks
    assert {*checks["result"]} == {"found", "nothing found", "not run"}
    expected = checks.fillna({"model": "all"})[["check", "model", "looks_for", "result", "explanation"]]
    assert rows == expected.to_numpy().tolist()
    assert len(page.csv("checks.csv")) == len(checks)
    ran = int((checks["result"] != "not run").sum())
    assert any(f"{ran} of {len(checks)} checks ran, 1 of them found something." in text for text in page.texts)


def test_after_a_strong_attack_accuracy_is_no_upper_bound(monkeypatch):
    made = make_result(["ant", "bee", "cow"], models=("one", "two"), n=100)
    best = made.summary()["mean"].idxmax()
    other = "two" if best == "one" else "one"
    for attacked in ((), (best,), (other,)):
        monkeypatch.setattr(AuditResult, "strongly_attacked", attacked)
        head, lead = headline(AuditResult(made.outcomes, made.manifest))
        assert ("at most" in head) == ("At most" in lead) == (best not in attacked)


def test_page_needs_no_other_file(text, page):
    outside = {"iframe", "object", "embed", "img", "base", "video", "audio", "form"}
    assert not outside & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, name)
    for called in re.findall(r"url\(\s*['\"]?([^)]{0,9})", text):
        assert called.startswith(("#", "data:"))
    assert "@import" not in text
    assert re.search(r"default-src 'none'; .*script-src 'sha256-[\w+/=]+' data:\"", text)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        if attributes.get("href", "").startswith("#m"):
            assert attributes["href"][1:] in ids


def test_names_stay_names_everywhere():
    models = ("<img src=x onerror=alert(1)>", '"><b onmouseover=alert(2)>', "]]></script><i>")
    hostile = make_result([HOSTILE, "</style><u>", "{{ 7 * 7 }}", "doe"], models=models)
    manifest = hostile.manifest
    manifest.parameters("fgsm")["note"] = "<q>"
    hostile = replace(hostile, manifest=manifest.updated(examples=manifest.examples.updated(dataset="</title><s>")))
    page = Page(render(hostile))
    assert not {tag for tag, _ in page.tags} & {"img", "b", "i", "u", "s", "q"}
    about = {"type": "application/json", "id": "about-this-page"}
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [about, {"type": "module"}]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for name in (*models, "{{ 7 * 7 }}"):
        assert name in [attributes.get("title") for _, attributes in page.tags]
    _, rows = page.table(f"{models[0]}: accuracy")
    assert "{{ 7 * 7 }}" in [row[0] for row in rows]
    assert set(page.csv("by_class.csv")["class"]) == set(hostile.classes)


def test_files_hold_the_tables(result, page):
    by_class = page.csv("by_class.csv", index_col=["model", "attack", "class"])
    pd.testing.assert_frame_equal(by_class, result.by_class(), rtol=1e-5, check_index_type=False)
    summary = page.csv("summary.csv", index_col="model")
    pd.testing.assert_frame_equal(summary, result.summary(), rtol=1e-5, check_index_type=False, check_dtype=False)
    confusion = page.csv("confusion.csv", index_col=["model", "class", "prediction"])["n"]
    for model in result.models:
        matrix = result.confusion(model, "all attacks", normalize=False)
        counted = (
            confusion[model].unstack(fill_value=0).reindex(index=matrix.index, columns=matrix.columns, fill_value=0)
        )
        assert (counted.to_numpy() == matrix.to_numpy()).all()
    compared = page.csv("comparison.csv", index_col=["measure", "model"])
    for measure in ("mean", "worst"):
        table = result.compare_with_best(measure=measure)
        pd.testing.assert_frame_equal(compared.loc[measure], table, rtol=1e-5, check_dtype=False)
    assert len(page.csv("comparison_by_class.csv")) == len(result.classes) + 3
    method = json.loads(page.files["manifest.json"])
    assert method == json.loads(result.manifest.to_json())


def test_names_are_no_formulas_in_a_spreadsheet():
    names = ["=1+1", "+cow", "-bee", "@doe", "plain", "absent"]
    page = Page(render(make_result(names, models=("=cmd|' /c calc'!A0", "two"))))
    for file, content in page.files.items():
        if file.endswith(".csv"):
            cells = [cell for row in csv.reader(io.StringIO(content)) for cell in row]
            formulas = [c for c in cells if c[:1] in ("=", "+", "-", "@") and not re.fullmatch(r"-?[\d.e-]+", c)]
            assert formulas == [], file
    assert "'=1+1" in page.csv("by_class.csv")["class"].tolist()


@pytest.mark.slow
def test_twenty_models_stay_below_five_megabytes():
    models = [f"Somebody2024Robust_{k}_WRN-28-10" for k in range(20)]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    ten = [f"attack-{k}" for k in range(10)]  # as many as the standard ladder has
    text = render(make_result(classes, models=models, attacks=ten))
    assert len(text.encode()) < 5e6
    page = Page(text)
    assert len(page.table("Accuracy in percent at")[1]) == 20
    assert sum(tag == "svg" for tag, _ in page.tags) >= 20 * 3


@pytest.mark.parametrize(("n_models", "n_classes"), [(1, 2), (1, 100), (2, 1000)])
def test_pages_of_other_sizes_hold_all_classes(n_models, n_classes):
    names = [f"n{k:08d}" for k in range(n_classes)]
    page = Page(render(make_result(names, models=[f"model {k}" for k in range(n_models)], n=3)))
    for k in range(n_models):
        assert sorted(row[0] for row in page.table(f"model {k}: accuracy")[1][:-1]) == names
    assert bool([c for c in page.tables if c.startswith("Accuracy in percent at")]) == (n_models > 1)


def test_no_command_known_gives_python_that_runs():
    made = make_result(DIGITS, models=("it's",), attacks=("fgsm", "pgd-20"))
    examples = made.manifest.examples.updated(dataset="digits", n=100)
    manifest = made.manifest.updated(commands=(), examples=examples, worst_case=True)
    page = Page(render(AuditResult(made.outcomes, manifest)))
    code = next(t for t in page.texts if t.startswith("import art_classwise"))
    asked = {}

    class Audit:
        def __init__(self, **options):
            asked.update(options)

        def evaluate(self, models, data):
            asked.update(models=models, n=len(data))

    lines = code.replace("acw.ClassWiseAudit", "Audit")
    exec(lines, {"Audit": Audit, "classifier_1": "net"})
    assert asked == {
        **{"threat": "Linf:0.1", "attacks": ["fgsm", "pgd-20"], "seed": 0, "worst_case": True},
        **{"models": {"it's": "net"}, "n": 100},
    }
    assert acw.ThreatModel.parse(asked["threat"]) == made.threat


def test_one_class_per_model_that_ties_and_no_finding():
    made = make_result(["ant", "bee", "doe"], n=100)
    outcomes = made.outcomes.assign(withstood=True, prediction=made.outcomes["label"])
    text = render(AuditResult(outcomes, made.manifest))
    head, _ = headline(AuditResult(outcomes, made.manifest))
    assert re.search(r"100.0 % \(\d+–100\) of examples, averaged over classes$", head)
    assert "What looks wrong" not in text
    assert "Nothing looks wrong. " in text


def test_names_in_any_script_are_drawn_without_a_warning(tmp_path):
    result = make_result(["\N{CJK UNIFIED IDEOGRAPH-732B}", "\N{CJK UNIFIED IDEOGRAPH-72AC}", "x"], models=("only",))
    write_report(result, tmp_path)
    assert "\N{CJK UNIFIED IDEOGRAPH-732B}" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["by_class.csv", "by_class.png", "report.html"]
