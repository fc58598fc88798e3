"""Ways to forge an audit: each is found with the root digest; what contradicts itself, without it, too."""

from __future__ import annotations

import json
import re
import shutil
from urllib.parse import quote, unquote

import numpy as np
import pyarrow.parquet as pq
import pytest
from forging import manifest_of, relisted, rewritten, write_manifest

from art_classwise._core.fingerprints import digest
from art_classwise.evidence import verify


def path_of(store, attack="pgd-3", model="net", shard=1):
    (path,) = store.glob(f"outcomes/model={model}/attack={attack}/*-{shard:05d}-*.parquet")
    return path


def root_of(store):
    return digest((store / "manifest.json").read_bytes())


def column(name, change, attack="pgd-3", shard=1):
    """A forgery of one column of a shard, whose digests are computed anew."""

    def forge(store):
        rewritten(store, path_of(store, attack, shard=shard), lambda frame: frame.assign(**{name: change(frame)}))

    return forge


def in_place(change):
    """A forgery of a file's bytes, digests as they were."""

    def forge(store):
        path = path_of(store)
        path.write_bytes(change(path.read_bytes()))

    return forge


def rows(change, attack="pgd-3"):
    def forge(store):
        rewritten(store, path_of(store, attack), change)

    return forge


def in_manifest(change):
    def forge(store):
        content = manifest_of(store)
        change(content)
        write_manifest(store, content)

    return forge


def in_page(pattern, by):
    def forge(store):
        page = store / "report.html"
        text = page.read_text(encoding="utf-8")
        changed = re.sub(pattern, by, text, count=1)
        assert changed != text
        page.write_text(changed, encoding="utf-8")

    return forge


def moved(store):
    """A shard under the number of another."""
    path, other = path_of(store, shard=1), path_of(store, shard=2)
    other.unlink()
    path.rename(path.with_name(path.name.replace("-00001-", "-00002-")))
    relisted(store)


def doubled(store):
    path = path_of(store)
    shutil.copy(path, path.with_name(path.name.replace("-00001-", "-00000-")))
    relisted(store)


def of_another_model(store):
    """All that was found of one network under the name of the other."""
    content = manifest_of(store)
    models = content["models"]
    models["net"], models["other"] = models["other"], models["net"]
    write_manifest(store, content)


def copied_model(store):
    """A network's shard in place of another's, named as that one's."""
    theirs, mine = path_of(store, model="other"), path_of(store, model="net")
    table = pq.read_table(theirs).to_pandas()
    rewritten(store, mine, lambda _: table)


def dropped_shard(store):
    path_of(store).unlink()
    relisted(store)


def never_broken(store):
    """No attack ever succeeded: predictions, margins and digests fit."""
    for shard in range(5):
        for attack in ("fgsm", "pgd-3", "margin-5"):
            rewritten(
                store,
                path_of(store, attack, shard=shard),
                lambda frame: frame.assign(prediction=frame["label"], margin=np.float32(1.0)),
            )


def in_download(name, change):
    """A forgery of a file within the page."""

    def forge(store):
        page = store / "report.html"
        text = page.read_text(encoding="utf-8")
        begin = text.index(f'download="{name}"')
        start = text.index("utf-8,", begin) + 6
        end = text.index('"', start)
        whole = change(unquote(text[start:end]))
        page.write_text(text[:start] + quote(whole, safe=" ,:;/()") + text[end:], encoding="utf-8")

    return forge


def csv(store):
    path = store / "by_class.csv"
    path.write_text(re.sub(r"0\.\d", "0.9", path.read_text(encoding="utf-8"), count=1), encoding="utf-8")


def picture(store):
    from PIL import Image

    with Image.open(store / "by_class.png") as image:
        told, pixels = image.info.get("Software"), np.array(image.convert("RGB"))
    pixels[10:40, 10:40] = 0
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", told)
    Image.fromarray(pixels).save(store / "by_class.png", pnginfo=info)


def environments(content):
    content["environments"][0]["versions"]["torch"] = "9.9"


FORGERIES = {
    # name: (how, whether it is found without the root digest)
    "an outcome": (column("prediction", lambda f: f["label"]), False),
    "an outcome that contradicts its margin": (
        column("prediction", lambda f: (f["label"] + (f["margin"] > 0)) % 4),
        True,
    ),
    "a label": (column("label", lambda f: (f["label"] + 1) % 4), True),
    "a label without attack": (column("label", lambda f: (f["label"] + 1) % 4, "clean"), True),
    "a margin": (column("margin", lambda f: -f["margin"]), True),
    "a margin that is none": (column("margin", lambda f: f["margin"] * np.float32(np.nan)), True),
    "a perturbation": (column("perturbation", lambda f: f["perturbation"] * 3), True),
    "a perturbation without attack": (column("perturbation", lambda f: np.float32(0.01), "clean"), True),
    "a cost": (column("seconds", lambda f: -f["seconds"]), True),
    "a prediction of no class": (column("prediction", lambda f: f["prediction"] + 9), True),
    "other examples": (column("example", lambda f: f["example"] + 1), True),
    "a row dropped": (rows(lambda f: f.iloc[1:]), True),
    "a row dropped without attack": (rows(lambda f: f.iloc[1:], "clean"), True),
    "a row doubled": (rows(lambda f: f.iloc[[0, 0, 2, 3]]), True),
    "rows in another order": (rows(lambda f: f.iloc[::-1]), True),
    "a shard moved": (moved, True),
    "a shard doubled": (doubled, True),
    "a shard dropped": (dropped_shard, True),
    "a shard of another model": (copied_model, False),
    "models exchanged": (of_another_model, True),
    "no attack ever succeeded": (never_broken, True),  # by the page, which says what was
    "a bit": (in_place(lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]), True),
    "a file cut": (in_place(lambda b: b[:-1]), True),
    "a file emptied": (in_place(lambda b: b""), True),
    "the environment": (in_manifest(environments), True),
    "the command": (in_manifest(lambda c: c.update(commands=["art-classwise audit --attacks autoattack"])), True),
    "the radius": (in_manifest(lambda c: c["threat"].update(eps=0.5)), True),
    "the seed": (in_manifest(lambda c: c.update(seed=7)), True),
    "an attack's parameters": (in_manifest(lambda c: c["attacks"]["pgd-3"]["parameters"].update(max_iter=100)), True),
    "findings": (in_manifest(lambda c: c.update(probes={})), True),
    "figures of the page": (in_page(r"(<path d=\"M )\d+", r"\g<1>77"), True),
    "tables of the page": (in_page(r"(<td class=\"number[^>]*>)\s*[\d.]+", r"\g<1>99.9"), True),
    "words of the page": (in_page("withstands attack on", "withstands every attack on"), True),
    "a script of the page": (in_page("</body>", "<script>document.title='x'</script></body>"), True),
    "a style of the page": (in_page("</style>", "td {visibility: hidden}</style>"), True),
    "a page of another release": (in_page(r'"release": "', '"release": "9.'), True),
    "an element of the page": (in_page("<main", '<main style="display: none"'), True),
    "a table within the page": (in_download("by_class.csv", lambda t: t.replace("0.", "0.9", 1)), True),
    "the method within the page": (in_download("manifest.json", lambda t: t.replace("pgd-3", "pgd-300", 1)), True),
    "the table": (csv, True),
    "the figure": (picture, True),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(store, name):
    forge, without_root = FORGERIES[name]
    root = root_of(store)
    forge(store)
    found = verify(store, root=None if without_root else root)  # with the root digest it finds no less
    assert not found.ok
    assert all(said.endswith(".") for of in found.differences.values() for said in of)


def test_what_nobody_forged_verifies(made):
    for store in made.values():
        found = verify(store, root=root_of(store))
        assert found.ok, str(found)
        assert found.root == root_of(store)
        assert found.unchecked == ()
        assert set(found.checks) == {"root", "files", "records", "rows", "page"}
        assert verify(store / "report.html", root=f"sha256:{root_of(store).upper()}").ok


def test_rows_of_the_worst_case_are_nested(chain):
    def change(frame):
        return frame.iloc[:-1]

    for attack in ("pgd-3", "margin-5"):
        path = next(
            p for p in sorted(chain.glob(f"outcomes/model=*/attack={attack}/*.parquet")) if len(pq.read_table(p))
        )
        rewritten(chain, path, change)
        found = verify(chain)
        assert any("withstood the attacks before" in said for said in found.differences["rows"])


def test_the_root_is_what_sha256sum_prints(store, tmp_path):
    """As the documentation has it: with coreutils and jq alone."""
    import hashlib

    content = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
    for name, expected in content["files"].items():
        assert hashlib.sha256((store / name).read_bytes()).hexdigest() == expected
    assert len(content["files"]) == 2 * 5 * 4 + 1  # shards, and the images


def test_an_audit_that_is_not_finished_is_checked_as_far_as_it_goes(tmp_path):
    from small_audit import planned, work

    planned(tmp_path, models=("net",))
    work(tmp_path, index=0, of=2)
    found = verify(tmp_path)
    assert (found.ok, found.root) == (True, None)
    assert any("the audit is unfinished, or of an earlier release" in said for said in found.unchecked)
    path = path_of(tmp_path, "clean", shard=0)
    path.write_bytes(path.read_bytes()[:-1])
    assert "checksum in its name" in verify(tmp_path).differences["rows"][0]
    assert not verify(tmp_path, root="0" * 64).ok


def test_an_audit_of_an_earlier_release_is_checked_as_far_as_it_goes(tmp_path):
    """And sealed as it is, if someone asks for it."""
    from pathlib import Path

    from art_classwise.audit import collect

    kept = shutil.copytree(Path(__file__).parents[1] / "kept" / "audit", tmp_path / "kept")
    found = verify(kept)
    assert (found.ok, found.root, set(found.checks)) == (True, None, {"records", "rows"})
    assert collect(kept) == ()
    sealed = verify(kept)
    assert (sealed.ok, sealed.root) == (True, root_of(kept)), str(sealed)
    (path, *_) = kept.glob("shards/*/*/*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    assert not verify(kept).ok
