"""Messages of the command line name its options, not the parameters of Python."""

from __future__ import annotations

import ast
import io
import os
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn

import art_classwise as acw
from art_classwise import cli
from art_classwise.cli import _messages as messages
from art_classwise.cli._messages import OPTIONS, announced, message_of, say, with_options
from art_classwise.cli._method_options import NAMES
from art_classwise.cli._usage import _OTHERS
from art_classwise.errors import DivergenceError, InputError

PACKAGE = Path(acw.__file__).parent
KNOWN = {name for names in OPTIONS.values() for name in names}

# Parameters that no command has an option for, so that no message about them is met there. Those of policies are
# written as in Python: --class-policy dafa:lamb=1.5.
# fmt: off
ONLY_IN_PYTHON = {
    "activation", "alpha1", "alpha2", "audit", "average", "average_base", "ax", "begin_after", "broken", "budgets",
    "confidence", "correct", "ddof", "decay", "difference", "discordant", "distance", "eta", "executor",
    "fawa_start", "highest", "input_shape", "kappa", "key", "kind", "lamb", "lambda1", "lambda2", "left_out", "limit",
    "logits", "lowest", "max_radius", "minimal", "module", "momentum", "n", "n_classes", "n_iter", "nesterov",
    "network", "normalize", "norms", "objective", "optional", "order", "policies", "radius", "repeats", "result",
    "results", "scale", "scheduler", "shares", "smallest", "target", "targeted", "targets", "temperature", "threats",
    "threshold", "tolerance", "trainer_options", "u", "warm_epochs", "warm_start", "warmup", "weights", "which",
    "withstood", "worst", "worst_base", "x", "x_adv", "y", "zero_gradient",
}
# fmt: on
# They hold programs, paths and class policies, not messages.
TEMPLATES = {"report/page.py", "audit/store.py", "trainers/recipes/published.py"}


def strings() -> Iterator[tuple[str, str]]:
    """Yield the file and each string of the package that may be part of a message; docstrings aren't."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name in TEMPLATES:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                docs |= {id(part) for part in node.values}
                parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                yield name, "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield name, node.value


def test_each_parameter_in_a_message_is_known_to_the_command_line():
    """A new message must name an option, too, or a parameter that can't come up there."""
    named: dict[str, set[str]] = {}
    for file, text in strings():
        for found in re.findall(r"`([a-z]\w*)(?:=[^`]*)?`", text):
            named.setdefault(found, set()).add(file)
    unknown = {name: files for name, files in named.items() if name not in KNOWN | ONLY_IN_PYTHON}
    assert unknown.keys() == {"train", "plan"}  # commands
    assert len(KNOWN & named.keys()) > 20


def test_no_message_names_a_parameter_without_backquotes():
    names = sorted(KNOWN - set(NAMES))  # losses of torch's have some of these, too
    given = re.compile(rf"(?<![\w.&?`-])({'|'.join(names)})=(?!=)")
    bare = {
        (file, text)
        for file, text in strings()
        if not file.startswith("cli/") and given.search(re.sub(r"`[^`]*`|\w+\(.*\)", "", text))
    }
    assert not bare


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_the_table_names_options_that_there_are(command):
    there = typer.main.get_command(cli.app).commands[command]
    flags = {flag for parameter in there.params for flag in parameter.opts}
    assert {option.split()[0] for option in OPTIONS[command].values()} <= flags


def test_how_parameters_are_replaced():
    text = "`eps`, `resume=True`, `device='cpu'`, `keep='a b'`; `unheard_of`, `awp_gamma`, `--labels`, not eps, ``"
    assert with_options(text, "train") == (
        "--threat, --resume, --device cpu, --keep 'a b'; unheard_of, --awp, --labels, not eps, ``"
    )
    assert with_options(text, "nothing") == text.replace("`", "").replace("not eps, ", "not eps, ``")


def test_options_of_the_trainer_are_named_as_they_are_written():
    text = '`weighted="correct"`, `kl=False`, `exact=True`, `passes`'
    says = "--option weighted=correct, --option kl=false, --option exact=true, --option passes"
    assert with_options(text, "train") == says
    assert with_options(text, "audit") == text.replace("`", "")


def test_parameters_of_class_policies_are_named_as_they_are_written():
    text = "DAFA begins after 70 epochs: take a smaller `warmup`, not `fawa_start`; `eps`, `lamb=2`"
    says = "take a smaller --class-policy dafa:warmup, not fawa_start; --threat, --class-policy dafa:lamb 2"
    assert with_options(text, "train").endswith(says.replace("lamb 2", "lamb=2"))
    assert with_options("CFA begins: take a smaller `fawa_start`", "train").endswith("--class-policy cfa:fawa_start")


def test_remedies_that_only_python_has_are_left_out():
    error = InputError("`image_size` must be 1.", python="Or call that.")
    assert str(error) == "`image_size` must be 1. Or call that."
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert message_of(error, "audit") == message_of(again, "audit") == "--image-size must be 1."
    assert message_of(DivergenceError("a\x1b[2Jb"), "train") == r"a\x1b[2Jb"
    assert str(InputError(KeyError("k"))) == "'k'"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """What can be wrong with what a user has."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("files")
    x, y = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32), np.arange(20) % 10
    np.savez(folder / "normalised.npz", x=3 * x - 1, y=y)
    np.savez(folder / "own.npz", x=x, y=y)
    for k, size in enumerate((8, 9)):
        (folder / "images" / str(k)).mkdir(parents=True)
        Image.new("RGB", (size, size)).save(folder / "images" / str(k) / "a.png")
    torch.save(nn.Linear(64, 10).state_dict(), folder / "weights.pt")
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    classes = [str(d) for d in range(10)]
    for name, architecture in (("digits", "digits-cnn"), ("foreign", "")):
        path, shape = folder / f"{name}.pt", (1, 8, 8)
        acw.save_checkpoint(path, network, architecture=architecture, classes=classes, input_shape=shape)
    return folder


AUDIT, TRAIN = ["audit", "--model", "digits.pt", "--examples", 20], ["train", "mart", "--out", "new.pt"]
BAD = [
    ([*AUDIT, "--seed", -1], "--seed must be"),
    ([*AUDIT, "--batch-size", 0], "--batch-size must be"),
    ([*AUDIT, "--examples", 0], "--examples must be"),
    ([*AUDIT, "--attacks", "transfer-pgd-5"], "give --surrogate"),
    ([*TRAIN, "--dataset", "images", "--threat", "Linf:0.1"], "--image-size N"),
    ([*AUDIT, "--dataset", "images", "--image-size", 0], "--image-size must be"),
    ([*AUDIT, "--dataset", "own.npz"], "--threat, e.g."),
    ([*AUDIT, "--dataset", "normalised.npz", "--threat", "Linf:0.1"], "(--mean, --std)"),
    ([*AUDIT, "--dataset", "cifar100"], "--data-dir is where"),
    (["audit", "--model", "weights.pt"], "with --arch, e.g. resnet18"),
    (["audit", "--model", "foreign.pt"], "with --arch, e.g. resnet18"),
    ([*TRAIN, "--epochs", 0], "--epochs must be"),
    ([*TRAIN, "--steps", 0], "--steps must be"),
    ([*TRAIN, "--batch-size", 0], "--batch-size must be"),
    ([*TRAIN, "--lr", -1], "--lr must be"),
    ([*TRAIN, "--beta", -1], "--beta must be"),
    ([*TRAIN, "--awp", -1], "--awp must be"),
    ([*TRAIN, "--ema", 2], "--ema must be"),
    ([*TRAIN, "--gradient-clip", 0], "--gradient-clip must be"),
    ([*TRAIN, "--workers", -1], "--workers must be"),
    ([*TRAIN, "--seed", -1], "--seed must be"),
    ([*TRAIN, "--threat", "Linf:2"], "Linf"),
    ([*TRAIN, "--labels", 0], "--labels must be"),
    ([*TRAIN, "--labels", 300, "--unlabeled-fraction", 2], "--unlabeled-fraction must be"),
    ([*TRAIN, "--labels", 300, "--gamma", -1], "--gamma must be"),
    ([*TRAIN, "--validation", -1], "--validation must be"),
    ([*TRAIN, "--normalize-head", 2], "--normalize-head must be"),
    ([*TRAIN, "--exclude", "ant"], "'ant'"),
    ([*TRAIN, "--class-policy", "cfol:gamma=7"], "--class-policy cfol:gamma=7: gamma must be"),
    ([*TRAIN, "--recipe", "paper"], "(--recipe fast)"),
    ([*TRAIN, "--arch", "no-such-net"], "no-such-net"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(map(str, one[-2:])) for one, _ in BAD])
def test_bad_input_is_told_in_options(arguments, says, files, command_line, monkeypatch):
    monkeypatch.chdir(files)
    if not torch.cuda.is_available():
        monkeypatch.setenv("ART_CLASSWISE_DATA", "nowhere")
    monkeypatch.setattr("socket.create_connection", _no_connection)
    code, out, err = command_line(*arguments)
    assert code == 2
    assert out == ""
    assert says in err
    assert "`" not in err
    assert not (files / "new.pt").exists()


def _no_connection(*_: object, **__: object) -> None:
    raise OSError("no connection in tests")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("audit --eps 1", "--threat"),
        ("audit --norm Linf", "--threat"),
        ("audit --Epsilon 1", "--threat"),
        ("audit --n_examples 3", "--examples"),
        ("audit -n 3", "--examples"),
        ("audit --gpu", "--device"),
        ("audit --data x", "--dataset, --data-dir"),
        ("audit --unsafe", "--unsafe-weights"),
        ("audit --atacks x", "--attacks"),
        ("plan --output x", "--out"),
        ("train mart --nb-epochs 3", "--epochs"),
        ("train mart --learning-rate 3", "--lr"),
    ],
)
def test_options_of_others_name_ours(words, meant, command_line):
    code, out, err = command_line(*words.split())
    assert (code, out) == (2, "")
    said = " ".join(err.replace("│", " ").split())
    given = next(word for word in words.split() if word.startswith("-"))
    options = ", ".join(sorted(meant.split(", ")))
    assert f"No such option: {given} (Possible options: {options})" in said, said


@pytest.mark.parametrize("command", sorted(typer.main.get_command(cli.app).commands))
def test_any_wrong_option_is_answered_with_options_that_there_are(command, command_line):
    there = {o for p in typer.main.get_command(cli.app).commands[command].params for o in p.opts} | {"--help"}
    others = {word for words in _OTHERS.values() for word in words.split()} | {"nonsense", "xyzzy"}
    for word in sorted(others):
        flag = f"-{word}" if len(word) == 1 else f"--{word}"
        if flag in there:
            continue
        code, out, err = command_line(command, flag)
        said = " ".join(err.replace("│", " ").split())
        assert (code, out) == (2, "")
        assert f"No such option: {flag}" in said
        named = said.partition("Possible options: ")[2].partition(")")[0]
        assert set(filter(None, named.split(", "))) <= there


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("audit --model m.pt --examples abc", "Invalid value for '--examples': It must be a whole number."),
        ("train mart --lr abc --out x", "Invalid value for '--lr': It must be a number."),
        ("audit --model m.pt --precision half", "'half' is not one of 'auto', 'fp32', 'bf16'."),
    ],
)
def test_wrong_values_are_told_in_words(words, says, command_line):
    code, _, err = command_line(*words.split())
    assert code == 2
    assert says in " ".join(err.replace("│", " ").split())


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [80, 40])
def test_messages_on_a_terminal_end_between_words(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stderr", _Terminal())
    text, command = "error: " + "several words " * 20, f"art-classwise audit {'--model some/file.pt ' * 5}"
    say(f"\n{text}goes on:\n{command}")
    said = sys.stderr.getvalue().splitlines()
    assert said[0] == ""
    assert said[-1] == command
    assert max(map(len, said[1:-1])) < width
    assert " ".join(said[1:-1]) == f"{text}goes on:"
    monkeypatch.setattr("sys.stderr", io.StringIO())
    say(text)
    assert sys.stderr.getvalue() == f"{text}\n"


@pytest.mark.parametrize(
    ("option", "value"), [("--attacks", "pdg-20"), ("--threat", "Linf:300"), ("--threat", "L2:1e9")]
)
def test_what_is_refused_is_refused_before_models_are_loaded(option, value, files, command_line, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setattr("art_classwise.cli._sources.Sources.models", None)  # would fail
    code, out, err = command_line(*AUDIT, option, value)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_configuration_that_is_no_file_is_not_waited_for(command_line, tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    for path, says in ((tmp_path / "pipe.toml", "pipe or a device"), (tmp_path, "Is a directory")):
        code, _, err = command_line("audit", "--config", path)
        assert code == 2
        assert says in " ".join(err.split())


def test_what_takes_long_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(messages, "_SOON", 0.0)
    with announced("Loading ...", shown=True):
        while "Loading ...\n" not in capsys.readouterr().err:
            pass
    monkeypatch.setattr(messages, "_SOON", 0.05)
    with announced("Loading ...", shown=True) as loaded:
        loaded()
    with announced("Loading ...", shown=True):
        pass  # the end of the context is as good
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    threads = threading.active_count()
    with announced("Loading ...", shown=False):
        assert threading.active_count() == threads
    assert capsys.readouterr().err == ""
