"""Distillation and fast training from the command line."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import art_classwise as acw

QUICK = ("--epochs", 1, "--steps", 1, "--examples", 200, "--threat", "Linf:0.1", "--quiet")


@pytest.fixture
def teacher(command_line):
    """A checkpoint of an untrained network; the folder is that of the command line."""
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=3)
    digits = [str(k) for k in range(10)]
    acw.save_checkpoint("teacher.pt", network, architecture="digits-cnn", classes=digits, input_shape=(1, 8, 8))
    return "teacher.pt"


@pytest.mark.parametrize("method", ["distillation", "ard", "absld"])
def test_each_method_trains_with_a_teacher(method, command_line, teacher):
    code, _, err = command_line("train", method, "--teacher", teacher, *QUICK, "--out", "student.pt")
    assert code == 0, err
    saved = acw.zoo.read_checkpoint("student.pt")
    assert saved.recipe["teacher"] == teacher
    assert saved.recipe["method"] == method
    # The network that the same trainer makes in Python.
    data = acw.load_dataset("digits", "train").first(200)
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    recipe = acw.trainers.recipes.plain_recipe(method, "digits", threat="Linf:0.1").override(epochs=1, steps=1)
    optimizer = recipe.optimizer(network)
    student = acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer)
    named = {} if method == "distillation" else {"method": method}
    options = {**recipe.trainer_options(network), **named, "verbose": False}
    trainer = acw.AdversarialTrainerDistillationPyTorch(student, acw.load_checkpoint(teacher), **options)
    trainer.fit(data.x, data.y, **recipe.fit_options(optimizer, len(data)))
    for name, value in network.state_dict().items():
        assert torch.equal(value, saved.state_dict[name])


def test_what_can_not_be_distilled_says_so(command_line, teacher):
    others = [f"class {k}" for k in range(10)]
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=3)
    acw.save_checkpoint("others.pt", network, architecture="digits-cnn", classes=others, input_shape=(1, 8, 8))
    for arguments, says in (
        (("rslad",), "The method rslad needs a teacher: give --teacher"),
        (("distillation",), "The method distillation needs a teacher"),
        (("mart", "--teacher", teacher), "--teacher is for distillation; the method mart has no teacher"),
        (("rslad", "--teacher", "others.pt"), "has other classes than digits: 10 and 10, 'class 0' where"),
        (("rslad", "--teacher", "missing.pt"), "There is no file"),
        (("rsald", "--teacher", teacher), "Unknown method 'rsald'. Did you mean rslad"),
        (("trades", "--class-policy", "absld"), "of which this training has none"),
    ):
        code, _, err = command_line("train", *arguments, *QUICK, "--out", "x.pt")
        assert code == 2
        assert says in " ".join(err.split()), err


def test_fast_training_is_watched(command_line):
    arguments = ("train", "n-fgsm", *QUICK, "--validation", 50, "--on-collapse", "restore", "--out", "fast.pt")
    code, _, err = command_line(*arguments)
    assert code == 0, err
    assert acw.zoo.read_checkpoint("fast.pt").recipe["on_collapse"] == "restore"
    assert {"val_gap", "val_gap_3", "collapsed_9"} <= set(pd.read_csv("fast.csv"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fgsm-rs", "--on-collapse", "stop"), "--on-collapse needs validation examples: give --validation"),
        (("mart", "--on-collapse", "stop", "--validation", 50), "--on-collapse is for fast training"),
        (("fgsm-rs", "--on-collapse", "go"), "--on-collapse"),
    ],
)
def test_answers_that_can_not_be_given_say_so(arguments, says, command_line):
    code, _, err = command_line("train", *arguments, *QUICK, "--out", "x.pt")
    assert code == 2
    assert says in " ".join(err.split())


def test_a_long_tail_and_a_combination_of_policies(command_line):
    arguments = ("--imbalance", 0.1, "--class-policy", "balanced-softmax + trix", *QUICK, "--epochs", 2)
    code, _, err = command_line("train", "trades", *arguments, "--out", "tail.pt")
    assert code == 0, err
    recipe = acw.zoo.read_checkpoint("tail.pt").recipe
    assert recipe["imbalance"] == 0.1
    assert [policy["name"] for policy in recipe["class_policy"]["policies"]] == ["BalancedSoftmax", "TRIX"]
    code, _, err = command_line("train", "trades", "--imbalance", 1.5, *QUICK, "--out", "x.pt")
    assert (code, "--imbalance must be a number above 0 to 1" in " ".join(err.split())) == (2, True)
