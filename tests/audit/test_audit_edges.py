"""Unusual networks, attacks, data and folders in an audit."""

from __future__ import annotations

import copy
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.forward import computing_at_most
from art_classwise.audit import audit as audit_module
from art_classwise.audit import is_finished
from art_classwise.audit.provenance import data_fingerprint, fingerprint, model_fingerprint, parameters
from art_classwise.datasets import Dataset


class Wrapped(nn.Module):
    """A network behind a function, which is no weight and no layer."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x):
        return self.network(self.function(x))


def made(module):
    return acw.as_classifier(module, (3, 6, 6), 4, device="cpu")


class Writes:
    """An attack that writes into what it is given."""

    attack_params = ()

    def generate(self, x, y=None):
        x[:] = 1 - x
        y[:] = 0
        return x


def test_an_attack_that_writes_into_its_input_moves_no_ball(classifier, data):
    attacks = {
        "writes": lambda c: Writes(),
        "after": lambda c: acw.PGD(c, eps=0.01, eps_step=0.01, max_iter=1, num_random_init=0, verbose=False),
    }
    found = acw.ClassWiseAudit("Linf:0.01", attacks, verbose=False).evaluate({"net": classifier}, data).outcomes
    alone = {"after": attacks["after"]}
    expected = acw.ClassWiseAudit("Linf:0.01", alone, verbose=False).evaluate({"net": classifier}, data).outcomes
    first = found[found["attack"] == "writes"]
    reached = np.clip(1 - data.x, data.x - np.float32(0.01), data.x + np.float32(0.01))
    assert (first["prediction"].to_numpy() == classifier.predict(reached).argmax(1)).all()
    np.testing.assert_allclose(first["perturbation"], np.abs(reached - data.x).max((1, 2, 3)), atol=1e-6)
    assert (first["label"].to_numpy() == data.y).all()
    for column in ("prediction", "margin", "perturbation"):
        assert found[found["attack"] == "after"][column].tolist() == expected[column].tolist()


def test_functions_tell_networks_apart(network):
    def scaled(by):
        return lambda x: x * by

    functions = [
        torch.tanh,
        torch.sign,
        lambda x: x * 2,
        lambda x: x + 2,
        scaled(2),
        scaled(3),
        partial(torch.clamp, max=0.5),
        partial(torch.clamp, max=0.6),
        nn.functional.relu,
    ]
    told = [model_fingerprint(made(Wrapped(network, f))) for f in functions]
    assert len({*told}) == len(functions)
    assert told[4] == model_fingerprint(made(Wrapped(network, scaled(2))))
    assert told[7] == model_fingerprint(made(Wrapped(copy.deepcopy(network), partial(torch.clamp, max=0.6))))


def test_two_models_of_one_name_of_class_are_not_taken_for_one(network, data):
    def of(change):
        class Local(nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network

            def forward(self, x):
                return change(self.network(x))

        return made(Local())

    for change in (torch.neg, torch.detach):  # of the logits, and of nothing but the gradient
        with pytest.raises(InputError, match="'a' and 'b' have the same weights and layers, but compute differently"):
            acw.ClassWiseAudit("Linf:0.1", "fgsm", verbose=False).evaluate(
                {"a": of(lambda logits: logits), "b": of(change)}, data
            )
    twins = {"a": made(network), "b": made(copy.deepcopy(network))}
    outcomes = acw.ClassWiseAudit("Linf:0.1", "fgsm", verbose=False).evaluate(twins, data).outcomes
    a, b = (outcomes[outcomes["model"] == m].drop(columns="model").reset_index(drop=True) for m in "ab")
    assert a.equals(b)


def test_networks_of_unusual_state_have_fingerprints(network):
    class Unusual(Wrapped):
        def __init__(self, version):
            super().__init__(network, torch.tanh)
            self.version, self.half = version, torch.ones(3, dtype=torch.bfloat16)

        def get_extra_state(self):
            return {"version": self.version}

        def extra_repr(self):
            return repr(lambda: None)  # with an address

    class Other(Unusual):
        def __init__(self, half):
            super().__init__(1)
            self.half = half

    def told(module):
        return model_fingerprint(
            PyTorchClassifier(module, nn.CrossEntropyLoss(), (3, 6, 6), 4, clip_values=(0, 1), device_type="cpu")
        )

    assert told(Unusual(1)) == told(Unusual(1)) != told(Unusual(2))
    assert told(Other(torch.ones(3, dtype=torch.bfloat16))) != told(Other(torch.zeros(3, dtype=torch.bfloat16)))


def test_networks_that_draw_numbers_draw_the_same_again(network, data, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "_SHARD", 4)
    noisy = made(Wrapped(network, lambda x: x + 0.3 * torch.randn_like(x)))
    tables = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        audit = acw.ClassWiseAudit("Linf:0.05", "fgsm", store=tmp_path / str(seed), verbose=False)
        tables.append(audit.evaluate({"net": noisy}, data).outcomes)
        assert torch.equal(torch.get_rng_state(), before)
    assert tables[0].equals(tables[1])
    for path in (tmp_path / "1" / "outcomes").rglob("*-00002-*.parquet"):
        path.unlink()
    again = acw.ClassWiseAudit("Linf:0.05", "fgsm", store=tmp_path / "1", verbose=False).evaluate({"net": noisy}, data)
    assert again.outcomes.equals(tables[0])


def test_a_surrogate_may_be_one_of_the_models(classifier, network, data, tmp_path):
    other = copy.deepcopy(network)
    other[5].weight.data *= -1
    options = {"threat": "Linf:0.05", "attacks": "transfer-fgsm", "store": tmp_path, "verbose": False}
    models = {"surrogate": classifier, "other": made(other)}
    first = acw.ClassWiseAudit(surrogate=classifier, **options).evaluate(models, data).outcomes
    twin = made(copy.deepcopy(network))
    assert acw.ClassWiseAudit(surrogate=twin, **options).evaluate(models, data).outcomes.equals(first)


def test_the_batch_size_of_arts_pgd_is_bounded(classifier, network, images, labels):
    seen = []
    wrapped = made(Wrapped(network, lambda x: seen.append(len(x)) or x))
    pgd = ProjectedGradientDescent(wrapped, eps=0.1, eps_step=0.05, max_iter=2, batch_size=64, verbose=False)
    for attack in (pgd, acw.TransferAttack(classifier, pgd)):
        seen.clear()
        with computing_at_most(attack, 4):
            attack.generate(images, labels)
        assert max(seen) == 4
    assert (pgd.batch_size, pgd._attack.batch_size) == (64, 64)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # ART 1.20.1's, of NumPy 2
def test_attacks_from_outside_keep_their_batches_while_memory_lasts(network, data):
    """Their random numbers belong to a batch; in need it is cut all the same."""
    seen, most = [], [100]

    def limited(x):
        seen.append(len(x))
        if len(x) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    attacks = {
        "pgd": lambda c: ProjectedGradientDescent(
            c, eps=0.05, eps_step=0.02, max_iter=2, num_random_init=3, batch_size=64, verbose=False
        )
    }
    net = {"net": made(Wrapped(network, limited))}
    tables = [
        acw.ClassWiseAudit("Linf:0.05", attacks, batch_size=size, verbose=False).evaluate(net, data).outcomes
        for size in (None, 4)
    ]
    assert tables[0].equals(tables[1])
    large = Dataset(np.tile(data.x, (3, 1, 1, 1)), np.tile(data.y, 3), data.classes)
    most[0] = 32
    seen.clear()
    with pytest.warns(UserWarning, match="Out of memory"):
        outcomes = acw.ClassWiseAudit("Linf:0.05", attacks, verbose=False).evaluate(net, large).outcomes
    assert len(outcomes) == 48
    assert max(seen[-10:]) <= 32


def test_whole_numbers_are_told_alike():
    assert fingerprint({"norm": 2}) == fingerprint({"norm": 2.0})
    assert fingerprint([2**53 + 1]) != fingerprint([2**53])


def test_numpy_seeds_relative_folders_and_wrong_functions(classifier, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audit = acw.ClassWiseAudit("Linf:0.05", "fgsm", store="here", seed=np.int64(3), verbose=False)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    audit.evaluate({"net": classifier}, data)
    assert acw.read_audit(tmp_path / "here").manifest.seed == 3
    with pytest.raises(InputError, match="function for 'none' must return an ART evasion attack .* a NoneType"):
        acw.ClassWiseAudit("Linf:0.05", {"none": lambda c: None}, verbose=False).evaluate({"net": classifier}, data)


def test_uncompressed_images_of_the_same_names_are_told_apart(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for place in ("one", "two"):
        for k in ("a", "b"):
            (tmp_path / place / "images" / k).mkdir(parents=True)
            pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / "images" / k / "0.bmp")
    one, two = (data_fingerprint(acw.load_dataset(tmp_path / place / "images")) for place in ("one", "two"))
    assert one != two


@pytest.mark.parametrize("ids", [np.arange(16) / 2, np.arange(16, dtype=np.uint64) + 2**63, np.zeros((16, 1), int)])
def test_ids_are_whole_numbers(data, ids):
    with pytest.raises(InputError, match="ids must be whole numbers"):
        Dataset(data.x, data.y, data.classes, ids=ids)
    assert Dataset(data.x, data.y, data.classes, ids=[*range(16)]).take(np.arange(2)).ids.tolist() == [0, 1]


def test_a_hostile_manifest_is_refused(classifier, data, tmp_path):
    acw.ClassWiseAudit("Linf:0.05", "fgsm", store=tmp_path, verbose=False).evaluate({"net": classifier}, data)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    deep = json.dumps(content).replace('"parameters": {', '"parameters": {"x": ' + "[" * 500 + "]" * 500 + ",", 1)
    number = json.dumps(content).replace('"seed": 0', '"seed": ' + "9" * 5000)
    for text in ("[" * 100_000, deep, number, json.dumps(content | {"created": "\udcff"})):
        path.write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            acw.read_audit(tmp_path)


def test_models_of_one_network_on_other_images_keep_their_outcomes(classifier, data, tmp_path):
    import pandas as pd

    darker = Dataset(data.x / 2, data.y, data.classes, ids=data.ids)
    audit = acw.ClassWiseAudit("Linf:0.05", "fgsm", verbose=False)
    results = [audit.evaluate({name: classifier}, d) for name, d in (("bright", data), ("dark", darker))]
    rows = pd.concat([r.outcomes.astype({"model": str, "attack": str}) for r in results], ignore_index=True)
    rows["model"] = pd.Categorical(rows["model"], categories=["bright", "dark"])
    rows["attack"] = pd.Categorical(rows["attack"], categories=["fgsm"])
    models = results[0].manifest.models | results[1].manifest.models
    acw.AuditResult(rows, results[0].manifest.updated(models=models)).save(tmp_path)
    assert acw.read_audit(tmp_path).outcomes.equals(rows)


def test_a_fingerprint_that_is_a_path_is_refused(result):
    with pytest.raises(InputError, match=r"models\.net: a fingerprint must be 32 hexadecimal digits"):
        result.manifest.updated(models={"net": "../../../outside"})


def test_an_error_says_on_which_model(classifier, network, data):
    broken = copy.deepcopy(network)
    broken[5].bias.data[0] = float("nan")
    with pytest.raises(InputError, match="On the model 'broken': .*not finite"):
        acw.ClassWiseAudit("Linf:0.1", "fgsm", verbose=False).evaluate(
            {"fine": classifier, "broken": made(broken)}, data
        )


def test_postprocessing_defences_are_refused(network, data):
    from art.defences.postprocessor import ReverseSigmoid

    options = {"clip_values": (0, 1), "device_type": "cpu", "postprocessing_defences": ReverseSigmoid()}
    defended = PyTorchClassifier(network, nn.CrossEntropyLoss(), (3, 6, 6), 4, **options)
    with pytest.raises(InputError, match="'net' has postprocessing defences"):
        acw.ClassWiseAudit("Linf:0.1", "fgsm", verbose=False).evaluate({"net": defended}, data)


def test_a_damaged_saved_result_is_no_audit_to_run_again(result, tmp_path):
    result.save(tmp_path)
    next(tmp_path.rglob("*.parquet")).write_bytes(b"x")
    with pytest.raises(InputError, match="is damaged: .* was written by save.*save it again") as caught:
        acw.read_audit(tmp_path)
    assert "Run the same audit" not in str(caught.value)


def test_a_result_that_no_audit_made_is_shown_and_saved(result, tmp_path):
    from art_classwise.report import render

    manifest = acw.audit.Manifest.of_table(result.outcomes, result.classes, result.threat)
    made = acw.AuditResult(result.outcomes, manifest)
    assert "Robustness by class" in render(made)
    made.save(tmp_path)
    read = acw.read_audit(tmp_path)
    assert read.outcomes.equals(result.outcomes)
    assert (read.classes, read.threat) == (result.classes, result.threat)


# What no test would have noticed.


def test_a_shard_in_another_ones_place_is_damaged(classifier, network, data, tmp_path):
    """Of another model: its file, with its name and bytes."""
    other = copy.deepcopy(network)
    other[5].weight.data *= -1
    audit = acw.ClassWiseAudit("Linf:0.05", "fgsm", store=tmp_path, verbose=False)
    audit.evaluate({"a": classifier, "b": made(other)}, data)
    a, b = (next((tmp_path / f"outcomes/model={m}/attack=clean").iterdir()) for m in "ab")
    shutil.copy(a, b)
    with pytest.raises(InputError, match="don't have the checksum"):
        acw.read_audit(tmp_path)


def test_outside_attacks_draw_other_numbers_in_each_shard(classifier, monkeypatch):
    monkeypatch.setattr(audit_module, "_SHARD", 2)
    x = np.full((4, 3, 6, 6), 0.5, np.float32)
    data = Dataset(x, np.zeros(4, int), ("a", "b", "c", "d"))

    class Noise:
        attack_params = ()

        def generate(self, x, y=None):
            return x + np.random.uniform(-0.05, 0.05, x.shape).astype(np.float32)

    audit = acw.ClassWiseAudit("Linf:0.05", {"noise": lambda c: Noise()}, verbose=False)
    assert audit.evaluate({"net": classifier}, data).outcomes["margin"].nunique() == 4


def test_what_computes_alike_told_with_a_surrogate(classifier):
    pgd = acw.PGD(classifier, verbose=False)
    assert "estimator" in parameters(acw.TransferAttack(classifier, pgd))["attack"]


def test_an_audit_without_a_clean_shard_is_unfinished(classifier, data, tmp_path):
    acw.ClassWiseAudit("Linf:0.05", "fgsm", store=tmp_path, verbose=False).evaluate({"net": classifier}, data)
    assert is_finished(tmp_path)
    next(tmp_path.rglob("attack=clean/*.parquet")).unlink()
    assert not is_finished(tmp_path)


def test_what_is_told_is_of_what_was_asked(classifier, network, data, tmp_path):
    audit = acw.ClassWiseAudit("Linf:0.05", ["fgsm", "pgd-2"], store=tmp_path, verbose=False)
    audit.evaluate({"a": classifier, "b": classifier}, data)
    some = acw.ClassWiseAudit("Linf:0.05", ["pgd-2"], store=tmp_path, verbose=False).evaluate({"b": classifier}, data)
    assert (some.models, some.attacks) == (("b",), ("pgd-2",))
    assert ([*some.manifest.models], [*some.manifest.attacks]) == (["b"], ["pgd-2"])


def test_an_attack_may_return_what_can_not_be_written_to(classifier, data):
    class Frozen:
        attack_params = ()

        def generate(self, x, y=None):
            return np.broadcast_to(np.float32(0.5), x.shape)

    audit = acw.ClassWiseAudit("Linf:0.05", {"grey": lambda c: Frozen()}, verbose=False)
    outcomes = audit.evaluate({"net": classifier}, data).outcomes
    reached = np.clip(np.float32(0.5), data.x - np.float32(0.05), data.x + np.float32(0.05))
    assert (outcomes["prediction"].to_numpy() == classifier.predict(reached).argmax(1)).all()
