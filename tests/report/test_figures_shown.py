"""Each figure draws the numbers of its table, says what is to be seen, and can be saved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from pictures import FIGURES, history, homing_table, images
from PIL import Image
from results import make_result

from art_classwise import InputError, figures
from art_classwise.attacks import ladder
from art_classwise.audit import AuditResult
from art_classwise.report.figures import ROBUST, WORST

CLASSES = ["ant", "bee", "cow", "doe"]  # the last has no example
ATTACKS = ("fgsm", "pgd-20")


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.fixture
def result():
    return make_result(CLASSES, attacks=ATTACKS)


def dots(ax):
    """The points of all scatter plots, (n, 2), in the order in which they were drawn."""
    return [
        np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())
    ]


def said(ax):
    return " ".join(t.get_text().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ") for t in ax.texts)


def numbers(ax, rows, columns):
    """The texts in the cells of a matrix."""
    cells = {tuple(map(round, t.get_position()))[::-1]: t.get_text() for t in ax.texts if t.get_ha() == "center"}
    return [[cells.get((i, j), "") for j in range(columns)] for i in range(rows)]


def test_heat_map_holds_the_table_and_its_mean_weakest_on_top(result):
    table = result.by_attack("one")
    ax = figures.class_by_attack(table)
    measured = table.dropna().sort_values("all attacks")
    expected = [*measured.to_numpy().tolist(), measured.mean().tolist()]
    assert numbers(ax, 4, 4) == [[f"{100 * value:.0f}" for value in row] for row in expected]
    assert [t.get_text() for t in ax.get_yticklabels()] == [*measured.index, "mean"]
    assert f"worst: {measured.index[0]}" in said(ax)


def test_matrix_holds_shares_of_each_true_class(result):
    shares = result.confusion("one", "fgsm")
    counts = result.confusion("one", "fgsm", normalize=False)
    for matrix in (shares, counts):
        ax = figures.confusion(matrix)
        found = numbers(ax, 4, 4)
        for i, j in np.ndindex(3, 4):
            percent = 100 * counts.iloc[i, j] / counts.iloc[i].sum()
            assert float(found[i][j] or 0) == pytest.approx(percent, abs=0.5 + 1e-9)
            assert found[i][j] != "0"  # zeros would hide the others
        assert found[3] == ["–"] * 4  # of a class without examples nothing is known
        wrong = shares.to_numpy()[:3] * (1 - np.eye(4))[:3]
        i, j = divmod(int(wrong.argmax()), 4)
        assert f"strongest: {CLASSES[i]} → {CLASSES[j]}, {100 * wrong.max():.1f} %" in said(ax)


def test_pairs_of_many_classes_are_the_strongest_ones():
    rng = np.random.default_rng(0)
    counts = pd.DataFrame(rng.multinomial(50, rng.dirichlet(np.ones(30)), 30))
    counts.index = counts.columns = pd.Index([f"c{k}" for k in range(30)])
    ax = figures.confusion(counts)
    off = {(i, j): counts.loc[i, j] / 50 for i in counts for j in counts if i != j}
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([100 * share for share in sorted(off.values(), reverse=True)[:25]])
    pairs = [tuple(t.get_text().split(" → ")) for t in ax.get_yticklabels()]
    assert [100 * off[pair] for pair in pairs] == pytest.approx(widths)
    assert dots(ax)[-1][:, 0] == pytest.approx([100 * off[j, i] for i, j in pairs])


def test_groups_pool_counts_and_not_shares():
    counts = pd.DataFrame([[1, 9, 0], [0, 10, 80], [5, 0, 5]], index=list("abc"), columns=list("abc"))
    ax = figures.group_confusion(counts, {"a": "first", "b": "first", "c": "second"})
    assert numbers(ax, 2, 2) == [["20", "80"], ["50", "50"]]
    with pytest.raises(InputError, match="counts"):
        figures.group_confusion(counts.div(counts.sum(axis=1), axis=0), {"a": "first", "b": "first", "c": "second"})


def test_curves_are_the_historys_and_the_gap_is_shaded():
    table = history(4)
    ax = figures.training_curves(table, classes=CLASSES)
    curves = 100 * table[[f"val_robust_{k}" for k in range(4)]].to_numpy()
    drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 30]
    for k in range(4):
        assert any(np.allclose(y, curves[:, k]) for y in drawn)
    assert any(np.allclose(y, curves.mean(axis=1)) for y in drawn)
    band = ax.collections[0].get_paths()[0]
    for epoch in (1, 15, 30):
        heights = band.vertices[band.vertices[:, 0] == epoch, 1]
        assert [heights.min(), heights.max()] == pytest.approx([curves[epoch - 1].min(), curves[epoch - 1].max()])
    worst = CLASSES[int(curves[24].argmin())]  # epoch 25 was kept
    assert f"epoch 25, which was kept: worst {worst}" in said(ax)
    thick = [line for line in ax.lines if to_hex(line.get_color()).upper() == WORST]
    assert [np.allclose(line.get_ydata(), curves[:, CLASSES.index(worst)]) for line in thick] == [True]


def test_training_accuracies_stand_in_where_there_is_no_validation():
    table = history(3)
    validation = [c for c in table if c.startswith("val_")]
    for given, options in ((table.drop(columns=validation), {}), (table, {"data": "training"})):
        ax = figures.training_curves(given, **options)
        assert "in training" in ax.get_ylabel()
        drawn = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 30]
        assert any(np.allclose(y, 100 * table["robust_0"]) for y in drawn)


def test_histogram_counts_each_class_once_and_ends_in_the_upper_interval(result):
    accuracies = [0.0, 0.0999, 0.1, 0.3, 0.7, 1.0]
    table = pd.DataFrame(
        {"n": 1000, "clean": 1.0, "robust": accuracies, "robust_low": 0.0, "robust_high": 1.0}, index=list("abcdef")
    )
    ax = figures.class_histogram(table)
    assert [bar.get_height() for bar in ax.patches] == [2, 1, 0, 1, 0, 0, 0, 1, 0, 1]
    assert [to_hex(bar.get_facecolor()).upper() == WORST for bar in ax.patches] == [True] + [False] * 9


def test_strength_draws_drop_against_accuracy(result):
    table = result.attack_strength("one", *ATTACKS)
    ax = figures.attack_strength(table)
    measured = table[table["n"] > 0]
    found = np.concatenate(dots(ax))
    expected = 100 * measured[["baseline", "drop"]].to_numpy()
    assert sorted(map(tuple, found.round(9))) == sorted(map(tuple, expected.round(9)))
    assert "same examples" in said(ax)
    apart = figures.attack_strength(result.attack_strength("one", *ATTACKS, split_seed=0))
    assert "same examples" not in said(apart)


def test_norms_are_drawn_against_accuracy_without_excluded_classes(result):
    table = result.class_table("one")
    ax = figures.weight_norms([1.0, 0.0, 3.0, 2.0], table)  # bee was excluded, doe has no example
    found = np.concatenate(dots(ax))
    robust = 100 * table["robust"]
    assert sorted(map(tuple, found)) == [(1.0, robust["ant"]), (3.0, robust["cow"])]


def test_homing_draws_after_and_control_of_each_row():
    for pooled in (False, True):
        table = homing_table(4, False, pooled)
        ax = figures.homing(table)
        rows = table.sort_values("n", ascending=False, kind="stable")
        homed, control = dots(ax)[-2:]
        assert homed[:, 0] == pytest.approx(100 * rows["homed"].to_numpy())
        assert control[:, 0] == pytest.approx(100 * rows["control_homed"].to_numpy(dtype=float))
        filled = next(c for c in ax.collections if len(c.get_offsets()) == len(rows)).get_facecolor()
        beyond = rows["difference_low"].to_numpy(dtype=float) > 0
        assert [to_hex(c).upper() == ROBUST for c in filled] == beyond.tolist()


def test_homing_without_a_control_says_so():
    ax = figures.homing(homing_table(2, False))
    assert "there is no control" in said(ax)
    assert [t.get_text() for t in ax.legend_.get_texts()] == ["without the class"]


def test_comparison_draws_both_accuracies_and_the_interval_from_the_second(result):
    comparison = result.compare("one", "two")
    ax = figures.compared(comparison)
    table = comparison.by_class.dropna(subset=["first"])
    table = table.loc[table[["first", "second"]].min(axis=1).sort_values(kind="stable").index]
    first, second = dots(ax)[-2:]
    whole = [comparison.mean, comparison.worst_class]
    assert first[:, 0] == pytest.approx([100 * row["first"] for row in whole] + list(100 * table["first"]))
    assert second[:, 0] == pytest.approx([100 * row["second"] for row in whole] + list(100 * table["second"]))
    ends = [np.array([p.vertices[:, 0] for p in c.get_paths()]) for c in ax.collections if len(c.get_paths()) == 5]
    expected = 100 * np.clip(table[["low", "high"]].to_numpy() + table[["second"]].to_numpy(), 0, 1)
    assert any(np.allclose(found[2:], expected) for found in ends if found.shape == (5, 2))


def test_colour_marks_the_classes_that_clearly_differ():
    """The first is clearly better on one class, clearly worse on another, and as good on the last."""
    made = make_result([*CLASSES, "eel"])
    better = {("one", "ant"): 0.9, ("two", "ant"): 0.1, ("one", "bee"): 0.1, ("two", "bee"): 0.9}
    whose = zip(made.outcomes["model"], made.outcomes["label"], strict=True)
    share = [better.get((model, made.classes[k]), 0.5) for model, k in whose]
    table = made.outcomes.assign(withstood=made.outcomes["example"] % 40 < 40 * np.array(share))
    ax = figures.compared(AuditResult(table, made.manifest).compare("one", "two"))
    drawn = [c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets())][-2]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    colours = {label: to_hex(colour).upper() for label, colour in zip(labels, drawn.get_facecolors(), strict=True)}
    assert (colours["ant"], colours["bee"]) == (ROBUST, WORST)
    assert colours["cow"] == colours["doe"] not in (ROBUST, WORST)


def test_radius_zero_is_without_attack():
    results = [make_result(CLASSES, ("one",), eps=eps) for eps in (0.1, 0.3)]
    ax = figures.accuracy_by_radius(results)
    curves = [np.array(line.get_data()) for line in ax.lines]
    for name in CLASSES[:3]:
        robust = [100 * r.class_table("one").loc[name, "robust"] for r in results]
        assert any(np.allclose(curve, [[0, 0.1, 0.3], [100, *robust]]) for curve in curves)


def test_gallery_shows_the_pixels_and_how_far_they_moved():
    x, x_adv = images(2)
    ax = figures.gallery(x, x_adv, [0, 1], [0, 2], classes=CLASSES, clean_prediction=[1, 1])
    shown = np.asarray(ax.images[0].get_array())
    middle = np.clip(0.5 + 15 * (x_adv - x), 0, 1)  # 15 * 8 / 255 is the last within [-0.5, 0.5]
    for row in range(2):
        for column, part in enumerate((x, middle, x_adv)):
            top, left = 17 * row, 17 * column
            assert np.allclose(shown[top : top + 16, left : left + 16], part[row].transpose(1, 2, 0), atol=1e-6)
    assert "15" in ax.get_xticklabels()[1].get_text()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["ant\n(seen as bee)", "bee"]
    assert [t.get_text() for t in ax.texts[:2]] == ["ant\n(withstands)", "cow"]


@pytest.mark.parametrize(("ending", "magic"), [("pdf", b"%PDF-"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_saved_by_the_ending_the_same_bytes_each_time(result, tmp_path, ending, magic):
    written = []
    for folder in ("a", "b"):
        path = tmp_path / folder / f"figure.{ending}"
        ax = figures.class_accuracy(result.class_table("one"), title="ant & <bee> $x$")
        figures.save(ax if folder == "a" else ax.figure, path)
        written.append(path.read_bytes())
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert written[0].startswith(magic)
    assert written[0] == written[1]
    if ending == "png":
        with Image.open(tmp_path / "a" / "figure.png") as image:
            assert image.width > 900


def test_what_can_not_be_saved_is_named(result, tmp_path):
    with pytest.raises(InputError, match=r"\.pdf, \.svg or \.png"):
        figures.save(Figure(), tmp_path / "figure.jpg")
    with pytest.raises(InputError, match="matplotlib figure"):
        figures.save(result, tmp_path / "figure.pdf")


def test_panels_have_the_classes_in_one_order():
    """That of the mean over models, whatever each model's own is; the worst class of each stays marked."""
    made = make_result(["ant", "bee", "cow", "doe"], n=20)
    first = made.outcomes["model"] == "one"
    upside_down = made.outcomes["withstood"].where(first, made.outcomes["example"] < 30)  # ant and half of bee
    result = AuditResult(made.outcomes.assign(withstood=upside_down), made.manifest)
    tables = {name: result.class_table(name)["robust"] for name in result.models}
    mean = pd.concat([*tables.values()], axis=1).mean(axis=1).dropna().sort_values(kind="stable")
    figure = figures.models_by_class(result)
    for ax, (name, robust) in zip(figure.axes, tables.items(), strict=True):
        assert [label.get_text() for label in ax.get_yticklabels()] == list(mean.index)
        bars = [bar for bar in ax.patches if bar.get_width() or bar.get_height() == 0.72]
        assert [bar.get_width() for bar in bars] == pytest.approx(100 * robust[mean.index].to_numpy())
        marked = [label.get_text() for label in ax.get_yticklabels() if label.get_fontweight() == "bold"]
        assert marked == [name for name in mean.index if robust[name] == robust.min()], name
        assert ax.get_xlim() == (0, 100)
    order = list(mean.index)[::-1]
    for ax in (
        figures.class_accuracy(result.class_table("one"), order=order),
        figures.confusion(result.confusion("one"), order=order),
        figures.class_by_attack(result.by_attack("one"), order=order),
    ):
        assert [label.get_text() for label in ax.get_yticklabels()][:3] == order
    assert [t.get_text() for t in figures.class_by_attack(result.by_attack("one"), order=order).get_yticklabels()][
        :3
    ] == order
    with pytest.raises(InputError, match="order` names none of the classes"):
        figures.class_accuracy(result.class_table("one"), order=["elk"])


@pytest.mark.parametrize("n_classes", [10, 20, 100])
def test_names_at_the_ends_of_curves_are_apart_and_no_line_crosses_them(n_classes):
    ax = FIGURES["accuracy_by_radius"](n_classes, False)
    ax.figure.canvas.draw()
    names = [text for text in ax.texts if getattr(text, "arrow_patch", None)]
    boxes = [Text.get_window_extent(text).padded(-1) for text in names]  # without its line
    lines = [text.arrow_patch.get_path().transformed(text.arrow_patch.get_transform()) for text in names]
    assert len(names) == 9 if n_classes == 10 else 2 <= len(names) <= 12  # one of ten has no examples
    for i, box in enumerate(boxes):
        for j in range(len(names)):
            if i != j:
                assert not box.overlaps(boxes[j])
                assert not lines[j].intersects_bbox(box, filled=False)


def test_figures_of_the_fast_ladder_say_that_they_are_a_quick_estimate():
    def labels(drawn):
        axes = drawn.axes if isinstance(drawn, Figure) else [drawn]
        return [f"{ax.get_xlabel()} {ax.get_ylabel()}".replace("\n", " ") for ax in axes if ax.axison]

    fast = tuple(ladder("fast", "Linf:0.1"))
    for attacks, attack, estimate in (
        (fast, "all attacks", True),
        (fast, fast[0], False),
        (ATTACKS, "all attacks", False),
    ):
        made = [make_result(CLASSES, attacks=attacks, eps=eps) for eps in (0.1, 0.3)]
        table = made[0].class_table("one", attack)
        drawn = [
            figures.class_accuracy(table),
            figures.class_histogram(table),
            figures.models_by_class(made[0], attack=attack),
            figures.models_by_radius(made, attack=attack),
            figures.accuracy_by_radius(made, "one", attack=attack),
            figures.compared(made[0].compare("one", "two", attack=attack)),
        ]
        if attack == "all attacks":
            drawn.append(figures.class_by_attack(made[0].by_attack("one")))
        for one in drawn:
            assert [("quick estimate of" in text) for text in labels(one)] == [estimate] * len(labels(one))
            assert all("accuracy (%)" in text for text in labels(one))
    clean = make_result(CLASSES, attacks=fast).compare("one", "two", kind="clean")
    assert labels(figures.compared(clean))[0].startswith("clean accuracy")


def test_the_worst_class_of_curves_that_cross_is_named_where_it_is_the_worst():
    """Over all radii taken together, known of all classes: at the audit's own radius it may be the best."""
    made = make_result(["ant", "bee", "cow"], models=("one",), attacks=("fmn",))
    outcomes = made.outcomes.copy()
    half = np.arange(80) % 40 < 20  # of the ants 20 lie nearer, of the bees all in between
    outcomes["distance"] = np.where(outcomes["label"] == 1, 0.11, np.where(half, 0.01, 0.3)).astype(np.float32)
    outcomes["withstood"] = outcomes["distance"] > 0.1
    known = made.manifest.attacks["fmn"].model_copy(update={"parameters": {"class": "MinimumNormAttack"}})
    made = replace(made, outcomes=outcomes, manifest=made.manifest.updated(attacks={"fmn": known}))
    ax = figures.accuracy_by_radius(made)
    text = said(ax)
    assert "worst: bee, 0.0 % at Linf:" in text
    assert "50.0 points below the best, ant" in text
    assert "Linf:0.1 " not in text
