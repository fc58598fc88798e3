"""What version 0.1.0 wrote before is read and means the same: an audit, a checkpoint, a training that was stopped."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from places import ROOT

import art_classwise as acw

KEPT = ROOT / "tests" / "kept"
ATTACKS = ["fgsm", "pgd-3", "margin-2x2", "tpgd5-2", "square"]
EXPECTED = json.loads((KEPT / "expected.json").read_text())


@pytest.fixture
def kept(tmp_path):
    shutil.copytree(KEPT, tmp_path / "kept")
    return tmp_path / "kept"


def test_a_checkpoint_means_the_same(kept, digits):
    classifier = acw.load_checkpoint(kept / "checkpoint.pt", device="cpu")
    np.testing.assert_allclose(classifier.predict(digits.x[:3]), EXPECTED["logits"], rtol=1e-4, atol=1e-4)


def by_class(result):
    robust = result.by_class()["robust"].unstack("class")
    return {attack: [round(float(v), 6) for v in row] for (_, attack), row in robust.iterrows()}


def test_an_audit_means_the_same(kept):
    assert by_class(acw.read_audit(kept / "audit")) == EXPECTED["robust"]


def test_what_was_tried_on_networks_is_still_told(kept, digits):
    """And what was not tried then is not told as if it had been; asked again, it is."""
    path = kept / "audit"
    told = acw.read_audit(path).checks
    later = {"false gradients", "wrong channel order", "probabilities instead of logits", "constant logits"}
    unknown = told[told["explanation"].str.contains("the release that made the audit didn't try it")]
    assert set(unknown["check"]) == later | {"wrong labels"}
    tried = told[told["looks_for"] == "predictions that change when repeated"].iloc[0]
    assert (tried["result"], tried["tried"]) == ("nothing found", 60)
    classifier = acw.load_checkpoint(kept / "checkpoint.pt", device="cpu")
    audit = acw.ClassWiseAudit("Linf:0.1", ATTACKS, store=path, verbose=False)
    again = audit.evaluate({"mine": classifier}, digits.first(60)).checks
    assert not again["explanation"].str.contains("the release that made").any()
    assert acw.read_audit(path).checks.equals(again)


def test_an_audit_goes_on_where_it_was(kept, digits, monkeypatch):
    """Asked again with one attack more, of the old ones nothing is computed: they have the fingerprints they had."""
    classifier = acw.load_checkpoint(kept / "checkpoint.pt", device="cpu")
    asked, generate = [], acw.PGD.generate
    monkeypatch.setattr(
        acw.PGD, "generate", lambda self, x, *a, **k: asked.append(self.max_iter) or generate(self, x, *a, **k)
    )
    audit = acw.ClassWiseAudit("Linf:0.1", [*ATTACKS, "pgd-7"], store=kept / "audit", checks=False, verbose=False)
    again = by_class(audit.evaluate({"mine": classifier}, digits.first(60)))
    assert asked == [7]
    assert {attack: again[attack] for attack in ATTACKS} == {attack: EXPECTED["robust"][attack] for attack in ATTACKS}


def test_a_training_that_was_stopped_goes_on(kept, tmp_path):
    train = acw.load_dataset("digits", "train")
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    classifier = acw.as_classifier(network, (1, 8, 8), 10, optimizer=optimizer, device="cpu")
    options = {"eps": 0.1, "max_iter": 2, "precision": "fp32", "verbose": False}
    trainer = acw.AdversarialTrainerTRADESPyTorch(
        classifier, beta=1.0, class_policy=acw.policies.FRL(alpha2=0), **options
    )
    history = trainer.fit(
        train.x[:128],
        train.y[:128],
        batch_size=64,
        nb_epochs=2,
        validation_data=(train.x[128:228], train.y[128:228]),
        checkpoint_dir=kept / "training",
        resume=True,
    )
    expected = json.loads((kept / "training.json").read_text())
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    weights = torch.cat([value.flatten() for value in network.state_dict().values()]).double()
    assert float(weights.norm()) == pytest.approx(expected["norm"], rel=1e-5)
