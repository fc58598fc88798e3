"""What the evaluations compute beside what they run."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from places import ROOT

import art_classwise as acw


@pytest.fixture
def speed(evaluation):
    return evaluation("speed")


@pytest.fixture
def attack_speed(evaluation):
    return evaluation("attack_speed")


def test_operations_of_a_step_are_those_of_the_literature(attack_speed):
    """ResNet-18 for CIFAR: 0.556e9 multiply-adds forward, as many for the input's gradient; two operations each."""
    classifier = acw.as_classifier(acw.build("resnet18", (3, 32, 32), 10), (3, 32, 32), 10, device="cpu")
    assert attack_speed._flops_per_image(classifier, np.zeros((1, 3, 32, 32), np.float32)) == pytest.approx(
        4 * 0.556e9, rel=0.01
    )


def test_a_row_is_the_median_of_all_rounds(attack_speed):
    one = {"n": 10, "steps": 5, "eps x 255": 8.0, "robust %": None, "FLOP per image": 2e9, "peak MiB": 7.0}
    row = attack_speed.row_of(
        ("pgd-10", "net", "ours"), [one | {"seconds": [1.0, 9.0]}, one | {"seconds": [2.0], "peak MiB": 8.0}]
    )
    assert (row["calls"], row["seconds"], row["fastest"], row["slowest"]) == (3, 2.0, 1.0, 9.0)
    assert (row["images x steps / s"], row["TFLOP/s"], row["peak MiB"]) == (25.0, 0.05, 8.0)


def test_cases_follow_from_the_files_given(speed, attack_speed, tmp_path):
    def benchmarks(*given, only="attacks", cifar10=None):
        arguments = speed._arguments([*given])
        arguments.cifar10 = cifar10
        return [(benchmark, method) for benchmark, _, method in attack_speed.cases(arguments, only)]

    alone = benchmarks()
    assert alone == [("pgd-10", "ART"), ("pgd-10", "ours auto"), ("pgd-10", "ours fp32")]
    assert ("pgd-10", "torchattacks") in benchmarks("--torchattacks", "there")
    assert {b for b, _ in benchmarks(cifar10="x.npz")} == {"pgd-10", "verdict pgd-20"}
    assert {b for b, _ in benchmarks("--checkpoints", "there", cifar10="x.npz")} == {
        *("pgd-10", "verdict pgd-20", "precision")
    }
    full = benchmarks("--size", "full", only="training")
    assert {b for b, _ in full} == {"training, batch 128", "training, batch 512"}
    assert ("training, batch 128", "ours MART compiled") in full


@pytest.mark.parametrize(
    ("case", "n"),
    [
        (("pgd-10", "resnet18", "ours auto"), 2),
        (("training, batch 2", "resnet18", "ours MART"), 2),
    ],
)
@pytest.mark.slow
def test_a_case_in_small(attack_speed, case, n):
    done = attack_speed.time_case(case, "tiny", None, None, None)
    assert (done["n"], done["steps"], len(done["seconds"])) == (n, 10, 2)
    assert all(s > 0 for s in done["seconds"])
    assert done["FLOP per image"] == pytest.approx(4 * 0.556e9 * (1 if case[0] == "pgd-10" else 1.3), rel=0.01)


def row(benchmark, method, seconds, spread=1.0, network="resnet18"):
    times = {"seconds": seconds, "fastest": seconds - spread, "slowest": seconds + spread, "calls": 3}
    return {"benchmark": benchmark, "network": network, "method": method, **times}


def test_what_was_aimed_at_is_beside_what_was_measured(speed):
    table = pd.DataFrame(
        [row("pgd-10", "ART", 40), row("pgd-10", "ours auto", 10), row("pgd-10", "ours fp32", 30, spread=0)]
    )
    fast, exact = speed.claims_of("attacks", table)  # there are no torchattacks and no verdicts
    assert (fast.value, fast.low, fast.high) == pytest.approx((4, 39 / 11, 41 / 9))
    assert (fast.least, fast.verdict) == (3.4, "seen")
    assert exact.value == pytest.approx(40 / 30)
    assert np.isnan(exact.low)  # measured once
    table = pd.DataFrame([row("training, batch 64", m, s) for m, s in (("ART TRADES", 60), ("ours MART", 30))])
    (slow,) = speed.claims_of("training", table)
    assert (slow.value, slow.least, slow.verdict) == (2.0, 3.0, "not seen")


def test_sizes_are_held_against_their_limits(speed):
    memory = pd.DataFrame([{"n": 500, "image": "3 x 224 x 224", "above idle MiB": 2861}])
    (claim,) = speed.claims_of("memory", memory)
    assert (claim.value, claim.verdict) == (pytest.approx(0.5, rel=1e-3), "not seen")
    disk = pd.DataFrame([{"rows": 1_200_000, "disk MB": 15.0}])
    (claim,) = speed.claims_of("disk", disk)
    assert (claim.value, claim.verdict) == (pytest.approx(2), "seen")
    policies = pd.DataFrame({"network": "n", "policy": ["FAAL", "CFA"], "own %": [4.0, 4.0]})
    assert [c.verdict for c in speed.claims_of("policies", policies)] == ["seen", "not seen"]


def test_without_only_all_is_measured_that_there_are_files_for(speed, monkeypatch, tmp_path, capsys):
    asked = []
    for module in set(speed.MEASURES.values()):
        monkeypatch.setattr(module, "measure", lambda arguments, only: asked.append(only) or pd.DataFrame({"n": [1]}))
    monkeypatch.setattr(speed, "claims_of", lambda *_: [])
    monkeypatch.setattr(speed.audit_speed, "lacks", speed.audit_speed.lacks)
    speed.main(["--size", "tiny", "--out", str(tmp_path)])
    assert asked == ["attacks", "training", "policies", "memory", "disk", "import"]
    assert "left out: scaling, which needs --root with cifar10_test.npz and --checkpoints" in capsys.readouterr().err
    asked.clear()
    (tmp_path / "cifar10_test.npz").touch()
    given = ["--root", str(tmp_path), "--checkpoints", "there", "--torchattacks", "/home/me/x", "--out", str(tmp_path)]
    speed.main([*given, "--rounds", "2"])
    assert asked == list(speed.MEASURES)
    written = pd.read_csv(tmp_path / "speed_quick_disk.csv").iloc[0]
    assert (
        written["command"]
        == "python evaluations/speed/speed.py --size quick --torchattacks FOLDER --processes 2 --rounds 2"
    )


@pytest.mark.slow
def test_import_times_of_processes(evaluation, speed, tmp_path):
    table = evaluation("import_time").time_imports(1, warm_up=False).set_index("process")
    assert {"python alone", "import torch", "import art", "import art_classwise", "first PGD", "first audit"} < set(
        table.index
    )
    assert (table["seconds"] > 0).all()
    assert table.loc["python alone", "above python"] == 0
    assert table.loc["first PGD", "seconds"] > table.loc["python alone", "seconds"]
    assert len(speed.claims_of("import", table.reset_index())) == 2


@pytest.mark.slow
def test_speed_in_small_size_ends_with_verdicts(speed, tmp_path, capsys):
    speed.main(["--size", "tiny", "--only", "policies", "--out", str(tmp_path)])
    assert {p.name for p in tmp_path.iterdir()} == {
        *("speed_tiny_policies.csv", "speed_tiny_claims.csv", "speed_tiny.svg")
    }
    claims = pd.read_csv(tmp_path / "speed_tiny_claims.csv")
    assert set(claims["unit"]) == {"times"}
    assert len(claims) == 8
    assert ": FAAL takes less than 10 % of an epoch [digits-cnn]" in capsys.readouterr().out


def test_commands_of_the_readme_are_understood(speed):
    """Those of speed.py: every option there is one."""
    text = (ROOT / "evaluations" / "results" / "speed" / "README.md").read_text()
    commands = [c.split()[2:] for c in re.findall(r"`(python evaluations/speed/speed\.py[^`]*)`", text)]
    assert len(commands) > 8
    for command in commands:
        speed._arguments(command)
