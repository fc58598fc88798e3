"""The help, and what Tab completes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import art_classwise as acw
from art_classwise import cli
from art_classwise.attacks.ladder import _LADDERS, ladder
from art_classwise.cli import _completion as completion
from art_classwise.trainers.catalog import method_names
from art_classwise.zoo import ARCHITECTURES, robustbench_names

ROOT = typer.main.get_command(cli.app)
TOPICS = {
    "audit": ["Models", "Data", "Attacks", "Output", "Running"],
    "train": ["Output", "Models", "Data", "Attacks", "Recipe", "Classes", "Unlabelled images", "Choice", "Running"],
}


@pytest.mark.parametrize("command", ["", *ROOT.commands])
def test_help_is_uncut_at_80_columns(command, command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["art-classwise"])
    code, out, err = command_line(*[command] * bool(command), "--help")
    assert (code, err) == (0, "")
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    words = re.findall(r"[\w.:/=-]+", out)
    shown = ROOT.commands[command] if command else ROOT
    for parameter in shown.params:
        flags = [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
        assert set(flags) <= set(words)
        for word in re.findall(r"[\w.:/=-]+", getattr(parameter, "help", None) or ""):
            assert word in words, f"{word} of {flags} is cut"
    if command in TOPICS:
        panels = re.findall(r"^╭─ (\w+(?: images)?)", out, re.MULTILINE)
        assert [panel for panel in panels if panel not in ("Options", "Arguments")] == TOPICS[command]


def test_help_in_a_process_of_its_own():
    """As from a shell of 80 columns, where nothing else has been imported."""
    done = _python("-m", "art_classwise", "audit", "--help", COLUMNS="80")
    assert "…" not in done
    assert "robustbench:DATASET/NAME" in done


def test_what_is_completed_is_there():
    surrogate = acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10, seed=0), (1, 8, 8), 10, device="cpu")
    for name in completion.ATTACKS:
        assert ladder(name, "Linf:0.1", surrogate=surrogate)
    assert set(_LADDERS) <= set(completion.ATTACKS)
    for name in completion.ARCHITECTURES:
        assert name in ARCHITECTURES or name.startswith("wrn-")
    assert set(ARCHITECTURES) <= set(completion.ARCHITECTURES)
    for name in completion.threats(""):
        assert str(acw.ThreatModel.parse(name))
    assert completion.methods("") == method_names()
    named = {*completion._robustbench()}
    for dataset, threat in (("cifar10", "Linf"), ("cifar100", "Linf"), ("imagenet", "Linf"), ("cifar10", "L2")):
        names = robustbench_names(dataset, threat)
        assert {f"robustbench:{at}{name}" for name in names for at in ("", f"{dataset}/")} <= named
    (first,) = completion.models("x=robustbench:imagenet/Wong")
    assert first == "x=robustbench:imagenet/Wong2020Fast"


def test_files_are_completed_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mart.pt", "mart.csv", "digits.npz", ".hidden.pt", "runs/a.pt", "runs/net.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    assert completion.models("") == ["robustbench:", "hf:", "mart.pt", "runs/"]
    assert completion.models("mine=ma") == ["mine=mart.pt"]
    assert completion.models("runs/") == ["runs/a.pt"]
    assert completion.models(".h") == [".hidden.pt"]
    assert completion.datasets("di") == ["digits", "digits.npz"]
    assert completion.architectures("mart=runs/n") == ["mart=runs/net.py"]
    assert completion.models("nowhere/") == []


def test_lists_are_completed_at_their_end():
    assert completion.attacks("fgsm,mar") == ["fgsm,margin-20"]
    assert "fgsm,fgsm" not in completion.attacks("fgsm,f")
    assert completion.policies("da") == ["dafa"]


def test_bash_takes_colons_for_ends_of_words():
    joined = completion._joined(["a", "--model", "=", "x", "=", "robustbench", ":", "cifar10/W", "--out"], 7)
    assert joined == (["a", "--model=x=robustbench:cifar10/W", "--out"], 1)
    assert completion._joined(["a", "--threat", "Linf", ":"], 3) == (["a", "--threat", "Linf:"], 2)
    assert completion._joined(["a", "au"], 1) == (["a", "au"], 1)
    assert completion._joined(["a", ""], 1) == (["a", ""], 1)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_in_bash(tmp_path):
    script = completion_script("bash").replace("$1", '"$PYTHON" "$PROGRAM"')
    (tmp_path / "program.py").write_text(
        "import sys\nsys.argv = ['art-classwise']\nfrom art_classwise.cli import main\nmain()\n", encoding="utf-8"
    )
    tab = 'tab() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _art_classwise_completion; echo "${COMPREPLY[*]}"; }'
    typed = {
        "au": "audit",
        "train ma": "mart",
        "audit --model robustbench : Wong": "Wong2020Fast",
        "audit --model=mine = robustbench : cifar10/Wong": "cifar10/Wong2020Fast",
    }
    calls = "\n".join(f"tab art-classwise {words}" for words in typed)
    environment = {**os.environ, "PYTHON": sys.executable, "PROGRAM": str(tmp_path / "program.py")}
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{tab}\n{calls}"], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines() == list(typed.values()), done.stderr


def completion_script(shell):
    """Return what --show-completion prints."""
    program = "import sys; sys.argv[0] = 'art-classwise'; from art_classwise.cli import main; main()"
    return _python("-c", program, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")


@pytest.mark.parametrize(
    ("shell", "expected"),
    [("zsh", r"""_arguments '*: :(("robustbench\\:Wong2020Fast"))'"""), ("fish", "robustbench:Wong2020Fast")],
)
def test_other_shells(shell, expected):
    assert f"complete_{shell}" in completion_script(shell)
    told = _python(
        "-c",
        _WITHOUT_TORCH,
        _ART_CLASSWISE_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="art-classwise audit --model robustbench:Wong",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert told.strip() == expected


_WITHOUT_TORCH = """
import sys
sys.argv = ["art-classwise"]
from art_classwise.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
assert "torch" not in sys.modules
assert "pandas" not in sys.modules
"""


def _python(*arguments, **environment):
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout
