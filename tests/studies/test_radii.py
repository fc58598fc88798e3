"""Audits over radii: one audit each, their table and figure, from Python and on the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from results import make_result

import art_classwise as acw
from art_classwise import InputError
from art_classwise.figures import models_by_radius
from art_classwise.report.radii import print_radii, write_radii
from art_classwise.studies import RadiusSweep, audit_over_radii, read_sweep
from art_classwise.studies.radii import parse_threats, radius_folder


@pytest.fixture
def sweep():
    return RadiusSweep(tuple(make_result(["ant", "bee", "cow", "none"], eps=eps) for eps in (0.05, 0.1, 0.3)))


def test_radii_are_read_and_sorted():
    assert [str(t) for t in parse_threats("linf:12/255, 4/255,8/255")] == ["Linf:4/255", "Linf:8/255", "Linf:12/255"]
    assert parse_threats("L2:0.5") == (acw.ThreatModel("L2", 0.5),)
    assert parse_threats([acw.ThreatModel("L1", 12), "L1:3"]) == (acw.ThreatModel("L1", 3), acw.ThreatModel("L1", 12))
    assert radius_folder(acw.ThreatModel("Linf", 8 / 255)) == "Linf-8_255"
    for text, says in (
        ("Linf:8/255,L2:1", "of one norm, but are Linf:8/255 and L2:1"),
        ("Linf:0.1,0.1", "Linf:0.1 stands twice"),
        ("Linf:0.1,", "must be a number or a fraction"),
        ("0.1,0.2", "A threat model is written"),
    ):
        with pytest.raises(InputError, match=says):
            parse_threats(text)


def test_each_radius_is_the_audit_of_itself(classifier, images, tmp_path):
    data = acw.Dataset(images, np.arange(16) % 4, list("abcd"))
    options = {"checks": False, "verbose": False}
    told = []
    found = audit_over_radii(
        *({"net": classifier}, data, "Linf:0.2,0.01", "fgsm"),
        **{"store": tmp_path / "s", "finished": lambda result, folder: told.append((result, folder)), **options},
    )
    assert [str(r.threat) for r in found.results] == ["Linf:0.01", "Linf:0.2"]
    assert told == list(zip(found.results, [str(tmp_path / "s" / f"Linf-{e}") for e in ("0.01", "0.2")], strict=True))
    for result, folder in told:
        alone = acw.ClassWiseAudit(result.threat, "fgsm", **options).evaluate({"net": classifier}, data)
        for other in (alone, acw.read_audit(folder)):
            pd.testing.assert_frame_equal(result.outcomes, other.outcomes)
    with pytest.raises(InputError, match="two radii or more"):
        audit_over_radii({"net": classifier}, data, "Linf:0.1", "fgsm", **options)


def test_a_sweep_is_read_without_the_radii_that_are_not_finished(classifier, images, tmp_path):
    data, store = acw.Dataset(images, np.arange(16) % 4, list("abcd")), tmp_path / "s"
    options = {"checks": False, "verbose": False}
    with pytest.raises(InputError, match="holds no audits at several radii"):
        read_sweep(store)
    found = audit_over_radii({"net": classifier}, data, "Linf:8/255,0.2,1e-5", "fgsm", store=store, **options)
    (store / "Linf-9_255").mkdir()  # holds no audit
    (store / "other-1").mkdir()
    for one, other in zip(found.results, read_sweep(store).results, strict=True):
        assert one.threat == other.threat
        pd.testing.assert_frame_equal(one.outcomes, other.outcomes)
    for path in (store / "Linf-0.2").rglob("*fgsm*/*.parquet"):
        path.unlink()
    with pytest.warns(UserWarning, match=r"The audits at Linf:0.2 aren't finished"):
        assert [str(r.threat) for r in read_sweep(store).results] == ["Linf:1e-05", "Linf:8/255"]
    for path in (store / "Linf-8_255").rglob("*fgsm*/*.parquet"):
        path.unlink()
    with pytest.raises(InputError, match=r"at Linf:8/255, Linf:0.2 aren't finished"):
        read_sweep(store)


@pytest.mark.parametrize("radii", ["Linf:0.01,1", "Linf:1,0.01", ["L2:0.1", "L2:100"]])
def test_a_radius_that_is_too_large_is_told_before_any_is_audited(radii, classifier, images, tmp_path):
    data, told = (images, np.arange(16) % 4), []
    with pytest.raises(InputError, match="covers every image"):
        audit_over_radii({"net": classifier}, data, radii, "fgsm", store=tmp_path / "s", finished=told.append)
    assert told == []
    assert not (tmp_path / "s").exists()


def test_the_table_is_counted(sweep):
    table = sweep.table()
    assert table.index.tolist() == [(m, f"Linf:{e}") for m in ("one", "two") for e in ("0.05", "0.1", "0.3")]
    for (model, threat), row in table.iterrows():
        (result,) = [r for r in sweep.results if str(r.threat) == threat]
        rows = result.outcomes[result.outcomes["model"] == model]
        by_class = rows.groupby("label")["withstood"].mean()
        assert row["mean"] == pytest.approx(by_class.mean())
        assert row["worst"] == pytest.approx(by_class.min())
        assert row["worst_class"] == result.classes[by_class.idxmin()]
        assert row["mean_low"] <= row["mean"] <= row["mean_high"]
        assert (row["norm"], row["eps"], row["n"]) == ("Linf", result.threat.eps, 120)


def test_the_figure_shows_the_table(sweep):
    for models in (None, ["two"]):
        ax = models_by_radius(sweep.results, models)
        lines = [line for line in ax.get_lines() if len(line.get_xdata()) == 4]
        names = ["one", "two"] if models is None else models
        assert len(lines) == 2 * len(names)
        for i, line in enumerate(lines):
            rows = sweep.table().loc[names[i // 2]]
            np.testing.assert_allclose(line.get_xdata(), [0, 0.05, 0.1, 0.3])
            np.testing.assert_allclose(line.get_ydata()[1:], 100 * rows["worst" if i % 2 else "mean"])
            assert line.get_ydata()[0] == 100  # all are right without attack
        pyplot.close()
    with pytest.raises(InputError, match="Unknown model 'three'"):
        models_by_radius(sweep.results, ["three"])
    with pytest.raises(InputError, match="two audits or more"):
        models_by_radius(sweep.results[:1])


def test_files_and_terminal(sweep, tmp_path, capsys):
    write_radii(sweep, tmp_path / "here")
    read = pd.read_csv(tmp_path / "here" / "radii.csv", index_col=["model", "threat"])
    pd.testing.assert_frame_equal(read, sweep.table(), check_dtype=False)
    assert (tmp_path / "here" / "radii.png").read_bytes().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []
    print_radii(sweep)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    cells = [line.split() for line in out.splitlines()]
    lines = [line for line in cells if any("–" in cell for cell in line)]
    assert [line[0] for line in lines] == ["one", "0.1", "0.3", "two", "0.1", "0.3"]


def test_the_command_line_goes_on_where_it_was(command_line, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    names = [str(d) for d in range(10)]
    acw.save_checkpoint("m.pt", network, architecture="digits-cnn", classes=names, input_shape=(1, 8, 8))
    words = ("audit", "--model", "m.pt", "--attacks", "fgsm", "--examples", 40, "--no-checks", "--quiet")
    words += ("--threat", "Linf:0.02,0.3", "--out", "runs/r")
    code, out, err = command_line(*words)
    assert code == 0, err
    assert "Robust accuracy in % by radius (Linf)" in out
    for folder in ("Linf-0.02", "Linf-0.3"):
        assert (tmp_path / "runs" / "r" / folder / "report.html").exists()
        assert len(acw.read_audit(tmp_path / "runs" / "r" / folder).outcomes) == 40
    shards = [*(tmp_path / "runs").rglob("*.parquet")]
    before = {path: path.stat().st_mtime_ns for path in shards}
    code, out, err = command_line(*words, "--json")
    told = json.loads(out)
    assert (code, told["kind"], told["schema"]) == (0, "radii", 2)
    assert [audit["eps"] for audit in told["audits"]] == [0.02, 0.3]
    assert [(row["model"], row["threat"]) for row in told["radii"]] == [("m", "Linf:0.02"), ("m", "Linf:0.3")]
    assert told["radii"][1]["mean"] <= told["radii"][0]["mean"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    pages = [tmp_path / "runs" / "r" / folder / "report.html" for folder in ("Linf-0.02", "Linf-0.3")]
    for path in (*pages, tmp_path / "runs" / "r" / "radii.png"):
        path.unlink()
    code, again, err = command_line("report", "runs/r", "--json", "--latex", "t.tex")
    assert code == 0, err
    assert json.loads(again)["radii"] == told["radii"]
    assert all(path.exists() for path in (*pages, tmp_path / "runs" / "r" / "radii.png", tmp_path / "t.tex"))
    code, _, err = command_line(*words[:-4], "--threat", "Linf:0.1,0.2,L2:1")
    assert code == 2
    assert "one radius each" in err
