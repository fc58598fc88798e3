"""On a device other than the CPU, attacks, trainings and audits give the CPU's numbers, and seldom wait for it."""

from __future__ import annotations

from typing import Any

import device_scenarios
import numpy as np
import pytest
from device_scenarios import ATTACKS, ODD_ONES, TRAININGS, Outcome
from processes import Child
from simulated_device import is_supported

pytestmark = pytest.mark.skipif(not is_supported(), reason="this torch takes no back end written in Python")


def run(function: str, *arguments: str) -> Any:
    """Call a function of the scenarios in a process of its own, since a device is registered for good."""
    return Child(__file__, "call", function, *arguments).result()


def call(function: str, *arguments: str) -> Any:
    return getattr(device_scenarios, function)(*arguments)


def check_bits(found: Outcome, *, exactly: bool = True) -> None:
    """See that all is the CPU's, to the bit; but for what a member of AutoAttack finds by passes of a few examples.

    There the CPU's are filled up to 16, which its kernels go by.
    """
    for there, here in zip(found.device, found.cpu, strict=True):
        if exactly:
            np.testing.assert_array_equal(there, here)
        else:
            np.testing.assert_allclose(there, here, rtol=0, atol=1e-6)


def outcome(told: Any) -> Outcome:
    assert not isinstance(told, str), told
    return told


@pytest.fixture(scope="module")
def attacked() -> dict[str, Any]:
    return run("of_a_table", "attacks")


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return run("of_a_table", "trainings")


def test_the_device_tells_what_waits_and_takes_no_tensors_of_the_cpu():
    """As CUDA does; see PyTorch's notes on asynchronous execution."""
    counted, said = run("of_operations")
    expected = {
        "": ("arithmetic", "from the CPU", "where", "filling by a mask", "backward", "indexing by indices"),
        "value read": ("bool()", "item()"),
        "copy to the CPU": ("tolist()", "cpu()", "copy_()"),
        "shape from values": ("nonzero()", "indexing by a mask"),
        "index copied from the CPU": ("indexing by the CPU's",),
    }
    assert counted == {name: {cause: 1} if cause else {} for cause, names in expected.items() for name in names}
    assert "on the CPU beside simulated:0" in said


# Without early stop a batch waits once, whatever the number of steps and restarts: to take home the points, and with
# them whether gradients were zero and logits finite.
ONCE = {"copy to the CPU": 1}
PER_BATCH = {name: ONCE for name in ATTACKS if name.startswith(("PGD", "TemperaturePGD")) and "early stop" not in name}
# Who is done is asked after every fourth step and at the end, of both batches together where they are attacked so.
EARLY = {
    "PGD early stop": 2,
    "PGD large early stop": 0,
    "PGD early stop, 4 steps": 1,  # none succeeds
    "PGD early stop, 44 steps": 11,
    # Some searches for a batch, towards one target after the other.
    "ClassWiseAttack": 40,
    "ClassWiseAttack L1": 40,
    "reach": 52,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_find_the_cpus_points(name, attacked):
    check_bits(outcome(attacked[name]), exactly="fab" not in name)


@pytest.mark.parametrize("name", PER_BATCH)
def test_attacks_wait_once_a_batch(name, attacked):
    assert outcome(attacked[name]).per_batch == PER_BATCH[name]


@pytest.mark.parametrize("name", EARLY)
def test_attacks_that_stop_early_wait_after_some_steps(name, attacked):
    assert sum(outcome(attacked[name]).per_batch.values()) <= EARLY[name]


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_move_weights_as_on_the_cpu_and_wait_for_no_batch(name, trained):
    found = outcome(trained[name])
    check_bits(found)
    assert found.per_batch == {}


def test_audits_have_the_cpus_outcomes():
    found = outcome(run("of_a_table", "audits")["audit"])
    check_bits(found)
    assert sum(found.per_batch.values()) < 20


@pytest.fixture(scope="module")
def odd_ones() -> dict[str, Any]:
    return run("of_odd_networks")


@pytest.mark.parametrize("odd", ODD_ONES, ids=lambda odd: odd.name)
def test_odd_networks_are_attacked_as_on_the_cpu(odd, odd_ones):
    found = odd_ones[odd.name]
    if found is None:
        pytest.skip("the network itself can't be on another device")
    assert not isinstance(found, str), found
    if not odd.is_random:
        np.testing.assert_allclose(*found, rtol=0, atol=1e-6)  # FFTs differ by the last digit


def test_most_odd_networks_can_be_on_another_device(odd_ones):
    assert sum(found is not None for found in odd_ones.values()) > 0.8 * len(odd_ones)
