"""What is wrong with the options themselves is named before anything is loaded, and before a file that is missing."""

from __future__ import annotations

import pytest
import typer

from art_classwise.cli import app
from art_classwise.cli._early import CHECKS

MISSING = "missing.pt"
COMMANDS = {
    "audit": ("--model", MISSING),
    "plan": ("--model", MISSING),
    "certify": ("--model", MISSING, "--noise", "0.25"),
    "train": ("mart", "--out", "m.pt", "--init", MISSING),
}
MISTAKES = {
    # parameter: (option and value, what is said)
    "dataset": [
        (("--dataset", "cifar11"), "Unknown data set 'cifar11'"),
        (("--dataset", "no/such/folder"), "Unknown data set 'no/such/folder'"),
    ],
    "class_names": [
        (("--class-names", "a,b"), "digits has its own class names"),
        (("--dataset", "mine.npz", "--class-names", "cifar11"), "Unknown set of class names 'cifar11'"),
    ],
    "image_size": [(("--image-size", "0"), "--image-size must be")],
    "examples": [(("--examples", "0"), "--examples must be"), (("--examples", "-3"), "--examples must be")],
    "imbalance": [(("--imbalance", "0"), "--imbalance must be"), (("--imbalance", "nan"), "--imbalance must be")],
    "class_": [(("--class", "3", "--class", "three"), "Unknown class 'three'")],
    "exclude": [(("--exclude", "three"), "Unknown class 'three'")],
    "groups": [(("--groups", "cifar100"), "'cifar100'")],
    "class_policy": [
        (("--class-policy", "dafer"), "dafer"),
        (("--class-policy", "weights:three=2"), "'three'"),
        (("--class-policy", "dafa:lamb=-1"), "lamb"),
    ],
    "threat": [(("--threat", "Linf"), "Linf"), (("--threat", "L7:0.1"), "L7"), (("--threat", "Linf:x"), "but got 'x'")],
    "attacks": [
        (("--attacks", "pdg-20"), "Unknown attack 'pdg-20'"),
        (("--attacks", "pgd-20,pgd-20"), "named twice"),
        (("--attacks", "transfer-pgd-20"), "needs a model to transfer from: give --surrogate"),
        (("--attacks", "transfer-pdg-20", "--surrogate", MISSING), "Unknown attack 'transfer-pdg-20'"),
        (("--attacks", "fgsm", "--threat", "corruptions"), "Corruptions have no norm"),
    ],
    "corruptions": [(("--corruptions", "fogg:3"), "fogg"), (("--corruptions", "fog:9"), "fog:9")],
    "arch": [(("--arch", "resnet19"), "Unknown architecture 'resnet19'"), (("--arch", "no.py:net"), "no file no.py")],
    "mean": [(("--mean", "0.5,x"), "--mean takes a number")],
    "std": [(("--std", "x"), "--std takes a number")],
    "validation": [(("--validation", "-1"), "--validation must be")],
    "labels": [(("--labels", "0", "--unlabeled", "rest"), "--labels must be")],
    "unlabeled": [
        (("--unlabeled", "cifar11"), "Unknown data set 'cifar11'"),
        (("--unlabeled", "more.pickle"), "convert_pickle"),
        (("--unlabeled", "digits", "--pseudo-labels", "label"), "--pseudo-labels names an array"),
    ],
    "gamma": [(("--gamma", "-1", "--unlabeled", "more.npz"), "--gamma must be")],
    "tau": [(("--normalize-head", "2"), "--normalize-head must be")],
    "workers": [(("--workers", "-1"), "--workers must be")],
    "batch_size": [(("--batch-size", "0"), "--batch-size must be")],
    "seed": [(("--seed", "-1"), "--seed must be")],
    "on": [(("--on", "spark:3"), "Unknown engine 'spark:3'"), (("--on", "dask:0"), "Unknown engine 'dask:0'")],
    "slurm": [
        (("--slurm", "timeout_min=3"), "--slurm is for --on slurm"),
        (("--on", "dask:2", "--slurm", "timeout_min=3"), "--slurm is for --on slurm, not for --on dask:2"),
        (("--on", "slurm", "--slurm", "gpu"), "--slurm takes KEY=VALUE"),
    ],
    "latex": [(("--latex", "audit.toml/tables.tex"), "audit.toml")],
}
ELSEWHERE = {
    *("model", "surrogate", "init", "teacher", "audit"),  # what is looked for on the disk, or on the net, comes after
    *("model_dir", "data_dir", "corruption_dir", "out", "tensorboard", "pseudo_labels"),
    *("precision", "device", "keep", "on_collapse"),  # typer knows the values
    *("noise", "samples", "selection", "alpha", "radii"),  # in test_cli_certify.py
    *("method", "steps", "recipe", "epochs", "lr", "beta", "option", "awp", "gradient_clip", "ema"),  # a recipe's own
    *("unlabeled_fraction", "require", "junit", "config", "save_config"),
}


def parameters(command):
    return {one.name: one for one in typer.main.get_command(app).commands[command].params}


CASES = [
    pytest.param(command, given, says, id=f"{command} {' '.join(given)}")
    for command in COMMANDS
    for name, mistakes in MISTAKES.items()
    if name in parameters(command)
    for given, says in mistakes
    if not (command == "train" and "--surrogate" in given)
]


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def loads(*_, **__):
        raise AssertionError("it was loaded")

    monkeypatch.setattr("art_classwise.datasets.catalog.DatasetSpec.load", loads)
    monkeypatch.setattr("art_classwise.datasets.load._npz", loads)
    monkeypatch.setattr("art_classwise.audit.plan.FileModel.load", loads)


@pytest.mark.parametrize(("command", "given", "says"), CASES)
def test_a_mistake_is_named_before_a_missing_file(command, given, says, command_line, nothing_is_loaded, tmp_path):
    (tmp_path / "audit.toml").write_text("")
    code, out, err = command_line(command, *COMMANDS[command], *given)
    assert (code, out) == (2, "")
    assert says in err
    assert MISSING not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--lr", "0"), "--lr must be"),
        (("--epochs", "0"), "--epochs must be"),
        (("--steps", "0"), "--steps must be"),
        (("--beta", "-1"), "--beta must be"),
        (("--awp", "-1"), "--awp must be"),
        (("--gradient-clip", "0"), "--gradient-clip must be"),
        (("--ema", "2"), "--ema must be"),
        (("--recipe", "papers"), "papers"),
        (("--unlabeled-fraction", "2", "--unlabeled", "more.npz"), "--unlabeled-fraction must be"),
        (("--option", "weighted=corect"), "Did you mean correct"),
        (("--option", "kl=false", "--option", "weighted=correct"), "--option weighted=correct is about the KL term"),
        (("--option", "eps_step=-1"), "--option eps_step"),
        (("--on-collapse", "stop"), "--on-collapse is for fast training"),
        (("--keep", "robust"), "--keep robust needs validation examples"),
    ],
)
def test_a_mistake_of_a_training_is_named_before_a_missing_file(given, says, command_line, nothing_is_loaded):
    code, out, err = command_line("train", *COMMANDS["train"], *given)
    assert (code, out) == (2, "")
    assert says in err
    assert MISSING not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_missing_file_is_named_before_data_are_read(command, command_line, nothing_is_loaded):
    code, out, err = command_line(command, *COMMANDS[command])
    assert (code, out) == (2, "")
    assert f"There is no file '{MISSING}'" in err


def test_missing_unlabelled_images_are_named_before_data_are_read(command_line, nothing_is_loaded):
    code, out, err = command_line("train", "mart", "--out", "m.pt", "--unlabeled", "missing.npz")
    assert (code, out) == (2, "")
    assert "There is no file 'missing.npz' for --unlabeled" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_saved_once_they_are_checked(command, command_line, nothing_is_loaded, tmp_path):
    assert command_line(command, *COMMANDS[command], "--seed", "-1", "--save-config", "mine.toml")[0] == 2
    assert not (tmp_path / "mine.toml").exists()


@pytest.mark.parametrize("given", [(), ("--model", "digits.pt", "--dataset", "mine.npz")])
def test_no_workers_are_started_for_what_is_missing(given, command_line, monkeypatch, tmp_path):
    def starts(*_):
        raise AssertionError("workers were started")

    monkeypatch.setattr("art_classwise._core.executors.open_executor", starts)
    (tmp_path / "digits.pt").write_bytes(b"")
    code, _, err = command_line("audit", *(given or COMMANDS["audit"]), "--on", "processes:2")
    assert code == 2
    assert "There is no file" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_is_checked_early_or_said_to_be_checked_elsewhere(command):
    named = {name for name, one in parameters(command).items() if not getattr(one, "is_flag", False)}
    assert named <= CHECKS.keys() | ELSEWHERE
    assert CHECKS.keys() == MISTAKES.keys()
    assert not CHECKS.keys() & ELSEWHERE


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compare", "nowhere", "--radius", "x"), "--radius takes a radius"),
        (("compare", "nowhere", "--radius", "-1"), "--radius must be"),
        (("compare", "nowhere", "--radius", "0.1", "--clean"), "no radius"),
        (("compare", "nowhere", "--model", "a"), "--model chooses"),
        (("compare", "nowhere", "other", "--attacks", "a,b"), "give one folder"),
        (("compare", "nowhere", "--attacks", "a,b", "--clean"), "--attacks can't be combined"),
        (("compare", "nowhere", "--require", "x"), "x"),
        (("report", "nowhere", "--license", "mit"), "--license is for --format"),
        (("report", "nowhere", "--format", "cyclonedx", "--model", "a"), "--model is for --format card"),
        (("report", "nowhere", "--require", "x"), "x"),
        (("verify", "nowhere", "--root", "abc"), "A root digest has 64"),
        (("verify", "nowhere", "--recompute", "x"), "--recompute takes a share"),
        (("verify", "nowhere", "--recompute", "1%", "--seed", "-1"), "--seed must be"),
        (("verify", "nowhere", "--recompute", "1%", "--dataset", "cifar11"), "Unknown data set 'cifar11'"),
        (("verify", "nowhere", "--recompute", "1%", "--arch", "resnet19"), "Unknown architecture 'resnet19'"),
        (("verify", "nowhere", "--model", "a.pt"), "--model and --dataset are for --recompute"),
        (("verify", "nowhere", "--sign", "key.pem"), "--sign is for"),
        (("work", "nowhere", "--index", "3"), "--index takes NUMBER/WORKERS"),
    ],
)
def test_a_mistake_is_named_before_a_missing_audit(arguments, says, command_line):
    code, out, err = command_line(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "nowhere" not in err
