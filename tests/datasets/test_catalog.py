"""The table of data sets: its facts are those of the data, and everything that knows data sets by name reads it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torchvision
import typer

import art_classwise as acw
from art_classwise import datasets
from art_classwise.attacks import ladder, usual_threat
from art_classwise.audit.findings import CHECKS
from art_classwise.cli import app
from art_classwise.datasets import DATASETS
from art_classwise.trainers.recipes import fast_recipe, plain_recipe
from art_classwise.zoo import robustbench

EACH = pytest.mark.parametrize("spec", DATASETS.values(), ids=list(DATASETS))


@EACH
def test_a_record_fits_together(spec):
    threat = acw.ThreatModel.parse(spec.threat)
    assert spec.eps_step * spec.steps >= threat.eps  # a search must be able to cross the ball
    assert threat.norm not in spec.radii
    assert len(spec.class_names) in (0, spec.n_classes)
    assert spec.shape[1] / 9 <= spec.crop_padding <= spec.shape[1] / 8 or spec.crop_padding == 0
    assert set(spec.files) <= set(spec.splits)
    assert bool(spec.torchvision) == bool(spec.url)
    assert f'"{spec.name}"' in acw.load_dataset.__doc__
    if spec.torchvision:
        assert hasattr(torchvision.datasets, spec.torchvision)
    if spec.network:
        logits = acw.build(spec.network, spec.shape, spec.n_classes)(torch.zeros(2, *spec.shape))
        assert logits.shape == (2, spec.n_classes)


@EACH
def test_training_and_audit_are_within_the_same_radius(spec):
    threat = acw.ThreatModel.parse(spec.threat)
    assert usual_threat(spec.name) == plain_recipe("mart", spec.name).threat == fast_recipe("mart", spec.name).threat
    assert usual_threat(spec.name) == threat
    assert f"pgd-{spec.steps}" in ladder("standard", dataset=spec.name)
    assert plain_recipe("mart", "mine").threat == plain_recipe("mart").threat == acw.ThreatModel("Linf", 8 / 255)
    recipe = fast_recipe("standard", spec.name)
    assert (recipe.crop_padding, recipe.flip) == (spec.crop_padding, spec.flip)
    assert recipe.lr == (0.05 if spec.network else 0.2)


@EACH
def test_an_unusual_radius_is_a_finding_in_every_norm(spec):
    own = acw.ThreatModel.parse(spec.threat)

    (check,) = [check for check in CHECKS if check.name == "unusual radius"]

    def says(norm, eps):
        manifest = SimpleNamespace(examples=SimpleNamespace(dataset=spec.name))
        evidence = SimpleNamespace(manifest=manifest, threat=acw.ThreatModel(norm, eps))
        return len(list(check.function(evidence)))

    for norm, eps in {own.norm: own.eps, **spec.radii}.items():
        assert says(norm, eps) == 0, (norm, eps)
        assert says(norm, 3 * eps) == says(norm, eps / 9) == 1


def test_robustbench_has_models_for_these():
    assert set(robustbench.DATASETS) == {"cifar10", "cifar100", "imagenet"}
    enums = robustbench.robustbench("model_zoo.enums")
    assert {d.value for d in enums.BenchmarkDataset} == set(robustbench.DATASETS)


def test_the_command_line_lists_them():
    for command in ("train", "audit"):
        options = {p.name: p.help for p in typer.main.get_command(app).commands[command].params}
        assert ", ".join(DATASETS) in options["dataset"]


def test_the_table_is_read_without_torch():
    code = "import sys, art_classwise.datasets.catalog; print({'torch', 'art', 'numpy'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    assert all(getattr(datasets, name) is not None for name in datasets.__all__)
