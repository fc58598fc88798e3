"""What the documentation writes from results: it says what they say."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pandas as pd
import pytest
from places import ROOT


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(markdown: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]


def write(folder, size, **columns) -> None:
    base = {"board": ["cifar10, Linf:2/255", "cifar10, Linf:2/255", "mnist, Linf:0.1"], "model": ["a", "b", "c"]}
    base |= {"dataset": ["cifar10", "cifar10", "mnist"], "family": ["natural", "certified", "adversarial"]}
    base |= {"n": 1000, "clean": 0.9, "mean": [0.5, 0.6, 0.7], "worst_class": ["cat", "dog", "3"], "gap": 0.456}
    base |= {"held_out": [0.126, 0.0, 0.4], "worst_low": 0.0, "worst_high": 0.5, "rank by mean": [2, 1, 1]}
    base |= {"rank by worst class": [1, 2, 1], "mean, pgd-20": [0.51, 0.61, None], "mean, pgd-40": [None, None, 0.71]}
    base |= {"mean, pgd-100x5": 0.11, "mean, autoattack": [None, 0.2, 0.3], "training": "so", "source": "there"}
    base |= {"command": "python evaluations/zoo/published_networks.py", "hardware": "2 cores", "versions": "Python"}
    pd.DataFrame(base | columns).to_csv(folder / f"published_networks_{size}.csv", index=False)


def test_leaderboards_are_those_of_the_evaluation(hooks, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, "PUBLISHED", tmp_path)
    write(tmp_path, "quick")
    written = hooks.leaderboards()
    assert "### cifar10, Linf 2/255" in written
    assert "`python evaluations/zoo/published_networks.py`; 2 cores; Python." in written
    first, second, third = (row for row in rows_of(written) if "→ **" in row[0])
    assert first[0] == "2 → **1**"
    assert first[1:7] == ["`a`", "natural", "1,000", "90", "50", "cat: **13** (0 to 50)"]
    assert first[7:9] == ["46", "51"]
    assert first[-1] == "–"  # AutoAttack wasn't run
    assert (second[-1], third[8]) == ("20", "71")
    told = zip(["cifar10", "cifar10", "mnist"], "abc", strict=True)
    assert rows_of(hooks.networks())[2:] == [[data, f"`{model}`", "so", "there"] for data, model in told]
    write(tmp_path, "full", held_out=[0.2, 0.1, 0.3])
    assert "cat: **20**" in hooks.leaderboards()


def test_the_results_that_are_there_fill_the_page(hooks):
    there = [p for size in ("full", "quick") if (p := hooks.PUBLISHED / f"published_networks_{size}.csv").is_file()]
    table = pd.read_csv(there[0])
    rows = [row for row in rows_of(hooks.leaderboards()) if "→ **" in row[0]]
    assert [row[1] for row in rows] == [f"`{model}`" for model in table["model"]]
    for _, of in table.groupby("board", sort=False):
        assert of["rank by worst class"].is_monotonic_increasing
