"""What the evaluation of AutoAttack's members measures, at sizes that take no time."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def member_speed(evaluation):
    return evaluation("member_speed")


@pytest.mark.parametrize("member", ["apgd-ce", "apgd-t", "fab-t"])
def test_both_ways_come_to_the_same(member_speed, member, shared, cifar10, tmp_path):
    x = (cifar10.x[:6] * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "six.npz", x=x, y=cifar10.y[:6])
    told = {"network": "cifar10-cnn-a", "radius": "4/255", "member": member, "device": "cpu"}
    sizes = {"batch": 6, "micro_batch": 4, "n_iter": 3}
    files = {"data": str(tmp_path / "six.npz"), "checkpoints": str(shared / "checkpoints")}
    ours, other = (member_speed.time_member(way=way, **told, **files, **sizes) for way in ("ours", "recomputed"))
    assert ours["withstood"] == other["withstood"]
    assert len(ours["withstood"]) == 6
    assert ours["seconds"] > 0


def test_a_row_compares_with_the_other_way(member_speed):
    def told(seconds, withstood, peak):
        return {"seconds": seconds, "withstood": withstood, "peak MiB": peak}

    measured = {
        "recomputed": [told(9.0, "1100", 50.0), told(6.0, "1100", 70.0), told(7.0, "1100", 60.0)],
        "ours": [told(2.0, "1010", 40.0), told(3.5, "1010", 30.0), told(4.0, "1010", 20.0)],
    }
    row = member_speed.row_of("ours", measured)
    assert row == {
        "way": "ours",
        "rounds": 3,
        "seconds": 3.5,
        "fastest": 2.0,
        "slowest": 4.0,
        "robust %": 50.0,
        "verdicts that differ": 2,
        "peak MiB": 40.0,
        "times recomputed": 2.0,
    }
    assert member_speed.row_of("recomputed", measured)["times recomputed"] == 1.0
