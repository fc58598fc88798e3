"""Saving over a result: whoever is killed, and whoever reads meanwhile, sees the old one or the new one, whole."""

from __future__ import annotations

import shutil

import pytest
from small_audit import result

from art_classwise import read_audit
from art_classwise._core import files
from art_classwise.evidence import verify
from art_classwise.report import write_report


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def results():
    options = {"attacks": ("fgsm", "pgd-3")}
    return result(models=("net",), **options), result(models=("net",), seed=1, **options)


def test_a_root_digest_is_of_a_folder_that_is_there(results, tmp_path):
    """What lies in memory has none; what is saved, its folder's; saved again, it says where it is from."""
    old, _ = results
    assert old.roots == ()
    old.save(tmp_path / "one")
    write_report(read_audit(tmp_path / "one"), tmp_path / "one")
    found = verify(tmp_path / "one")
    assert found.ok, str(found)
    assert read_audit(tmp_path / "one").roots == (found.root,)
    read_audit(tmp_path / "one").save(tmp_path / "two")
    assert read_audit(tmp_path / "two").manifest.saved_from == (found.root,)


@pytest.mark.parametrize("before", ["a result", "an audit"])
def test_killed_at_any_write_a_saved_result_is_the_old_or_the_new_one(before, results, tmp_path, monkeypatch):
    """At each rename and removal in turn, before it and after it."""
    old, new = results
    real, real_remove = files.os.replace, __import__("pathlib").Path.unlink
    point, finished = 0, False
    begun = tmp_path / "begun"
    if before == "an audit":
        result(begun, models=("net",), attacks=("fgsm", "pgd-3"))
    else:
        old.save(begun)
    seen = set()
    while not finished:
        store = tmp_path / str(point)
        shutil.copytree(begun, store)
        calls = iter(range(10_000))

        def step(act, *given, calls=calls, point=point, **options):
            number = 2 * next(calls)
            if number == point:
                raise Killed
            done = act(*given, **options)
            if number + 1 == point:
                raise Killed
            return done

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "replace", lambda *a, **k: step(real, *a, **k))
            patch.setattr("pathlib.Path.unlink", lambda *a, **k: step(real_remove, *a, **k))
            try:
                new.save(store, overwrite=True)
                finished = True
            except Killed:
                pass
        found = read_audit(store)
        which = [found.outcomes.equals(one.outcomes) for one in (old, new)]
        assert sum(which) == 1, point
        seen.add(which.index(True))
        new.save(store, overwrite=True)  # and it can be done again
        assert read_audit(store).outcomes.equals(new.outcomes)
        assert verify(store).ok
        point += 1
    assert seen == {0, 1}
    assert point > 10
