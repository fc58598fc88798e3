"""The norms of the classes' rows in the last linear layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.head import switch_off
from art_classwise.metrics.correlation import correlations, head_weight_norms


def literal(layer):
    """Row by row, in plain Python."""
    return [math.sqrt(sum(w * w for w in row)) for row in layer.weight.tolist()]


def test_norms_of_a_networks_and_of_a_classifiers_rows(network, classifier):
    norms = head_weight_norms(network)
    assert norms.dtype == np.float64
    assert norms == pytest.approx(literal(network[-1]), rel=1e-12)
    assert head_weight_norms(classifier).tolist() == norms.tolist()


def test_a_network_that_holds_another_as_model_is_a_network():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.head = nn.Linear(5, 7), nn.Linear(7, 3)

    holder = Holder()
    assert head_weight_norms(holder) == pytest.approx(literal(holder.head))
    assert head_weight_norms(holder, n_classes=7) == pytest.approx(literal(holder.model))


def test_a_classifier_is_searched_for_the_layer_with_its_classes():
    network = nn.ModuleDict({"head": nn.Linear(12, 4), "auxiliary": nn.Linear(12, 9)})
    network.forward = lambda x: network["head"](x.flatten(1))
    classifier = acw.as_classifier(network, (3, 2, 2), 4, device="cpu")
    assert head_weight_norms(classifier) == pytest.approx(literal(network["head"]))


def test_an_excluded_class_has_norm_0(network):
    switch_off(network[-1], [2])
    assert np.flatnonzero(head_weight_norms(network) == 0).tolist() == [2]


def test_weights_that_are_computed_at_each_pass_are_looked_at_without_changing_them():
    network = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    norms = head_weight_norms(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert norms == pytest.approx(literal(network.eval()[0]))


def test_half_precision_is_squared_in_double():
    network = nn.Linear(2, 2).half()
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[60000.0, 0.0], [3e-5, 4e-5]]))
    assert head_weight_norms(network) == pytest.approx([60000, 5e-5], rel=0.02)


def test_the_published_claim_is_one_line(network):
    table = correlations(head_weight_norms(network), [0.4, 0.1, 0.3, 0.2])
    assert table.loc["pearson", "n"] == 4


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Conv2d(3, 4, 1), "Conv2d has no linear layer"),
        (np.zeros(3), "`model` must be an ART PyTorchClassifier, but is a ndarray"),
    ],
)
def test_what_has_no_such_layer_is_refused(model, says):
    with pytest.raises(InputError, match=says):
        head_weight_norms(model)
