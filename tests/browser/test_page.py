"""The report page in a browser: nothing fetched, nothing broken, usable by anyone."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from results import HOSTILE, make_result

import art_classwise as acw
from art_classwise.audit import AuditResult
from art_classwise.report import render

pytestmark = pytest.mark.browser

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck", "absent"]
MARKUP = "<img src=x onerror=window.hacked=1>"
ENCODED = "&lt;img src=x onerror=window.hacked=2&gt; &amp;"
SCRIPT = "</script><script>window.hacked=3</script>"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def result():
    return make_result(
        CLASSES, models=("mart", "trades", "at", "other", "sixth", "seventh"), attacks=("fgsm", "pgd-20")
    )


@pytest.fixture(scope="session")
def page_file(folder, result):
    return written(folder / "report.html", result)


@pytest.fixture(scope="session")
def hostile_file(folder):
    models = [MARKUP, SCRIPT, ENCODED, "x" * 300, "five", "six"]
    strange = [
        MARKUP,
        ENCODED,
        HOSTILE,
        SCRIPT,
        "y" * 300,
        "very " * 60,
        "\u202egnp.exe",
        "猫" * 30,
        "חתול בית",
        "a\x1b[1mb",
    ]
    classes = [*strange, *(f"class {k}" for k in range(20)), "absent"]
    return written(folder / "hostile.html", make_result(classes, models=models))


@pytest.fixture(scope="session")
def large_file(folder):
    return written(folder / "large.html", make_result([f"n{k:08d}" for k in range(1000)], models=("one", "two"), n=3))


@pytest.fixture(scope="session")
def images_file(folder):
    """The page of an audit of thirty examples by two networks, with attacked images."""
    data = acw.load_dataset("digits", "test").first(30)
    models = {}
    for name, seed in (("one", 0), ("two", 1)):
        network = acw.build("digits-cnn", data.input_shape, 10, seed=seed)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        train = acw.load_dataset("digits", "train").first(300)
        for _ in range(60):
            optimizer.zero_grad()
            logits = network(torch.from_numpy(train.x))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(train.y)).backward()
            optimizer.step()
        models[name] = acw.as_classifier(network, data.input_shape, 10, device="cpu")
    audit = acw.ClassWiseAudit("Linf:0.1", ("fgsm", "pgd-5"), checks=False, verbose=False)
    return written(folder / "images.html", audit.evaluate(models, data).with_images(models, data))


def written(path, result):
    path.write_text(render(result), encoding="utf-8")
    return path


def leaderboard(page):
    return page.locator("table.leaderboard")


def first_class_table(page):
    return page.locator("table.by-class").first


def column(table, head):
    """Texts of a column, from top to bottom, and its head."""
    heads = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    cells = table.locator("tbody tr").evaluate_all(
        "(rows, at) => rows.map(row => row.cells[at].innerText.trim())", heads.index(head)
    )
    return cells, table.locator("thead th").nth(heads.index(head))


def sort(page, cell, by):
    """Sort by a column, and return which way it is sorted then."""
    before = cell.get_attribute("aria-sort")
    if by == "mouse":
        cell.click()
    else:
        cell.locator("[role=button]").focus()
        page.keyboard.press("Enter")
    for _ in range(100):  # the table is sorted once the browser has time
        if cell.get_attribute("aria-sort") != before:
            break
        page.wait_for_timeout(20)
    return cell.get_attribute("aria-sort")


def number(text):
    return float("nan") if text == "–" else float(re.match(r"[\d.]+", text)[0])


def test_figures_and_tables_are_there(opened, page_file, result):
    page = opened(page_file)
    assert page.title() == "Robustness by class: made, Linf:0.1"
    assert leaderboard(page).locator("tbody tr").count() == 6
    assert page.locator("details.model").count() == 6
    assert page.locator("details.model[open] svg").first.is_visible()
    assert page.locator("h1").is_visible()


def test_models_that_tie_stand_in_the_order_of_their_places(opened, folder):
    page = opened(written(folder / "tie.html", tied([f"model {k}" for k in range(6)])))
    for _ in range(3):
        assert column(leaderboard(page), "place")[0] == [str(place) for place in range(1, 7)]
        assert column(leaderboard(page), "model")[0] == [f"model {k}" for k in range(6)]
        sort(page, column(leaderboard(page), "worst")[1], "mouse")


def tied(models):
    """An audit of one outcome, given to each model."""
    made = make_result(CLASSES, models=models)
    one = made.outcomes[made.outcomes["model"] == models[0]]
    outcomes = pd.concat([one.assign(model=name) for name in models], ignore_index=True)
    outcomes["model"] = pd.Categorical(outcomes["model"], categories=models)
    return AuditResult(outcomes, made.manifest)


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_leaderboard_is_ranked_by_any_measure(opened, page_file, result, by):
    page = opened(page_file)
    summary = result.summary()
    for head, measure, best_is_high in (("worst", "worst", True), ("tail 20 %", "tail20", True), ("gap", "mcd", False)):
        _, cell = column(leaderboard(page), head)
        for once_more in (False, True):
            ascending = best_is_high == once_more
            assert sort(page, cell, by) == ("ascending" if ascending else "descending")
            values = [number(text) for text in column(leaderboard(page), head)[0]]
            assert values == pytest.approx(sorted(100 * summary[measure], reverse=not ascending), abs=0.051)
            assert column(leaderboard(page), "place")[0] == [str(place) for place in range(1, 7)]


def test_classes_are_sorted_as_numbers_and_absent_ones_stay_last(opened, page_file):
    page = opened(page_file)
    for head in ("all attacks", "clean", "fgsm"):
        _, cell = column(first_class_table(page), head)
        for _ in range(2):
            sort(page, cell, "mouse")
            texts, _ = column(first_class_table(page), head)
            assert texts[-1] == "–"
            values = [number(text) for text in texts[:-1]]
            assert values in (sorted(values), sorted(values, reverse=True))


def test_search_finds_classes_and_checks(opened, large_file, page_file):
    page = opened(large_file)
    search = page.locator("details.model").first.get_by_label("Search classes")
    search.fill("n00000777")
    assert column(first_class_table(page), "class")[0] == ["n00000777"]
    search.fill("zebra")
    assert first_class_table(page).locator("tbody").inner_text().strip() == "Nothing found"
    search.fill("")
    assert len(column(first_class_table(page), "class")[0]) == 1000
    page = opened(page_file)
    page.get_by_label("Search checks").fill("sixth")
    assert {*column(page.locator("#checks ~ * table, [aria-labelledby=checks] table"), "model")[0]} == {"sixth"}
    assert re.search(r"\d+ checks of \d+", page.locator("[aria-labelledby=checks] .dt-info").inner_text())


def test_small_tables_have_no_search(opened, page_file):
    page = opened(page_file)
    assert leaderboard(page).locator("tbody tr").count() == 6
    assert page.get_by_label("Search models").count() == 0
    assert page.get_by_label("Search classes").count() == 0


@pytest.mark.parametrize("width", [360, 390, 768, 1920])
@pytest.mark.parametrize("which", ["page_file", "hostile_file", "large_file", "images_file"])
def test_page_is_no_wider_than_the_window(opened, request, which, width):
    page = opened(request.getfixturevalue(which), width=width)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing is cut off either: what is wider scrolls within its own region.
    beyond = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => {
            const box = e.getBoundingClientRect();
            return box.width > 1 && box.right > innerWidth + 1 && !e.closest('.scroll, .drawing, .acw-scroll, pre');
        }).map(e => e.outerHTML.slice(0, 200))"""
    )
    assert beyond == []


def test_both_colour_schemes(opened, page_file):
    light, dark = (
        opened(page_file, color_scheme=scheme).evaluate(
            """() => ['body', 'h1', '.card', '.drawing'].map(s => {
                const style = getComputedStyle(document.querySelector(s));
                return [style.backgroundColor, style.color];
            })"""
        )
        for scheme in ("light", "dark")
    )
    assert light[0] == ["rgb(255, 255, 255)", "rgb(21, 24, 27)"]
    for one, other in zip(light, dark, strict=True):
        assert one != other


CONTRASTS = """async () => {
    const channels = (text) => text.match(/[\\d.]+/g).map(Number);
    const over = (top, alpha, ground) => top.map((c, i) => alpha * c + (1 - alpha) * ground[i]);
    const light = (rgb) => rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + [0.2126, 0.7152, 0.0722][i] * c, 0);
    const found = [];
    for (const text of document.querySelectorAll('.drawing svg text')) {
        text.scrollIntoView({block: 'center', behavior: 'instant'});
        const box = text.getBoundingClientRect();
        if (text.closest('details:not([open])')) continue;
        const stack = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        const shapes = stack.filter(e => ['path', 'rect', 'use'].includes(e.tagName)).reverse();
        let ground = channels(getComputedStyle(document.body).backgroundColor).slice(0, 3);
        for (const shape of shapes) {
            const style = getComputedStyle(shape);
            const alpha = Number(style.fillOpacity) * Number(style.opacity);
            if (style.fill !== 'none') ground = over(channels(style.fill).slice(0, 3), alpha, ground);
        }
        const [a, b] = [light(channels(getComputedStyle(text).fill).slice(0, 3)), light(ground)];
        found.push([text.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), ground.join()]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_of_figures_stand_out(opened, page_file, scheme):
    """By WCAG's contrast: 4.5 for words, 3 for the numbers in cells, whose shade says the same."""
    page = opened(page_file, color_scheme=scheme)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 150
    assert len({ground for _, _, ground in found}) > 20  # cells of many shades are among them
    assert [one for one in found if one[1] < 3] == []
    assert [one for one in found if one[1] < 4.5 and not one[0].strip("%").isdecimal()] == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("which", ["page_file", "hostile_file", "images_file"])
def test_letters_of_figures_are_whole_and_large_enough(opened, request, which, width):
    page = opened(request.getfixturevalue(which), width=width)
    outside = page.evaluate(
        """() => [...document.querySelectorAll('.drawing svg text')].filter(text => {
            const [inner, outer] = [text.getBoundingClientRect(), text.closest('svg').getBoundingClientRect()];
            return inner.width && outer.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1
                || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1);
        }).map(text => text.textContent)"""
    )
    assert outside == []
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('.drawing svg')].filter(svg => svg.clientWidth)
            .map(svg => 8.6 * svg.clientWidth / svg.viewBox.baseVal.width))"""
    )
    assert smallest > 9.5  # pixels, of the smallest letters but those in crowded cells
    hidden = page.locator(".drawing").evaluate_all("all => all.filter(e => e.scrollWidth > e.clientWidth + 1).length")
    assert hidden == 0


def test_a_class_opens_and_shows_its_images(opened, images_file):
    page = opened(images_file, width=390, java_script_enabled=False)
    first, second = page.locator("details.acw-class").first, page.locator("details.acw-class").nth(1)
    assert first.locator("img").first.is_visible()
    for image in first.locator("img").all():
        box = image.bounding_box()
        assert box["width"] > 80
        assert abs(box["width"] - box["height"]) < 1
    assert not second.locator("table").is_visible()
    second.locator("summary").click()
    assert second.locator("table").is_visible()
    assert page.locator("details.acw-class img").evaluate_all("all => all.every(i => i.alt && i.naturalWidth === 8)")


def test_many_classes_are_searched_and_few_are_not(opened, large_file, images_file):
    page = opened(large_file)
    shown = page.locator("details.acw-class:visible")
    assert shown.count() == 100
    search = page.get_by_label("Search for a class")
    search.fill("N0000000")  # as the names are, but for the case
    assert {name[:-1] for name in shown.locator(".acw-name").all_inner_texts()} == {"n0000000"}
    search.fill("")
    assert shown.count() == 100
    assert opened(images_file).get_by_label("Search for a class").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("which", "width"), [("images_file", 390), ("page_file", 1280), ("page_file", 360), ("hostile_file", 1280)]
)
def test_axe_finds_no_serious_fault(opened, request, which, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core: make test-browser").Axe()
    page = opened(request.getfixturevalue(which), width=width, color_scheme=scheme)
    found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    told = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
    assert [one for one in told if one[1] in ("serious", "critical")] == []
    assert told == []  # nor any lesser one


def test_all_can_be_reached_by_keyboard(opened, page_file):
    page = opened(page_file)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # seen once it has the focus
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.closest('summary, .scroll, a, input, pre') || {}).tagName"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    assert reached >= {"SUMMARY", "DIV", "A", "INPUT", "PRE"}


def test_headings_are_in_order(opened, page_file):
    page = opened(page_file)
    levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_hostile_names_are_text_after_sorting_and_searching(opened, hostile_file):
    page = opened(hostile_file)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    for table in page.locator("table.sortable").all():
        for head in table.locator("thead th").all():
            head.click()
    for search in page.locator("input[type=search]").all():
        for text in ("onerror", "<img", "&lt;", ""):
            search.fill(text)
    classes, _ = column(first_class_table(page), "class")
    assert {MARKUP, ENCODED, SCRIPT} <= set(classes)
    page.locator("details.model").first.get_by_label("Search classes").fill(MARKUP)
    assert MARKUP in column(first_class_table(page), "class")[0]
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("body script[type=module]").count() == page.locator("body script").count() - 1 == 1


def test_files_hold_the_numbers(opened, page_file, result, folder):
    page = opened(page_file, accept_downloads=True)
    with page.expect_download() as started:
        page.get_by_role("link", name="by_class.csv", exact=True).click()
    assert started.value.suggested_filename == "by_class.csv"
    started.value.save_as(folder / "by_class.csv")
    table = pd.read_csv(folder / "by_class.csv", index_col=["model", "attack", "class"])
    pd.testing.assert_frame_equal(table, result.by_class(), rtol=1e-5, check_index_type=False)


def test_nothing_is_folded_or_cut_in_print(opened, page_file):
    sync_api = pytest.importorskip("playwright.sync_api")
    page = opened(page_file)
    assert page.locator("details.model:not([open])").count() > 0
    page.emulate_media(media="print")
    folded_away = page.locator("details.model:not([open])")
    sync_api.expect(folded_away).to_have_count(0)
    assert page.locator("table.by-class tbody tr").count() == 6 * len(CLASSES)
    assert page.locator("table.by-class tbody tr:visible").count() == 6 * len(CLASSES)
    cut = "all => all.filter(e => getComputedStyle(e).overflowX !== 'visible').length"
    assert page.locator(".scroll, .drawing").evaluate_all(cut) == 0
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 within its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="screen")
    sync_api.expect(folded_away).not_to_have_count(0)


def test_link_to_a_folded_model_opens_it(opened, page_file):
    page = opened(page_file)
    last = page.locator("details.model").last
    assert last.get_attribute("open") is None
    leaderboard(page).locator("tbody tr").last.get_by_role("link").click()
    last.locator(".dt-container").wait_for()  # the table within became sortable
    assert last.get_attribute("open") is not None
    assert last.locator("h3").is_visible()


def test_a_thousand_classes_can_be_used(opened, large_file):
    page = opened(large_file)
    table = first_class_table(page)
    assert table.locator("tbody tr").count() == 1000
    box = page.locator(".scroll.tall").first.bounding_box()
    assert box["height"] < 700  # scrolls within


def test_without_scripts_the_tables_are_there(opened, page_file):
    page = opened(page_file, java_script_enabled=False)
    assert leaderboard(page).locator("tbody tr").count() == 6
    assert leaderboard(page).is_visible()
    assert first_class_table(page).is_visible()
    assert page.locator(".dt-search").count() == 0
    page.locator("details.model").last.locator("summary").click()
    assert page.locator("table.by-class").last.is_visible()
