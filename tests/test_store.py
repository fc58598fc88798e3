from __future__ import annotations

import json

import pandas as pd
import pytest

import art_classwise as acw
from art_classwise import InputError


def test_round_trip_through_a_folder(result, tmp_path):
    result.save(tmp_path / "a" / "b")
    again = acw.read_audit(tmp_path / "a" / "b")
    pd.testing.assert_frame_equal(again.outcomes, result.outcomes)
    assert (again.classes, again.threat, again.info) == (result.classes, result.threat, result.info)
    pd.testing.assert_frame_equal(again.by_class(), result.by_class())
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["manifest.json", "outcomes.parquet"]


def test_store_is_written_by_evaluate(classifier, data, tmp_path):
    result = acw.ClassWiseAudit("Linf:0.1", "fgsm", store=tmp_path, verbose=False).evaluate({"a": classifier}, data)
    pd.testing.assert_frame_equal(acw.read_audit(tmp_path).outcomes, result.outcomes)


def test_a_damaged_store_is_named(result, tmp_path):
    with pytest.raises(InputError, match=r"holds no audit: there is no manifest\.json"):
        acw.read_audit(tmp_path)
    result.save(tmp_path)
    table, manifest = tmp_path / "outcomes.parquet", tmp_path / "manifest.json"
    whole, text = table.read_bytes(), manifest.read_text()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"outcomes\.parquet is damaged"):
        acw.read_audit(tmp_path)
    pd.DataFrame({"model": ["a"]}).to_parquet(table)
    with pytest.raises(InputError, match="other columns than an audit's"):
        acw.read_audit(tmp_path)
    table.write_bytes(whole)
    manifest.write_text(text[:40])
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        acw.read_audit(tmp_path)
    manifest.write_text(json.dumps(json.loads(text) | {"info": {"seed": 0}}))
    with pytest.raises(InputError, match=r"manifest\.json is damaged: KeyError\('attacks'"):
        acw.read_audit(tmp_path)
    manifest.write_text(json.dumps(json.loads(text) | {"schema": 99}))
    with pytest.raises(InputError, match="schema 99"):
        acw.read_audit(tmp_path)
    manifest.write_text(json.dumps(json.loads(text) | {"models": ["other"]}))
    with pytest.raises(InputError, match="name different models"):
        acw.read_audit(tmp_path)
    manifest.write_text(json.dumps(json.loads(text) | {"classes": ["one"]}))
    with pytest.raises(InputError, match="labels outside the 1 classes"):
        acw.read_audit(tmp_path)


def test_a_command_with_bytes_that_are_no_text_is_kept(classifier, data, tmp_path):
    folder = tmp_path / "\udcff"
    audit = acw.ClassWiseAudit("Linf:0.1", "fgsm", store=folder, verbose=False, command="audit --out \udcff")
    audit.evaluate({"net": classifier}, data).to_html(folder / "report.html")
    assert acw.read_audit(folder).info["command"] == r"audit --out \udcff"
