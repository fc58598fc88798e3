"""Interrupted work: what is said, and that the command it names goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import art_classwise as acw
from art_classwise.trainers import training_history

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

TRAIN = shlex.split("train standard --epochs 12 --examples 100 --steps 1 --batch-size 4 --out mine.pt")


def start(folder, *words):
    environment = {**os.environ, "TQDM_DISABLE": "0", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "art_classwise", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeded = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs inherit that they don't
    try:
        return subprocess.Popen(command, cwd=folder, env=environment, **pipes)
    finally:
        signal.signal(signal.SIGINT, heeded)


def interrupted(process, begun, number=signal.SIGINT):
    """Interrupt a process once something has begun; return the sentence and the command that it then says."""
    while process.poll() is None and not begun():
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert out == ""
    assert "Traceback" not in err
    sentence, command = err.splitlines()[-2:]
    return sentence, command


def test_an_interrupted_training_names_the_command_that_goes_on(command_line, tmp_path):
    process = start(tmp_path, *TRAIN)

    def second_epoch():
        assert process.stderr is not None
        return "epoch 2/12" in process.stderr.readline()

    kept, command = interrupted(process, second_epoch)
    epochs = int(kept.removeprefix("Interrupted: ").split()[0])
    assert kept == f"Interrupted: {epochs} epochs are kept in mine.training; to go on:"
    assert shlex.split(command) == ["art-classwise", *TRAIN, "--resume"]
    assert len(training_history(tmp_path / "mine.training")) == epochs
    code, out, _ = command_line(*shlex.split(command)[1:])
    assert code == 0
    assert "After 12 epochs" in out
    assert len(pd.read_csv(tmp_path / "mine.csv")) == 12


def test_a_training_that_has_not_begun_is_started_again(command_line, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("art_classwise.zoo.build", stop)
    code, out, err = command_line(*TRAIN)
    assert (code, out) == (130, "")
    assert (
        err.strip() == f"Interrupted before the first epoch began; to start again:\nart-classwise {shlex.join(TRAIN)}"
    )
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    monkeypatch.setattr("art_classwise.datasets.load_dataset", stop)
    assert command_line("train", "mart", "--out", "x.pt") == (130, "", "\nInterrupted.\n")


def test_an_interrupted_audit_goes_on_with_the_same_command(tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    names = [str(d) for d in range(10)]
    acw.save_checkpoint(tmp_path / "m.pt", network, architecture="digits-cnn", classes=names, input_shape=(1, 8, 8))
    words = shlex.split("audit --model 'the net=m.pt' --attacks fgsm,kl-20x50 --no-checks --out runs/a --quiet")
    held = lambda: [*Path(tmp_path, "runs", "a").rglob("*.parquet")]  # noqa: E731
    sentence, command = interrupted(start(tmp_path, *words), held, signal.SIGTERM)
    before = {path: path.read_bytes() for path in held()}
    assert before
    assert sentence == "Interrupted: what is finished is kept in runs/a, and the same command goes on:"
    assert shlex.split(command) == ["art-classwise", *words]
    assert {path: path.read_bytes() for path in before} == before
