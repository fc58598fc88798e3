from __future__ import annotations

import csv
import dataclasses
import math
import re
import subprocess
import sys
from importlib.metadata import distribution
from importlib.resources import files

import numpy as np
import pytest

from art_classwise import InputError
from art_classwise.zoo import robustbench, robustbench_names
from art_classwise.zoo.robustbench import published, robustbench_table

ZOO = [
    ("cifar10", "Linf"),
    ("cifar10", "L2"),
    ("cifar10", "corruptions"),
    ("cifar100", "Linf"),
    ("cifar100", "corruptions"),
    ("imagenet", "Linf"),
    ("imagenet", "corruptions"),
]


def readme() -> dict[tuple[str, str, str], tuple[float, float]]:
    """The tables of RobustBench's README, which its wheel carries: clean accuracy and the one it ranks by."""
    found, dataset, threat = {}, "", ""
    for line in (distribution("robustbench").read_text("METADATA") or "").splitlines():
        if heading := re.match(r"### (CIFAR-10|CIFAR-100|ImageNet)\s*$", line):
            dataset = heading[1].lower().replace("-", "")
        elif heading := re.match(r"#### (?:Common )?(Linf|L2|Corruptions)", line):
            threat = heading[1].replace("C", "c")
        elif line.startswith("| <sub>**"):
            cells = [re.sub(r"</?su[bp]>", "", cell).strip(" *%") for cell in line.split("|")]
            found[dataset, threat, cells[2]] = (float(cells[4]), float(cells[5]))
    return found


@pytest.mark.skipif(distribution("robustbench").version != "1.1.1", reason="the numbers are those of 1.1.1")
def test_numbers_are_those_of_robustbench():
    tables = readme()
    assert len(tables) == 76 + 21 + 17 + 38 + 12 + 30 + 12
    for (dataset, threat, name), (clean, ranked) in tables.items():
        ours = published(name, dataset, threat)
        assert 100 * ours.clean == pytest.approx(clean)
        assert 100 * (ours.robust if ours.external is None else ours.external) == pytest.approx(ranked)


def test_every_row_is_of_a_model_and_in_range():
    rows = list(csv.DictReader((files("art_classwise.zoo") / "published.csv").read_text().splitlines()))
    keys = [(row["dataset"], row["threat_model"], row["name"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {key[:2] for key in keys} == set(ZOO)
    for row in rows:
        assert row["source"] in ("README", "README and model_info", "model_info")
        in_zoo = row["name"] in robustbench_names(row["dataset"], row["threat_model"])
        assert in_zoo == (row["source"] != "model_info")
        assert 0 <= float(row["robust"]) < float(row["clean"]) < 100
        if row["external"]:  # that is why it is there
            assert float(row["external"]) < float(row["robust"])
        if row["name"] in ("Atzmon2019Controlling", "Xiao2020Enhancing"):  # as the leaderboard says below their names
            assert row["eps"] == "0.031"
            continue
        assert row["eps"] == {"Linf": "4/255" if row["dataset"] == "imagenet" else "8/255", "L2": "0.5"}.get(
            row["threat_model"], ""
        )


@pytest.mark.parametrize(("dataset", "threat"), ZOO)
def test_table_has_the_zoo_s_models_and_no_others(dataset, threat, tmp_path):
    table = robustbench_table(dataset, threat, tmp_path)
    assert sorted(table.index) == sorted(robustbench_names(dataset, threat))
    assert table.index.name == "name"
    assert not table["here"].any()
    robust = table["robust"].dropna().to_numpy()
    assert (np.diff(robust) <= 0).all()
    assert ((table["clean"] > 0.5) & (table["clean"] < 1)).all()


def test_what_was_published_of_known_models():
    fast = published("Wong2020Fast")
    assert dataclasses.astuple(fast) == ("PreActResNet-18", 0.8334, 0.4321, None, 8 / 255)
    kang = published("Kang2021Stable")  # a transfer attack broke more than AutoAttack
    assert (kang.robust, kang.external) == (0.7128, 0.6420)
    assert published("Wang2023Better_WRN-70-16", "cifar10", "L2").eps == 0.5
    assert published("AlexNet", "imagenet", "corruptions").eps is None
    assert published("mine") is None
    assert published("Wong2020Fast", "cifar100", "L2") is None  # RobustBench has no such leaderboard


def test_models_without_numbers_come_last(monkeypatch):
    known = {key: value for key, value in robustbench._all().items() if key[2] != "Bartoldson2024Adversarial_WRN-94-16"}
    monkeypatch.setattr(robustbench, "_all", lambda: known)
    last = robustbench_table().iloc[-1]
    assert last.name == "Bartoldson2024Adversarial_WRN-94-16"
    assert math.isnan(last["clean"])
    assert math.isnan(last["robust"])
    assert published(last.name) is None


def test_here_means_all_files(tmp_path):
    folder = tmp_path / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    for file in ("Wong2020Fast.pt", "Chen2020Adversarial.pt_m0.pt", "Chen2020Adversarial.pt_m1.pt"):
        (folder / file).touch()
    (folder / "Debenedetti2022Light_XCiT-S12.pt").touch()  # timm's, laid there by hand
    here = robustbench_table(model_dir=tmp_path)["here"]
    assert set(here.index[here]) == {"Wong2020Fast", "Debenedetti2022Light_XCiT-S12"}
    (folder / "Chen2020Adversarial.pt_m2.pt").touch()
    assert robustbench_table(model_dir=tmp_path).loc["Chen2020Adversarial", "here"]
    assert not robustbench_table("imagenet", model_dir=tmp_path).loc["Standard_R50", "here"]  # torchvision's


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cifar", "Linf"), "Unknown RobustBench data set 'cifar'. Did you mean"),
        (("cifar10", "linf"), "Unknown RobustBench threat model 'linf'. Did you mean Linf"),
    ],
)
def test_unknown_leaderboards(arguments, says):
    with pytest.raises(InputError, match=says):
        robustbench_table(*arguments)
    with pytest.raises(InputError, match=says):
        published("Wong2020Fast", *arguments)


def test_a_leaderboard_that_robustbench_lacks():
    with pytest.raises(InputError, match="has no L2 models for cifar100; it has"):
        robustbench_table("cifar100", "L2")


def test_numbers_need_no_robustbench():
    code = (
        "import sys; from art_classwise.zoo.robustbench import published\n"
        "assert published('Wong2020Fast') and 'robustbench' not in sys.modules and 'timm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
