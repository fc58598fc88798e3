"""Certificates in an audit's folder: whatever is forged is found, by digests or because it contradicts itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from forging import manifest_of, relisted, write_manifest
from small_audit import audit, make_classifier, make_data, result
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.audit import collect
from art_classwise.audit.store import Store
from art_classwise.certification import CertifiedResult
from art_classwise.certification.bounds import bounding
from art_classwise.certification.kept import certificate_folder, keep_certificate, read_certificates
from art_classwise.certification.result import parsed
from art_classwise.certification.smoothing import certified_radius, votes_of
from art_classwise.evidence import verify
from art_classwise.evidence.certificates import recertified
from art_classwise.evidence.recompute import drawn
from art_classwise.report import write_report

N, NOISE, ALPHA = 60, 0.1, 0.01
GIVEN = {"models": {name: (lambda name=name: make_classifier(name)) for name in ("net", "other")}, "data": make_data()}


def certified(name="net", **options):
    given = {"noise": NOISE, "n": N, "n_selection": 10, "alpha": ALPHA, "verbose": False}
    return acw.certify(make_classifier(name), make_data(), **given | options)


def keep(store, name, found):
    table = {"certified.csv": found.certified_at().to_csv().encode(), "certified.png": b"picture"}
    return keep_certificate(found, Store(store), name, table)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("certified") / "store"
    result(store, ("net", "other"), attacks=("fgsm",))
    for name in ("net", "other"):
        assert keep(store, name, certified(name)) is not None
    write_report(acw.read_audit(store), store)
    return store


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def file_of(store, name="net", file="certificate.json"):
    return store / "certificates" / name / file


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, list):
        return [changed(value[0]), *value[1:]]
    if isinstance(value, dict):
        return {**value, next(iter(value)): changed(next(iter(value.values())))}
    if isinstance(value, str):
        return {"smoothing": "interval", "L2": "Linf"}.get(value, f"{value[:-1]}{'1' if value[-1] != '1' else '2'}")
    return value * 1.01 if isinstance(value, float) and value else value + 1


def forged(store, field):
    content = json.loads(file_of(store).read_text())
    value = content[field]
    if field == "prediction":  # of an example that has one
        place = next(place for place, k in enumerate(value) if k >= 0)
        value[place] = (value[place] + 1) % 4
    else:
        content[field] = changed(value)
    file_of(store).write_text(json.dumps(content, ensure_ascii=False))


FIELDS = [*json.loads(certified().to_json())]
BY_COMPUTING = {"seed", "n_selection", "environments"}
"""What contradicts nothing else, if the forger computes table, page and digests anew."""


def test_what_nobody_forged_verifies(made):
    found = verify(made, recompute=0.2, seed=1, **GIVEN)
    assert found.ok, str(found)
    assert "certificates" in found.checks
    assert not any("certificate" in said for said in found.unchecked)
    assert [one.model for one in found.recomputed.certificates] == ["net", "other"]
    for one in found.recomputed.certificates:
        assert one.exact
        assert (len(one.examples), one.n, one.passes) == (4, 18, 4 * (N + 10))
    assert "4 of 18 certified examples of net come out equal to the bit, in 280 forward passes" in str(found)
    page = acw.read_audit(made).roots
    assert page == (found.root,)


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_field_is_found(store, field):
    forged(store, field)
    found = verify(store)
    assert "certificates/net/certificate.json isn't the file that the manifest lists." in found.differences["files"]
    with pytest.raises(acw.InputError, match=r"damaged|isn't the file that|is of|doesn't know"):
        write_report(acw.read_audit(store), store)
    relisted(store)
    differences = verify(store).differences.get("certificates", ())
    assert bool(differences) == (field not in BY_COMPUTING), differences
    assert all("certificates/net" in said and said.endswith(".") for said in differences)


@pytest.mark.parametrize("file", ["certificate.json", "certified.csv", "certified.png"])
@pytest.mark.parametrize("how", ["removed", "of the other model", "cut"])
def test_a_changed_file_is_found(store, file, how):
    path = file_of(store, file=file)
    if how == "removed":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        shutil.copy(file_of(store, "other", file), path)
        if file == "certified.png":
            path.write_bytes(b"another")
    found = verify(store)
    assert any(f"certificates/net/{file}" in said for said in found.differences["files"])
    if how == "of the other model" and file != "certified.png":  # which holds no numbers of its own
        relisted(store)
        assert any("certificates/net/" in said for said in verify(store).differences["certificates"])


def test_a_whole_folder_swapped_or_added_is_found(store):
    shutil.rmtree(store / "certificates" / "net")
    shutil.copytree(store / "certificates" / "other", store / "certificates" / "net")
    relisted(store)
    (said,) = verify(store).differences["certificates"]
    assert "its weights or layers aren't those of net" in said
    shutil.copytree(store / "certificates" / "other", store / "certificates" / "third")
    found = verify(store)
    assert "certificates/third/certificate.json isn't listed in the manifest." in found.differences["files"]
    assert "certificates/third/certificate.json is of no model of the audit." in found.differences["certificates"]


@pytest.mark.parametrize("field", ["prediction", "radius", "seed"])
def test_what_contradicts_nothing_is_found_by_certifying_anew(store, field, monkeypatch):
    content = json.loads(file_of(store).read_text())
    if field == "radius":  # of one vote more or less
        votes = votes_of(np.array(content["radius"]), N, NOISE, ALPHA)
        moved = certified_radius(np.where(votes < N, votes + 1, votes - 1), N, NOISE, ALPHA)
        content["radius"] = [float(m) if r > 0 else 0.0 for m, r in zip(moved, content["radius"], strict=True)]
    elif field == "prediction":
        content["prediction"] = [(k + 1) % 4 if k >= 0 else k for k in content["prediction"]]
    else:
        content[field] += 1
    file_of(store).write_text(json.dumps(content, ensure_ascii=False))
    file_of(store, file="certified.csv").write_text(parsed(file_of(store).read_bytes(), "it").certified_at().to_csv())
    relisted(store)
    (store / "report.html").unlink()
    found = verify(store, recompute=1.0, seed=0, **GIVEN)
    assert not any(of for name, of in found.differences.items() if name != "recomputed")
    differences = found.differences["recomputed"]
    assert differences
    assert all(said.startswith("The certificate of net comes out otherwise for example") for said in differences)
    if field != "seed":
        assert all(field in said for said in differences)
        of = certified().examples["radius"][drawn(18, 8 / 18, 0)]
        assert len(differences) == (of > 0).sum()
    # Elsewhere a vote may differ, but no more.
    monkeypatch.setattr("art_classwise.evidence.certificates.environment", lambda: None)
    again = verify(store, recompute=1.0, seed=0, **GIVEN).recomputed.certificates[0]
    assert not again.exact
    assert bool(again.differences) == (field != "radius")


class Plain(nn.Module):
    """What ART's bounds take: convolutions, dense layers and ReLU, in the order that they are called in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.relu, self.out = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(64, 4)

    def forward(self, x):
        return self.out(self.relu(self.conv(x)).flatten(1))


@pytest.mark.parametrize("method", ["interval", "zonotope"])
def test_bounds_are_computed_anew(tmp_path, method):
    plain, data = acw.as_classifier(Plain(), (3, 6, 6), 4, device="cpu"), make_data()
    store = tmp_path / "store"
    audit(store, attacks="fgsm").evaluate({"net": plain}, data)
    found = acw.certify(bounding(plain, method), data, max_radius=0.1, verbose=False)
    assert found.certificate.method == method
    keep(store, "net", found)
    given = {"models": {"net": plain}, "data": data}
    told = verify(store, recompute=1.0, seed=1, **given)
    assert told.ok, str(told)
    assert "8 of 18 certified examples of net come out equal but for 2 steps of the bisection, in 112" in str(told)
    assert not any("certificate" in one for one in told.unchecked)
    for change, other in ((0.003, True), (0.1 / 2**13, False)):
        examples = found.examples.assign(radius=found.examples["radius"] + change)
        keep(store, "net", CertifiedResult(examples, found.certificate, found.environments))
        told = verify(store, recompute=1.0, seed=1, **given)
        assert told.ok != other
        assert ("comes out otherwise" in str(told)) == other


def test_bounds_that_can_not_be_computed_anew_are_said(store):
    plain = acw.as_classifier(Plain(), (3, 6, 6), 4, device="cpu")
    found = acw.certify(bounding(plain, "interval"), make_data(), max_radius=0.1, verbose=False)
    with pytest.raises(InputError, match="ART can't bound this network by intervals"):
        recertified(found, "net", make_classifier(), make_data(), [0])
    with torch.no_grad():
        plain.model.out.bias += 1
    with pytest.raises(InputError, match="another network of net"):
        recertified(found, "net", plain, make_data(), [0])


def test_what_is_unfinished_or_of_an_earlier_release_is_said(store):
    content = json.loads(file_of(store).read_text())
    half = {name: v[:9] if name in ("example", "label", "prediction", "radius") else v for name, v in content.items()}
    shutil.rmtree(store / "certificates" / "other")
    Store(store).seal()
    folder = store / "certificates" / "other"
    folder.mkdir()
    (folder / "certificate.json").write_text(json.dumps(half))
    (store / "report.html").unlink()
    found = verify(store)
    assert not any("isn't listed" in said for said in found.differences["files"])
    assert any("certificate of other, which isn't finished" in said for said in found.unchecked)
    shutil.rmtree(folder)
    # As the manifest was before it listed certificates: all is read, and one sentence says how to go on.
    told = manifest_of(store)
    del told["lists_certificates"]
    told["files"] = {name: of for name, of in told["files"].items() if not name.startswith("certificates/")}
    write_manifest(store, told)
    older = acw.read_audit(store)
    write_report(older, store)
    assert set(read_certificates(store, older)) == {"net"}
    found = verify(store)
    assert found.ok, str(found)
    assert found.root == older.roots[0]
    (said,) = [one for one in found.unchecked if "ertificate" in one]
    assert "Digests of the certificates of net" in said
    assert "`art-classwise collect STORE` lists them" in said
    shutil.move(store / "certificates", store / "elsewhere")
    assert collect(store) == ()  # where there is none, nothing is new
    assert verify(store).root == older.roots[0]
    shutil.move(store / "elsewhere", store / "certificates")
    assert collect(store) == ()
    assert manifest_of(store)["files"].keys() > told["files"].keys()
    assert not any("ertificate" in one for one in verify(store).unchecked)


def test_an_audit_without_digests_is_vouched_for_by_nobody(store):
    """As 0.1.0 left it: a certificate is kept and shown there, and what was found is listed once someone asks."""
    told = manifest_of(store)
    del told["lists_certificates"]
    write_manifest(store, told | {"files": {}})
    shutil.rmtree(store / "certificates" / "net")
    before = (store / "manifest.json").read_bytes()
    assert keep(store, "net", certified()) is None
    assert (store / "manifest.json").read_bytes() == before
    found = verify(store)
    assert (found.ok, found.root) == (True, None)
    assert {"rows", "certificates"} <= found.checks.keys()
    file_of(store).write_bytes(file_of(store, "other").read_bytes())
    assert any("its weights or layers" in said for said in verify(store).differences["certificates"])


def test_two_that_certify_at_once_are_both_listed(monkeypatch):
    """The first one's files and manifest are written after the second has looked, and before it writes its own."""
    place = "memory://two-at-once"
    result(place, ("net", "other"), attacks=("fgsm",))
    write, first = Store.write_manifest, [certified("net")]

    def late(self, manifest):
        if first:
            keep(place, "net", first.pop())
        write(self, manifest)

    monkeypatch.setattr(Store, "write_manifest", late)
    keep(place, "other", certified("other"))
    assert verify(place).ok
    listed = Store(place).manifest().files
    assert {f"certificates/{model}/certificate.json" for model in ("net", "other")} <= listed.keys()


def test_two_that_certify_one_model_at_once_leave_what_is_listed(monkeypatch):
    """Their tables are of other radii: whichever stays, the manifest lists it."""
    place = "memory://one-model-twice"
    result(place, ("net",), attacks=("fgsm",))
    write, second, found = Store.write_manifest, [b"radius,class,n,certified,low,high,unknown\n"], certified("net")

    def late(self, manifest):
        if second and manifest.lists_certificates and len(manifest.files) > 10:
            keep_certificate(found, Store(place), "net", {"certified.csv": second.pop()})
        write(self, manifest)

    monkeypatch.setattr(Store, "write_manifest", late)
    keep(place, "net", found)
    assert not second
    found = verify(place)
    assert not found.differences["files"]


def test_names_of_folders_move_no_cursor(store):
    shutil.copytree(store / "certificates" / "net", store / "certificates" / "\x1b[2Jnet")
    assert "\x1b" not in str(verify(store))
    assert "is of no model of the audit" in str(verify(store))


def test_a_saved_result_keeps_certificates_of_its_networks_only(store):
    listed = Store(store).manifest().files
    mine = {name: of for name, of in listed.items() if name.startswith("certificates/net/")}
    acw.read_audit(store, models=["net"]).save(store, overwrite=True)
    now = Store(store).manifest()
    assert {name: of for name, of in now.files.items() if name.startswith("certificates/")} == mine
    assert not (store / "certificates" / "other" / "certificate.json").exists()
    write_report(acw.read_audit(store), store)
    assert verify(store).ok
    assert "certified" in (store / "report.html").read_text()


def test_names_of_folders_fit_file_systems():
    assert len(certificate_folder("", "é" * 300).rpartition("/")[2]) <= 255
    assert certificate_folder("", "é" * 300) != certificate_folder("", "é" * 301)


def test_votes_are_the_inverse_of_radii():
    for n, noise, alpha in ((1, 0.5, 0.4), (30, 0.25, 0.001), (1000, 1.0, 0.05)):
        votes = np.arange(1, n + 1)
        assert votes_of(certified_radius(votes, n, noise, alpha), n, noise, alpha).tolist() == votes.tolist()
    assert votes_of(0.31, 10**12, 0.25, 0.001) > 0  # no table of all counts is made
