"""What is known of networks as long as they stay so."""

from __future__ import annotations

import gc

import pytest
from torch import nn

from art_classwise._core.structure import PerNetwork, structure


def test_a_value_is_its_networks_own():
    known, one, same = PerNetwork[str](), nn.Linear(2, 2), nn.Linear(2, 2)
    same.load_state_dict(one.state_dict())
    known.set(one, 1, "a")
    assert known.get(one, 1) == "a"
    assert known.get(one, 2) is None
    assert known.get(same, 1) is None
    known.set(one, 2, "b")
    assert (known.get(one, 1), known.get(one, 2), len(known)) == (None, "b", 1)


def test_a_value_goes_with_its_network():
    known, stays = PerNetwork[str](), nn.Linear(2, 2)
    known.set(stays, 0, "stays")
    for i in range(20):  # ids are given anew
        network = nn.Linear(2, 2)
        assert known.get(network, 0) is None
        known.set(network, 0, str(i))
        assert known.get(network, 0) == str(i)
        del network
        gc.collect()
        assert len(known) == 1
    assert known.get(stays, 0) == "stays"


def test_those_asked_for_last_are_kept():
    known, networks = PerNetwork[int](most=2), [nn.Linear(1, 1) for _ in range(3)]
    for i, network in enumerate(networks[:2]):
        known.set(network, (), i)
    assert known.get(networks[0], ()) == 0
    known.set(networks[2], (), 2)
    assert [known.get(network, ()) for network in networks] == [0, None, 2]


@pytest.mark.parametrize("change", ["layer", "hook", "setting", "shape", "type"])
def test_a_change_of_structure_shows(change):
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    before = structure(network)
    assert structure(network.eval()) == before  # mode and values are no structure
    network[0].weight.data.mul_(2)
    assert structure(network) == before
    if change == "layer":
        network[1] = nn.Dropout(0.5)
    elif change == "hook":
        network[1].register_forward_pre_hook(lambda module, inputs: inputs)
    elif change == "setting":
        network[1].p = 0.25
    elif change == "shape":
        network[0].bias = None
    else:
        network.double()
    assert structure(network) != before
