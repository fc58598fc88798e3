"""Statements about an audit: in-toto's form, and signatures where model-signing is installed."""

from __future__ import annotations

import json

import pytest

from art_classwise import InputError
from art_classwise.evidence import attestation_differences, verify, write_attestation
from art_classwise.evidence.attest import Statement


def test_a_statement_is_in_totos(store, tmp_path):
    found = verify(store)
    write_attestation(tmp_path / "a.json", store, found)
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert content["subject"] == [{"name": "manifest.json", "digest": {"sha256": found.root}}]
    assert content["predicate"]["result"] == "WARNED"  # no root digest was given
    assert content["predicate"]["passedTests"] == ["files", "records", "rows", "page"]
    assert content["predicate"]["failedTests"] == []
    assert (
        Statement.model_validate_json((tmp_path / "a.json").read_text()).to_json() == (tmp_path / "a.json").read_text()
    )
    assert attestation_differences(tmp_path / "a.json", found) == []


def test_what_differs_is_a_failed_test(store, tmp_path):
    (store / "by_class.csv").write_text("x", encoding="utf-8")
    found = verify(store)
    write_attestation(tmp_path / "a.json", store, found)
    assert json.loads((tmp_path / "a.json").read_text())["predicate"]["failedTests"] == ["page"]
    assert any("checks failed: page" in said for said in attestation_differences(tmp_path / "a.json", found))


def test_a_statement_of_another_audit_is_told(store, chain, tmp_path):
    write_attestation(tmp_path / "a.json", chain, verify(chain))
    (said,) = attestation_differences(tmp_path / "a.json", verify(store))
    assert "is about another audit" in said


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"_type": "x"}', "\x00"])
def test_what_is_no_statement_is_refused(store, tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json"):
        attestation_differences(tmp_path / "a.json", verify(store))


def test_without_model_signing_a_sentence_says_what_to_install(store, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "model_signing", None)
    with pytest.raises(InputError, match=r"art-classwise\[sign\]"):
        write_attestation(tmp_path / "a.json", store, verify(store), key=tmp_path / "key.pem")
    assert not (tmp_path / "a.json").exists()


def test_signed_and_checked(store, tmp_path):
    pytest.importorskip("model_signing", reason="needs model-signing")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    keys = {}
    for who in ("maker", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        keys[who] = key
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (tmp_path / f"{who}.pem").write_bytes(private)
        (tmp_path / f"{who}.pub").write_bytes(public)
    found, path = verify(store), tmp_path / "a.json"
    write_attestation(path, store, found, key=tmp_path / "maker.pem")
    assert attestation_differences(path, found, key=tmp_path / "maker.pub") == []
    assert "isn't a signature of it" in attestation_differences(path, found, key=tmp_path / "other.pub")[0]
    path.write_text(path.read_text().replace("WARNED", "PASSED"), encoding="utf-8")
    assert "isn't a signature of it" in attestation_differences(path, found, key=tmp_path / "maker.pub")[0]
