"""What ``plan``, ``work``, ``collect`` and ``--on`` say to what they can't use: a sentence, exit status 2."""

from __future__ import annotations

import sys

import pytest

import art_classwise as acw


@pytest.fixture
def planned(command_line, tmp_path):
    """Plan an audit of ten examples; return the command line."""
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    acw.save_checkpoint(
        "mine.pt", network, architecture="digits-cnn", classes=list("0123456789"), input_shape=(1, 8, 8)
    )
    code, out, _ = command_line("plan", "--model", "mine.pt", "--examples", 10, "--attacks", "fgsm", "--out", "store")
    assert code == 0
    assert "mine: at most" in out
    assert f"2 units in {tmp_path / 'store'}" in out
    return command_line


def refused(command_line, *arguments):
    code, out, err = command_line(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    return err


def test_shares_units_and_stores(planned):
    for index in ("a/b", "1", "1/", "/2", "-1/2", "1/0", "1.5/2", "³/4"):
        assert "--index takes NUMBER/WORKERS, such as 3/16" in refused(planned, "work", "store", f"--index={index}")
    for index in ("3/3", "7/2"):
        assert "Of " in (said := refused(planned, "work", "store", "--index", index))
        assert "--index NUMBER/WORKERS" in said
    assert "Unknown unit 'mine/fgsm/1'" in refused(planned, "work", "store", "--units", "mine/fgsm/1")
    for command in ("work", "collect", "report"):
        assert "holds no audit: there is no such folder" in refused(planned, command, "nowhere")


def test_worked_on_and_collected(planned):
    assert planned("work", "store", "--list")[:2] == (0, "mine/clean/00000\nmine/fgsm/00000\n")
    code, out, _ = planned("collect", "store")
    assert code == 3
    assert out == "mine: no attack has begun.\n"
    assert "1 unit computed" in planned("work", "store", "--index", "0/2", "--quiet")[2]
    assert "1 unit computed" in planned("work", "store", "--index", "1/2", "--quiet")[2]
    assert planned("collect", "store")[0] == 0


def test_engines(planned):
    for more, says in {
        ("--on", "dask://127.0.0.1:1"): "No Dask scheduler answers at dask://127.0.0.1:1",
        ("--on", "spark:3"): "Unknown engine 'spark:3'. Write dask:N",
        ("--on", "dask:2", "--slurm", "timeout_min=3"): "--slurm is for --on slurm",
        ("--slurm", "timeout_min=3"): "--slurm is for --on slurm",
        ("--on", "slurm", "--slurm", "partitoin=gpu"): "submitit refuses --slurm's options",
        ("--on", "slurm", "--slurm", "gpu"): "--slurm takes KEY=VALUE",
    }.items():
        assert says in refused(planned, "audit", "--model", "mine.pt", "--examples", 10, *more)


def test_stores_that_cannot_be_used(planned, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    asked = ("audit", "--model", "mine.pt", "--examples", 10, "--out")
    assert "gs://a/b needs the package gcsfs: pip install gcsfs" in refused(planned, *asked, "gs://a/b")
    assert "addresses begin with s3://" in refused(planned, *asked, "ftp://a/b")
