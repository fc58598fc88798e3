"""The folder of an audit: what is written, read, refused and mended."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core import files
from art_classwise.audit import audit as audit_module
from art_classwise.audit import is_finished, runner
from art_classwise.audit import store as store_module
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.provenance import environment
from art_classwise.audit.store import Store, Unit

OPTIONS = {"threat": "Linf:0.05", "attacks": ["fgsm", "pgd-3"], "verbose": False}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Four shards of the sixteen examples."""
    monkeypatch.setattr(audit_module, "_SHARD", 4)


@pytest.fixture
def folder(tmp_path, classifier, data):
    """An audit of one network under two attacks: twelve shards."""
    acw.ClassWiseAudit(store=tmp_path / "audit", **OPTIONS).evaluate({"net": classifier}, data)
    return tmp_path / "audit"


@pytest.fixture
def expected(classifier, data):
    return acw.ClassWiseAudit(**OPTIONS).evaluate({"net": classifier}, data).outcomes


@pytest.fixture
def computed(monkeypatch):
    """What is computed rather than read: the attack's name, or "clean", and the shard."""
    seen = []
    clean, attacked = runner.ShardRunner.clean, runner.ShardRunner.attacked
    monkeypatch.setattr(
        runner.ShardRunner, "clean", lambda self, c, shard: seen.append(("clean", shard)) or clean(self, c, shard)
    )
    monkeypatch.setattr(
        runner.ShardRunner,
        "attacked",
        lambda self, c, name, attack, shard, rows=None: (
            seen.append((name, shard)) or attacked(self, c, name, attack, shard, rows)
        ),
    )
    return seen


def again(folder, classifier, data, **options):
    return acw.ClassWiseAudit(store=folder, **{**OPTIONS, **options}).evaluate({"net": classifier}, data)


def shards(folder):
    return sorted(folder.rglob("*.parquet"))


def number(path):
    """Of a shard, by the name of its file."""
    return int(path.name.split("-")[2])


def unit_of(path):
    """What a file holds, by the manifest of its folder."""
    store = Store(path.parents[3])
    manifest = store.manifest()
    units = [
        Unit(model, attack, i)
        for model in manifest.models.values()
        for attack in (None, *(one.fingerprint for one in manifest.attacks.values()))
        for i in range(manifest.n_shards)
    ]
    (found,) = (
        unit
        for unit in units
        if path.name.startswith(f"{store_module._begin(unit.model, unit.attack)}-{unit.shard:05d}-")
    )
    return found


# Written and read.


def test_a_result_makes_the_round_trip_through_a_folder(result, tmp_path):
    for name, saved in (("every", result), ("worst", result.worst_case())):
        saved.save(tmp_path / "a" / name)
        read = acw.read_audit(tmp_path / "a" / name)
        pd.testing.assert_frame_equal(read.outcomes, saved.outcomes)
        assert (read.classes, read.threat, read.finished) == (saved.classes, saved.threat, True)
        assert read.manifest.examples == saved.manifest.examples.updated(saved=True)
        for field in ("seed", "worst_case", "models", "created", "environments", "commands", "probes", "published"):
            assert getattr(read.manifest, field) == getattr(saved.manifest, field)
        assert [read.manifest.parameters(a) for a in saved.attacks] == [
            saved.manifest.parameters(a) for a in saved.attacks
        ]
        pd.testing.assert_frame_equal(read.by_class(), saved.by_class())


def test_a_saved_audit_is_replaced_on_request_only(result, tmp_path, classifier, data):
    result.save(tmp_path)
    before = shards(tmp_path)
    with pytest.raises(InputError, match="holds an audit: choose another folder"):
        result.save(tmp_path)
    other = acw.ClassWiseAudit("Linf:0.07", "fgsm", verbose=False).evaluate({"net": classifier}, data)
    other.save(tmp_path, overwrite=True)
    pd.testing.assert_frame_equal(acw.read_audit(tmp_path).outcomes, other.outcomes)
    assert not {p for p in before if p.parent.name != "attack=clean"} & {*shards(tmp_path)}
    with pytest.raises(InputError, match=r"can't be used, since it holds a saved result, which no audit can continue"):
        again(tmp_path, classifier, data)


def test_what_evaluate_returns_lies_in_the_folder(folder, expected):
    result = acw.read_audit(folder)
    assert result.outcomes.equals(expected)
    assert {str(kind) for kind in result.outcomes.dtypes[2:]} == {"int64", "int32", "bool", "float32"}
    assert sorted(p.name for p in folder.iterdir()) == ["environments", "manifest.json", "outcomes", "plans", "probes"]
    assert len(shards(folder)) == 4 * 3
    assert {p.parent.relative_to(folder).as_posix() for p in shards(folder)} == {
        f"outcomes/model=net/attack={attack}" for attack in ("clean", "fgsm", "pgd-3")
    }
    assert not [*folder.rglob("*.tmp")]


def test_an_audit_asked_for_twice_is_read(folder, classifier, data, expected, computed):
    assert again(folder, classifier, data).outcomes.equals(expected)
    assert again(folder, classifier, data, batch_size=3).outcomes.equals(expected)
    assert computed == []


def test_a_copy_of_the_network_and_another_name_are_the_same_network(folder, classifier, data, computed):
    import copy

    module = copy.deepcopy(classifier.model)
    twin = acw.as_classifier(module, (3, 6, 6), 4, device="cpu")
    audit = acw.ClassWiseAudit(store=folder, **OPTIONS)
    assert audit.evaluate({"twin": twin}, data).models == ("twin",)
    assert computed == []
    assert acw.read_audit(folder).models == ("net", "twin")


def test_models_and_attacks_are_added(folder, classifier, data, computed):
    other = acw.as_classifier(acw.build("digits-cnn", (3, 6, 6), 4, seed=1).eval(), (3, 6, 6), 4, device="cpu")
    result = acw.ClassWiseAudit(store=folder, **{**OPTIONS, "attacks": ["pgd-3", "margin-2"]}).evaluate(
        {"net": classifier}, data
    )
    assert {name for name, _ in computed} == {"margin-2"}
    assert result.attacks == ("pgd-3", "margin-2")
    computed.clear()
    result = acw.ClassWiseAudit(store=folder, **OPTIONS).evaluate({"other": other}, data)
    assert {name for name, _ in computed} == {"clean", "fgsm", "pgd-3"}
    assert result.models == ("other",)
    with pytest.raises(InputError, match=r"holds an unfinished audit: of 'other' 12 of 16 shards are there"):
        acw.read_audit(folder)
    whole = acw.ClassWiseAudit(store=folder, **{**OPTIONS, "attacks": ["fgsm", "pgd-3", "margin-2"]}).evaluate(
        {"other": other, "net": classifier}, data
    )
    read = acw.read_audit(folder)
    assert (read.models, read.attacks) == (("net", "other"), ("fgsm", "pgd-3", "margin-2"))
    for model in read.models:
        for attack in read.attacks:
            pd.testing.assert_frame_equal(read.class_table(model, attack), whole.class_table(model, attack))


def test_a_shard_is_small_enough_for_imagenet(tmp_path):
    """50,000 examples x 30 models x 8 attacks in less than 300 MB, whole blocks of the disk counted."""
    rng = np.random.default_rng(0)
    (tmp_path / "s").mkdir()
    store, n = Store(tmp_path / "s"), 512
    prediction = rng.integers(0, 1000, n)
    common = {"example": np.arange(n) + 40_000, "prediction": prediction}
    common |= {"label": rng.integers(0, 1000, n), "margin": rng.normal(size=n)}
    cost = {"forwards": 30.2, "backwards": 20.1, "seconds": 0.01}
    clean = pd.DataFrame({**common, "perturbation": 0.0, "zero_gradient": False, **cost})
    attacked = pd.DataFrame({**common, "perturbation": rng.uniform(0, 1, n), "zero_gradient": prediction < 5, **cost})
    store.begin(
        Manifest.begun(
            threat=acw.ThreatModel.parse("Linf:0.1"),
            seed=0,
            worst_case=False,
            shard_size=n,
            examples={"dataset": "d", "split": "s", "n": 50_000},
            classes=("a",),
        )
    )
    blocks = 0
    for attack, rows in ((None, clean), ("b" * 32, attacked)):
        size = (tmp_path / "s" / store.write(Unit("a" * 32, attack, 3), rows).name).stat().st_size
        blocks += -(-size // 4096) * (1 if attack is None else 8)
    assert blocks * 4096 * 30 * -(-50_000 // n) < 300e6


# Interrupted, damaged, full.


def test_goes_on_where_it_was_interrupted(tmp_path, classifier, data, expected, computed, monkeypatch):
    counted = runner.ShardRunner.attacked

    def interrupted(*arguments):
        if len(computed) == 7:
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runner.ShardRunner, "attacked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path, classifier, data)
    first = [*computed]
    assert not is_finished(tmp_path)
    computed.clear()
    assert again(tmp_path, classifier, data).outcomes.equals(expected)
    assert is_finished(tmp_path)
    assert sorted(first + computed) == sorted((name, i) for name in ("clean", "fgsm", "pgd-3") for i in range(4))


def test_an_unfinished_audit_is_read_in_part(folder, expected):
    gone = next(p for p in shards(folder) if p.parent.name != "attack=clean" and number(p) == 2)
    gone.unlink()
    with pytest.raises(InputError, match=r"unfinished audit: of 'net' 11 of 12 shards are there\. Run the same audit"):
        acw.read_audit(folder)
    partly = acw.read_audit(folder, partial=True)
    assert (partly.finished, partly.manifest.examples.n) == (False, 12)
    part = partly.outcomes
    assert part.equals(expected[~expected["example"].between(108, 111)].reset_index(drop=True))
    for path in shards(folder):
        path.unlink()
    with pytest.raises(InputError, match="an audit without a finished shard"):
        acw.read_audit(folder, partial=True)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def another_schema(path):
    """A whole Parquet file, with its checksum in its name, but with other columns."""
    pd.DataFrame({"model": ["a"]}).to_parquet(path)
    renamed(path)


def renamed(path):
    begin = path.name.rpartition("-")[0]
    path.rename(path.with_name(f"{begin}-{store_module._digest(unit_of(path), path.read_bytes())}.parquet"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flipped, "don't have the checksum in its name"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "don't have the checksum in its name"),
        (lambda p: p.write_bytes(b""), "its 0 bytes"),
        (lambda p: shutil.copy(next(q for q in shards(p.parents[2]) if q != p), p), "don't have the checksum"),
        (another_schema, "it has other columns than an audit's shard: model"),
        (lambda p: p.write_bytes(b"no Parquet") and renamed(p), "Parquet"),
    ],
)
def test_a_damaged_shard_is_named_and_computed_anew(folder, classifier, data, expected, computed, damage, says):
    path = shards(folder)[5]
    damage(path)
    begin = path.name.rpartition("-")[0]
    with pytest.raises(InputError, match=rf"The shard .*{begin}-.*parquet is damaged: .*{says}"):
        acw.read_audit(folder)
    with pytest.warns(UserWarning, match=rf"The shard .*{begin}-.* is damaged: .*It is computed again"):
        assert again(folder, classifier, data).outcomes.equals(expected)
    assert len(computed) == 1
    assert acw.read_audit(folder).outcomes.equals(expected)


def test_shards_that_do_not_fit_together_are_refused(folder):
    """Whole files with right checksums, written by someone who left out what didn't withstand."""
    path = next(p for p in shards(folder) if p.parent.name != "attack=clean")
    table = pq.ParquetFile(path).read()
    pq.write_table(table.slice(0, 2), path, store_schema=False)
    renamed(path)
    with pytest.raises(InputError, match=r"-00000-.*is damaged: 4 examples were left to attack, but other 2"):
        acw.read_audit(folder)


def test_labels_beyond_the_classes_are_refused(folder):
    for path in (folder / "manifest.json", *(folder / "plans").iterdir()):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": ["one", "two"]}))
    with pytest.raises(InputError, match="holds labels or predictions outside of its 2 classes"):
        acw.read_audit(folder)


@pytest.mark.parametrize(("n_whole", "n_written"), [(0, 0), (0, 2), (5, 8)])  # the plan, the manifest, an environment
def test_a_full_disk_is_one_clear_error(tmp_path, classifier, data, expected, monkeypatch, n_whole, n_written):
    sync, count = os.fsync, []

    def full(descriptor):
        if len(count) >= n_written:
            raise OSError(errno.ENOSPC, "No space left on device")
        count.append(descriptor)
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            InputError, match=f"can't be written: No space left on device. The {n_whole} shards that are"
        ):
            again(tmp_path, classifier, data)
    assert len(shards(tmp_path)) == n_whole
    assert not [*tmp_path.rglob("*.tmp")]
    assert again(tmp_path, classifier, data).outcomes.equals(expected)


def test_what_a_killed_process_left_is_removed(folder, classifier, data, expected):
    path = shards(folder)[0]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = path.with_name(f".{path.name}.{files._HOST}-{ended.pid}-0a1b2c3d.tmp")
    path.rename(left)
    assert again(folder, classifier, data).outcomes.equals(expected)
    assert not left.exists()


# Another audit.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"threat": "Linf:0.06"}, "the threat model was 'Linf:0.05', but is 'Linf:0.06'"),
        ({"seed": 1}, "seed was 0, but is 1"),
        ({"worst_case": True}, "worst_case was False, but is True"),
    ],
)
def test_a_folder_holds_one_audit(folder, classifier, data, change, says, computed):
    with pytest.raises(InputError, match=f"can't be used, since it is another audit: {says}.*Choose another folder"):
        again(folder, classifier, data, **change)
    assert computed == []


def test_other_examples_networks_and_parameters_are_named(folder, classifier, data, network):
    with pytest.raises(InputError, match=r"examples was '16 of data \(test\), fingerprint .*but is '9 of data"):
        again(folder, classifier, data.first(9))
    with pytest.raises(InputError, match="examples was '16 of data"):
        again(folder, classifier, data.take(np.arange(16)[::-1]))
    with pytest.raises(InputError, match="of the attack 'fgsm', precision was 'auto', but is 'fp32'"):
        again(folder, classifier, data, precision="fp32")
    network[5].weight.data[0, 0] += 1e-3
    with pytest.raises(InputError, match="the network of the model 'net' was another"):
        again(folder, classifier, data)


def test_where_examples_leave_the_order_of_attacks_counts(tmp_path, classifier, data, computed):
    options = {**OPTIONS, "worst_case": True}
    both = acw.ClassWiseAudit(store=tmp_path, **options).evaluate({"net": classifier}, data)
    computed.clear()
    first = acw.ClassWiseAudit(store=tmp_path, **{**options, "attacks": "fgsm"}).evaluate({"net": classifier}, data)
    assert first.outcomes.equals(
        both.outcomes[both.outcomes["attack"] == "fgsm"].astype({"attack": first.outcomes["attack"].dtype})
    )
    assert computed == []
    more = {**options, "attacks": ["fgsm", "pgd-3", "margin-2"]}
    acw.ClassWiseAudit(store=tmp_path, **more).evaluate({"net": classifier}, data)
    assert {name for name, _ in computed} == {"margin-2"}
    with pytest.raises(InputError, match="the attacks were fgsm, pgd-3, margin-2, in this order, but are pgd-3, fgsm"):
        acw.ClassWiseAudit(store=tmp_path, **{**options, "attacks": ["pgd-3", "fgsm"]}).evaluate(
            {"net": classifier}, data
        )


# Nothing is trusted.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 1}, r"is of schema 1, but this release reads 2"),
        ({"schema": [2]}, r"is of schema \[2\]"),
        ({"format": "another"}, "its format isn't 'art-classwise audit'"),
        ({"payload": "x"}, "holds payload, which this release doesn't know"),
        ({"<b>\n": 1}, r"holds '<b>\\n', which this release doesn't know"),
        (
            {"models": {"net": "../../etc"}},
            r"models\.net: a fingerprint must be 32 hexadecimal digits, but is '../../etc'",
        ),
        ({"models": {"net": "A" * 32}}, "32 hexadecimal digits"),
        ({"models": {"net": "a" * 32 + "\n"}}, "32 hexadecimal digits"),
        ({"models": {}}, "it has no models"),
        ({"models": ["net"]}, "models must be an object with named values"),
        ({"models": {"": "a" * 32}}, r"models\.'': A model, attack or class name must be a non-empty string"),
        ({"attacks": {"a": {"fingerprint": "/abs", "parameters": {}}}}, "32 hexadecimal digits, but is '/abs'"),
        ({"attacks": {"a": {"fingerprint": "a" * 32, "parameters": {}, "code": 1}}}, r"holds attacks\.a\.code, which"),
        ({"attacks": {"a": {"fingerprint": "a" * 32}}}, r"lacks attacks\.a\.parameters"),
        (
            {"attacks": {"all attacks": {"fingerprint": "a" * 32, "parameters": {}}}},
            "which is reserved for several of them together",
        ),
        ({"threat": {"norm": "Linf", "eps": "1"}}, r"threat\.eps must be a number, but is '1'"),
        ({"threat": {"norm": "Linf", "eps": True}}, r"threat\.eps must be a number, but is True"),
        ({"threat": {"norm": "Linf", "eps": float("nan")}}, r"threat\.eps must be a finite number"),
        ({"threat": {"norm": "Linf", "eps": -1.0}}, "threat: The radius must be a finite number above 0"),
        ({"threat": {"norm": "Linf", "eps": 1.0, "code": 1}}, r"holds threat\.code, which"),
        (
            {"threat": {"norm": "L7", "eps": 1}},
            r"threat\.norm must be 'Linf', 'L2', 'L1' or 'corruptions', but is 'L7'",
        ),
        ({"shard_size": 0}, "shard_size must be at least 1, but is 0"),
        ({"shard_size": True}, "shard_size must be a whole number, but is True"),
        ({"shard_size": 512.0}, "shard_size must be a whole number, but is 512.0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**63}, "seed must be below 9223372036854775808"),
        ({"seed": "1"}, "seed must be a whole number, but is '1'"),
        ({"worst_case": "yes"}, "worst_case must be true or false, but is 'yes'"),
        ({"worst_case": 1}, "worst_case must be true or false, but is 1"),
        ({"classes": "abc"}, "classes must be a list"),
        ({"classes": ["a", "a"]}, "a class name appears twice"),
        ({"classes": [1]}, r"classes\.0 must be a text, but is 1"),
        ({"examples": {"dataset": "d", "split": "s", "n": -1, "fingerprint": None}}, r"examples\.n must be at least 1"),
        (
            {"examples": {"dataset": "d", "split": "s", "n": 10**15, "fingerprint": None}},
            "there are 10+ examples in shards",
        ),
        ({"examples": {"dataset": "d"}}, r"lacks examples\.split"),
        ({"environments": [{"python": "3"}]}, r"lacks environments\.0\.versions"),
        ({"commands": [["rm"]]}, r"commands\.0 must be a text, but is \['rm'\]"),
    ],
)
def test_a_manifest_of_someone_else_is_refused(folder, classifier, data, change, says):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=rf"manifest\.json.*({says})"):
        acw.read_audit(folder)
    with pytest.raises(InputError, match=says):
        again(folder, classifier, data)


def test_the_schema_describes_what_is_written(folder):
    jsonschema = pytest.importorskip("jsonschema")
    schema, content = Manifest.model_json_schema(), json.loads((folder / "manifest.json").read_text())
    jsonschema.validate(content, schema)
    assert content.keys() == schema["properties"].keys()
    for change in ({"format": "x"}, {"schema": 1}, {"models": {"net": "../x"}}, {"payload": 1}, {"seed": "1"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | change, schema)


def test_a_manifest_lacks_nothing(folder):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    assert Manifest.from_json(path.read_text()).to_json() == path.read_text()
    for key in content.keys() - {
        "probes",
        "published",
        "plan",
        "sources",
        "files",
        "saved_from",
        "lists_certificates",
    }:  # which older folders lack
        path.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        with pytest.raises(InputError, match=r"manifest\.json is"):
            acw.read_audit(folder)
    for text in ("", "[]", "{", "null", '{"schema": 2, "format": "art-classwise audit"}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json is"):
            acw.read_audit(folder)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"manifest\.json can't be read"):
        acw.read_audit(folder)
    shutil.rmtree(folder / "plans")
    path.unlink()
    with pytest.raises(InputError, match=r"holds no audit: there is no manifest\.json"):
        acw.read_audit(folder)


@pytest.mark.parametrize(
    "what",
    ["", "manifest.json", "outcomes", "outcomes/*", "outcomes/*/*=clean", "outcomes/*/*=clean/*-00001-*"]
    + [f"{kind}{files}" for kind in ("plans", "environments", "probes") for files in ("", "/*")],
)
def test_symbolic_links_are_refused(folder, classifier, data, tmp_path, what):
    """A store in a place that others can write to may point to where they can't."""
    path = folder if not what else next(folder.glob(what))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a symbolic link"):
        acw.read_audit(folder)
    with pytest.raises(InputError, match="is a symbolic link"):
        again(folder, classifier, data)


def test_a_folder_within_a_linked_one_is_fine(folder, classifier, data, tmp_path, expected):
    (tmp_path / "scratch").symlink_to(tmp_path)
    assert again(tmp_path / "scratch" / "audit", classifier, data).outcomes.equals(expected)


HOSTILE = ("../../outside", "/absolute", "<img src=x onerror=alert(1)>", "two\nlines", "\x1b[2Jcleared", "..")


def test_hostile_names_stay_names(tmp_path, classifier, network, data, capsys):
    """Of models, attacks and classes: nothing is written elsewhere, and pages and terminals show them as text."""
    from art_classwise.report import print_tables, write_report

    outside = {*tmp_path.rglob("*")}
    named = acw.Dataset(data.x, data.y, HOSTILE[1:5], ids=data.ids)
    attacks = {name: lambda c: acw.PGD(c, eps=0.05, max_iter=1, verbose=False) for name in HOSTILE}
    audit = acw.ClassWiseAudit("Linf:0.05", attacks, store=tmp_path / "deep" / "store", verbose=False)
    audit.evaluate(dict.fromkeys(HOSTILE, classifier), named)
    result = acw.read_audit(tmp_path / "deep" / "store")
    assert (result.models, result.attacks, result.classes) == (HOSTILE, HOSTILE, HOSTILE[1:5])
    write_report(result, tmp_path / "deep" / "store")
    written = {*tmp_path.rglob("*")} - outside
    assert all(p == tmp_path / "deep" or (tmp_path / "deep" / "store") in (p, *p.parents) for p in written)
    kinds = {"", ".json", ".parquet", ".html", ".png", ".csv"}
    assert all(p.is_dir() or p.suffix in kinds for p in written)
    page = (tmp_path / "deep" / "store" / "report.html").read_text()
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    print_tables(result)
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert not [line for line in shown.splitlines() if line.strip() == "lines"]


def test_a_command_with_bytes_that_are_no_text_is_kept(classifier, data, tmp_path):
    folder = tmp_path / "\udcff"
    audit = acw.ClassWiseAudit("Linf:0.1", "fgsm", store=folder, verbose=False, command="audit --out \udcff")
    audit.evaluate({"net": classifier}, data).to_html(folder / "report.html")
    assert acw.read_audit(folder).manifest.command == r"audit --out \udcff"


def test_the_manifest_says_where_outcomes_come_from(folder, classifier, data, monkeypatch):
    """Who reads only has no part in them."""
    first = acw.read_audit(folder).manifest.environments
    assert first == (environment(),)
    monkeypatch.setattr(audit_module, "environment", lambda: first[0].updated(python="3.99"))
    again(folder, classifier, data)
    assert acw.read_audit(folder).manifest.environments == first
    shards(folder)[3].unlink()
    again(folder, classifier, data)
    assert [e.python for e in acw.read_audit(folder).manifest.environments] == [first[0].python, "3.99"]


def test_files_of_a_shard_hold_what_is_promised(folder, expected):
    """A reader of the Parquet files by other means finds these columns and types, the same in every file."""
    schemas = [pq.read_schema(path) for path in shards(folder)]
    assert {kind for schema in schemas for kind in zip(schema.names, schema.types, strict=True)} == {
        ("example", pa.int64()),
        ("label", pa.int32()),
        ("prediction", pa.int32()),
        ("margin", pa.float32()),
        ("perturbation", pa.float32()),
        ("zero_gradient", pa.bool_()),
        ("forwards", pa.float32()),
        ("backwards", pa.float32()),
        ("seconds", pa.float32()),
    }


def test_other_programs_read_a_store_as_one_table(folder, expected):
    """pyarrow and DuckDB, models and attacks by their folders' names."""
    import pyarrow.dataset

    told = expected[["attack", "example", "prediction", "margin"]].sort_values(["attack", "example"])
    table = pyarrow.dataset.dataset(folder / "outcomes", partitioning="hive").to_table().to_pandas()
    query = f"select * from read_parquet('{folder}/outcomes/*/*/*.parquet', hive_partitioning = true)"
    duckdb = pytest.importorskip("duckdb", reason="needs DuckDB")
    for found in (table, duckdb.sql(query).df()):
        assert {*found["model"]} == {"net"}
        attacked = found[found["attack"] != "clean"].sort_values(["attack", "example"])
        assert (attacked[list(told)].astype(str).to_numpy() == told.astype(str).to_numpy()).all()
        assert len(found) - len(attacked) == 16
