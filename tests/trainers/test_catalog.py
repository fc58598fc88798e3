"""The table of methods: its facts are those of the trainers, and everything that knows methods reads it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import typer

import art_classwise as acw
from art_classwise import trainers
from art_classwise.cli import app
from art_classwise.trainers import METHODS, SearchTrainer
from art_classwise.trainers.catalog import usual_beta
from art_classwise.trainers.engine.options import OPTIONS
from art_classwise.trainers.recipes import fast_recipe, plain_recipe

EACH = pytest.mark.parametrize("spec", METHODS.values(), ids=list(METHODS))


@EACH
def test_a_record_says_what_the_trainer_has(spec):
    """Its own options and its beta are those of the constructor; the others are those of all trainers."""
    parameters = inspect.signature(spec.trainer.__init__).parameters
    own = {p.name for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} - {
        *OPTIONS,
        "classifier",
        "self",
    }
    assert sorted(own) == sorted([*spec.options, *(["beta"] if spec.beta is not None else [])])
    assert "beta" not in own or parameters["beta"].default == spec.beta
    assert issubclass(spec.trainer, SearchTrainer)
    assert spec.trainer.__name__ == spec.class_name
    assert getattr(trainers, spec.class_name) is spec.trainer


@EACH
def test_recipes_and_command_line_know_it(spec):
    assert plain_recipe(spec.name).beta == fast_recipe(spec.name, "digits").beta == spec.beta
    assert ("exact" in plain_recipe(spec.name).trainer_options()) == ("exact" in spec.options)
    command = typer.main.get_command(app).commands["train"]
    assert command.make_context("train", [spec.name, "--out", "x.pt"]).params["method"] == spec.name
    method, beta = ({p.name: p.help for p in command.params}[name] for name in ("method", "beta"))
    assert spec.title.lower() in method.lower()
    assert (spec.beta is not None) == (spec.title in beta)


def test_papers_have_these_betas():
    assert [METHODS[name].beta for name in ("trades", "mart", "bat")] == [6.0, 5.0, 6.0]
    with pytest.raises(ValueError, match="natural has no beta"):
        usual_beta("natural")


def test_an_unknown_method_is_answered_with_the_nearest_one():
    for call in (plain_recipe, lambda name: acw.AdversarialTrainerClassExcludedPyTorch(None, [1], name)):
        with pytest.raises(acw.InputError, match="Unknown method 'trads'. Did you mean trades"):
            call("trads")


def test_the_table_is_read_without_torch():
    code = "import sys, art_classwise.trainers.catalog; print({'torch', 'art', 'numpy'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_public_name_is_there():
    for name in trainers.__all__:
        assert getattr(trainers, name) is not None
    from art_classwise.trainers import methods

    assert set(methods.__all__) < set(trainers.__all__)
