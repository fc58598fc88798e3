"""An audit by several processes that meet in its folder only, and are stopped, killed and started again.

The reference is one process that is left in peace, without a folder to go on from. Under torchrun this file is run as
a script; other processes run one of its functions.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from processes import Child, Parent, together
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.attacks import ladder
from art_classwise.audit import audit as module
from art_classwise.audit.store import DamagedShardError, Store, Unit

N, SHARD, SHARDS = 18, 4, 5  # the last shard has two examples
THREAT, CLASSES = "Linf:0.02", ("ant", "bee", "cow", "doe")
MODES = pytest.mark.parametrize("worst_case", [False, True], ids=["every example", "worst case"])
ATTACKS = {
    "all": {  # ART's draws from the global random state, and breaks the fewest
        "random": lambda classifier: FastGradientMethod(classifier, eps=0.02, num_random_init=2),
        **ladder(("pgd-3", "apgd-ce"), THREAT),
    },
    "few": ladder(("fgsm", "pgd-2"), THREAT),
}
UNITS = {name: SHARDS * (1 + len(attacks)) for name, attacks in ATTACKS.items()}  # of one model


# What runs in the processes.


def make_classifier(name="net"):
    torch.manual_seed({"net": 0, "other": 1}[name])
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 4))
    return acw.as_classifier(network.eval(), (3, 6, 6), 4, device="cpu")


def make_data(seed=0):
    """Examples that the network gets right, but for every fifth."""
    x = np.random.default_rng(seed).random((N, 3, 6, 6), dtype=np.float32)
    y = make_classifier().predict(x).argmax(1)
    return acw.Dataset(x, np.where(np.arange(N) % 5 == 1, (y + 1) % 4, y), CLASSES)


def outcomes(store=None, attacks="all", worst_case=False, model="net", seed=0):
    """The outcomes of an audit in small shards."""
    module._SHARD = SHARD  # what runs in the tests' own process puts it back
    audit = acw.ClassWiseAudit(THREAT, ATTACKS[attacks], worst_case=worst_case, store=store, verbose=False)
    return audit.evaluate({model: make_classifier(model)}, make_data(seed)).outcomes


@contextmanager
def watched(before, after=lambda unit: None):
    """Call ``before`` and ``after`` with each unit that this process computes."""
    real = module.fill

    def fill(store, chains, compute, **options):
        def call(unit):
            before(unit)
            frame = compute(unit)
            after(unit)
            return frame

        return real(store, chains, call, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fill", fill)
        yield


def until(true):
    """Wait for something that other processes do."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def meet(folder, who, n):
    """Wait until ``n`` processes have come here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(who)).touch()
    until(lambda: len([*folder.iterdir()]) >= n)


def recorded(store, place, who, n, **options):
    """Outcomes, and which units this process began: its second one not before all have begun one."""
    begun = []

    def before(unit):
        begun.append(unit)
        if len(begun) == 1:
            meet(place, who, n)

    with watched(before):
        return outcomes(store, **options), begun


def warned(store, place, who, n, **options):
    """Outcomes, which units this process began, and what it warned of."""
    meet(place, who, n)
    begun = []
    with warnings.catch_warnings(record=True) as said, watched(begun.append):
        warnings.simplefilter("always")
        return outcomes(store, **options), begun, [str(one.message) for one in said]


def under_torchrun(folder):
    """What a rank does: two audits. Of three ranks, one is killed at its second unit of the second, the first time."""
    rank, n, run = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"))
    there = units_in(folder / "worst case")
    meet(folder / f"run {run}", rank, n)
    found = {"there": there}
    for name, worst_case in (("every example", False), ("worst case", True)):
        begun = []

        def before(unit, name=name, begun=begun):
            begun.append(unit)
            with (folder / f"{name}.log").open("a") as log:
                log.write(f"{run} {rank} {unit}\n")
            if run == 0 and len(begun) == 1:
                meet(folder / f"{name}, first", rank, n)
            if (run, rank, n, name, len(begun)) == (0, 1, 3, "worst case", 2):
                os.kill(os.getpid(), signal.SIGKILL)

        with watched(before):
            found[name] = outcomes(folder / name, worst_case=worst_case)
    return found


def launched(folder):
    """Three ranks by what is behind torchrun, which forks them here: they needn't import everything again."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    one_machine = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    options = {"max_restarts": 1, "monitor_interval": 0.1, "start_method": "fork"}
    found = elastic_launch(LaunchConfig(nproc_per_node=3, **one_machine, **options), under_torchrun)(folder)
    return [found[rank] for rank in range(3)]


def killed(store, point, nth, **options):
    """An audit that is killed at a point that it reaches for the n-th time."""
    reached = []

    def reach(here):
        if here == point:
            reached.append(here)
            if len(reached) == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    real = Path.replace

    def replace(self, target):
        reach(f"before the rename of a {Path(target).suffix[1:]}")
        real(self, target)
        reach(f"after the rename of a {Path(target).suffix[1:]}")

    Path.replace = replace
    with watched(lambda unit: reach("before computing"), lambda unit: reach("after computing")):
        outcomes(store, **options)


def stopped(store, note, **options):
    """An audit that is stopped while it computes its first unit under attack; ``note`` then says which."""

    def before(unit):
        if unit.attack is not None and not note.exists():
            note.write_text(str(unit.shard))
            os.kill(os.getpid(), signal.SIGSTOP)

    with watched(before):
        return outcomes(store, **options)


# What they leave behind.


def units_in(store):
    """The units that are there, each once and whole: the store reads it."""
    found = []
    for path in Path(store).glob("shards/*/*/*.parquet"):
        model, attack = path.parts[-3:-1]
        found.append(Unit(model, None if attack == "clean" else attack, int(path.name.partition("-")[0])))
        Store(Path(store)).read(found[-1])
    assert len(found) == len(set(found))
    return set(found)


def assert_tidy(store):
    """Nothing is left of what was on its way: no file aside, no lock of a unit."""
    assert [*store.rglob("*.tmp")] == []
    assert [path.name for path in (store / "locks").iterdir()] in ([], ["manifest.lock"])


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    usual = module._SHARD
    yield
    module._SHARD = usual


@pytest.fixture(scope="module")
def references():
    """The outcomes by one process."""
    return {(a, mode): outcomes(attacks=a, worst_case=mode) for a in ATTACKS for mode in (False, True)}


def test_the_reference_puts_everything_to_the_test(references):
    """Each attack breaks some examples and not all, and in the worst case leaves the next one fewer."""
    for (attacks, worst_case), table in references.items():
        withstood = table.groupby("attack", observed=True)["withstood"].sum()
        assert ((withstood > 0) & (withstood < N - 4)).all()
        assert not table.equals(references[attacks, not worst_case])


# Under torchrun.


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two ranks left, and what three did, of which one was killed so that all were started again."""
    two, three = (tmp_path_factory.mktemp(name) for name in ("two", "three"))
    of_three = Parent(__file__, "launched", three)
    return {2: (two, together(__file__, "under_torchrun", two)), 3: (three, of_three.result())}


def log_of(folder, name):
    """Of an audit: which unit was begun in which run, by which rank."""
    lines = (folder / f"{name}.log").read_text().splitlines()
    return [(int(run), int(rank), unit) for run, rank, unit in (line.split(" ", 2) for line in lines)]


@MODES
@pytest.mark.parametrize("n", [2, 3])
def test_every_rank_has_the_outcomes_of_one_process(runs, references, n, worst_case):
    folder, ranks = runs[n]
    name = "worst case" if worst_case else "every example"
    for rank in ranks:
        assert rank[name].equals(references["all", worst_case])
    assert acw.read_audit(folder / name).outcomes.equals(references["all", worst_case])
    assert_tidy(folder / name)


@pytest.mark.parametrize(("n", "name"), [(2, "every example"), (2, "worst case"), (3, "every example")])
def test_ranks_share_the_units_and_none_is_computed_twice(runs, n, name):
    folder, _ = runs[n]
    log = log_of(folder, name)
    assert {rank for _, rank, _ in log} == {*range(n)}
    assert {run for run, _, _ in log} == {0}  # what is finished before a restart isn't begun after it
    assert sorted(unit for _, _, unit in log) == sorted(map(str, units_in(folder / name)))
    assert len(log) == UNITS["all"]


def test_a_killed_rank_costs_what_was_being_computed_and_no_more(runs):
    """Torchrun then ends the others, too, and starts all again."""
    folder, ranks = runs[3]
    log = log_of(folder, "worst case")
    (there,) = {frozenset(map(str, rank["there"])) for rank in ranks}
    first, second = ([unit for run, _, unit in log if run == which] for which in (0, 1))
    assert there <= {*first}  # on a busy machine the others may have computed all by the time they are ended
    assert len(first) <= len(there) + 3
    assert sorted(second) == sorted({*map(str, units_in(folder / "worst case"))} - there)


# Killed.


@MODES
def test_killed_at_any_point_an_audit_goes_on_from_there(references, worst_case, tmp_path):
    store = tmp_path / "store"
    had = set()
    for point, nth, finishes in [
        ("before the rename of a json", 1, 0),
        ("after the rename of a json", 1, 0),
        ("before computing", 1, 0),
        ("after computing", 1, 0),
        ("before the rename of a parquet", 1, 0),
        ("after the rename of a parquet", 1, 1),
        ("before the rename of a parquet", 3, 2),
        ("before computing", 2, 1),
        ("after the rename of a parquet", 2, 2),
    ]:
        child = Child(__file__, "killed", store, point, nth, attacks="few", worst_case=worst_case)
        assert child.died_of() == signal.SIGKILL, point
        assert units_in(store) > had if finishes else units_in(store) == had
        assert len(units_in(store)) == len(had) + finishes
        had = units_in(store)
    begun = []
    with watched(begun.append):
        assert outcomes(store, "few", worst_case).equals(references["few", worst_case])
    assert {*begun} == units_in(store) - had
    assert_tidy(store)


@MODES
def test_killed_at_any_moment_an_audit_goes_on_from_there(references, worst_case, tmp_path):
    had = set()
    for moment in range(4):
        child = Child(__file__, "outcomes", tmp_path / "store", worst_case=worst_case)
        time.sleep(0.1 * moment + random.uniform(0.05, 0.15))
        child.send(signal.SIGKILL)
        child.died_of()
        assert units_in(tmp_path / "store") >= had
        had = units_in(tmp_path / "store")
    assert outcomes(tmp_path / "store", worst_case=worst_case).equals(references["all", worst_case])
    assert_tidy(tmp_path / "store")


# Side by side, as anyone may start them.


@MODES
def test_two_processes_on_one_folder_share_the_units(references, worst_case, tmp_path):
    store, place = tmp_path / "store", tmp_path / "place"
    children = [Child(__file__, "recorded", store, place, i, 2, worst_case=worst_case) for i in range(2)]
    found, begun = zip(*(child.result() for child in children), strict=True)
    assert all(table.equals(references["all", worst_case]) for table in found)
    assert all(begun)
    assert len([*begun[0], *begun[1]]) == len({*begun[0], *begun[1]}) == UNITS["all"]
    assert_tidy(store)


def test_two_processes_add_a_model_each_and_one_with_other_data_is_refused(references, tmp_path):
    store, place = tmp_path / "store", tmp_path / "place"
    children = {
        model: Child(__file__, "recorded", store, place, model, 3, attacks="few", model=model)
        for model in ("net", "other")
    }
    until(lambda: place.exists() and len([*place.iterdir()]) == 2)  # both are at work
    with pytest.raises(
        RuntimeError, match="Error: .* it is another audit: the choice of examples was '18 of .*Choose another"
    ):
        Child(__file__, "outcomes", store, attacks="few", seed=1).result()
    meet(place, "test", 3)
    expected = {"net": references["few", False], "other": outcomes(attacks="few", model="other")}
    for model, child in children.items():
        table, begun = child.result()
        assert table.equals(expected[model])
        assert len(begun) == UNITS["few"]
    whole = acw.read_audit(store).outcomes
    for model, table in expected.items():
        part = whole[whole["model"] == model].drop(columns="model").reset_index(drop=True)
        assert part.equals(table.drop(columns="model"))
    assert_tidy(store)


@MODES
@pytest.mark.parametrize("sign", [signal.SIGCONT, signal.SIGKILL], ids=["goes on", "is killed"])
def test_a_stopped_process_keeps_nothing_but_its_unit(references, worst_case, sign, tmp_path):
    """And in the worst case those that need it."""
    store, note = tmp_path / "store", tmp_path / "note"
    one = Child(__file__, "stopped", store, note, attacks="few", worst_case=worst_case)
    until(note.exists)
    other = Child(__file__, "outcomes", store, attacks="few", worst_case=worst_case)
    missing = 2 if worst_case else 1
    until(lambda: len(units_in(store)) == UNITS["few"] - missing)
    time.sleep(0.2)
    assert len(units_in(store)) == UNITS["few"] - missing
    assert other.is_alive
    one.send(sign)
    if sign == signal.SIGKILL:
        assert one.died_of() == signal.SIGKILL
    else:
        assert one.result().equals(references["few", worst_case])
    assert other.result().equals(references["few", worst_case])
    assert_tidy(store)


class Slow(FastGradientMethod):
    """An attack during which another thread gets its turn."""

    def generate(self, x, y=None, **kwargs):
        time.sleep(0.01)
        return super().generate(x, y, **kwargs)


def test_two_threads_on_one_folder_have_the_outcomes_of_one(tmp_path):
    """What draws from the global random state, too, and what a thread changes meanwhile is as it was."""
    data, filters = make_data(), [*warnings.filters]
    attacks = ATTACKS["few"] | {"slow": lambda classifier: Slow(classifier, eps=0.02, num_random_init=2)}
    classifiers = [make_classifier() for _ in range(3)]
    found = [None] * 3

    def run(i, store):
        audit = acw.ClassWiseAudit(THREAT, attacks, store=store, verbose=False)
        found[i] = audit.evaluate({"net": classifiers[i]}, data).outcomes

    state = torch.get_rng_state()
    run(0, None)
    threads = [threading.Thread(target=run, args=(i, tmp_path)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[1].equals(found[0])
    assert found[2].equals(found[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert warnings.filters == filters
    assert_tidy(tmp_path)


# Damaged.


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def another(path):
    """The next shard's file, whole, under this one's number."""
    (other,) = path.parent.glob(f"{int(path.name[:5]) + 1:05d}-*.parquet")
    path.unlink()
    shutil.copy(other, path.with_name(path.name[:5] + other.name[5:]))


@pytest.fixture(scope="module")
def finished_stores(tmp_path_factory):
    stores = {mode: tmp_path_factory.mktemp("finished") for mode in (False, True)}
    for worst_case, store in stores.items():
        outcomes(store, "few", worst_case)
    return stores


@pytest.fixture
def store(finished_stores, worst_case, tmp_path):
    """A folder with all of an audit."""
    return Path(shutil.copytree(finished_stores[worst_case], tmp_path / "copy"))


def by_attack(store):
    """Folders of the shards: without attack, under the first, under the second."""
    (model,) = (store / "shards").iterdir()
    attacks = Store(store).manifest().attacks
    return [model / key for key in ("clean", *(attacks[name].fingerprint for name in ATTACKS["few"]))]


def shard(folder, number):
    (path,) = folder.glob(f"{number:05d}-*.parquet")
    return path


@MODES
@pytest.mark.parametrize("place", [0, 1, 2], ids=["without attack", "first attack", "second attack"])
@pytest.mark.parametrize("damage", [flip, cut, empty, another])
def test_a_damaged_shard_is_named_and_computed_anew(references, worst_case, damage, place, store):
    folders = by_attack(store)
    damage(shard(folders[place], 2))
    begun = []
    name = shard(folders[place], 2).name
    with pytest.warns(UserWarning, match=f"The shard .*{name} is damaged: .* computed again"), watched(begun.append):
        assert outcomes(store, "few", worst_case).equals(references["few", worst_case])
    assert [(unit.shard, unit.folder.name) for unit in begun] == [(2, folders[place].name)]
    assert len(units_in(store)) == UNITS["few"]
    assert_tidy(store)


@pytest.mark.parametrize("worst_case", [True])
@pytest.mark.parametrize("place", [0, 1])
def test_a_damaged_shard_is_found_when_a_later_attack_needs_it(references, worst_case, place, store):
    folders = by_attack(store)
    flip(shard(folders[place], 2))
    shard(folders[2], 2).unlink()
    begun = []
    with pytest.warns(UserWarning, match=shard(folders[place], 2).name), watched(begun.append):
        assert outcomes(store, "few", worst_case).equals(references["few", worst_case])
    assert [unit.folder.name for unit in begun] == [folders[i].name for i in (2, place, 2)]  # the first one in vain


@pytest.mark.parametrize("worst_case", [True])
def test_where_a_shard_comes_out_otherwise_the_attacks_after_it_are_tried_anew(references, worst_case, store):
    """Computed anew on another machine, an example may fall that withstood by a hair: it isn't left to the next one."""
    held, (_, first, second) = Store(store), by_attack(store)
    unit = Unit(first.parent.name, first.name, 1)
    rows, label = held.read(unit), held.read(Unit(first.parent.name, None, 1)).set_index("example")["label"]
    fallen = rows.index[rows["prediction"] == rows["example"].map(label)][0]
    rows.loc[fallen, "prediction"] = (rows.loc[fallen, "prediction"] + 1) % len(CLASSES)
    shard(first, 1).unlink()
    held.write(unit, rows)
    with pytest.raises(DamagedShardError, match="were left to attack, but other .* Run the same audit again"):
        acw.read_audit(store)
    begun = []
    with pytest.warns(UserWarning, match=f"{shard(second, 1).name} is damaged: .* were left"), watched(begun.append):
        table = outcomes(store, "few", worst_case)
    assert [(u.shard, u.folder.name) for u in begun] == [(1, second.name)]
    example = rows.loc[fallen, "example"]
    assert not table.loc[table["example"] == example, "withstood"].any()
    reference = references["few", worst_case]
    assert table[table["example"] != example].equals(reference[reference["example"] != example])
    assert acw.read_audit(store).outcomes.equals(table)


@MODES
def test_where_computing_anew_does_not_help_the_audit_ends(worst_case, store):
    """Outcomes without attack that are of other examples, with a checksum all the same."""
    held, folder = Store(store), by_attack(store)[0]
    unit = Unit(folder.parent.name, None, 1)
    rows = held.read(unit)
    shard(folder, 1).unlink()
    held.write(unit, rows.assign(example=rows["example"] + 100))
    with pytest.warns(UserWarning, match="computed again"), pytest.raises(InputError, match="were left to attack"):
        outcomes(store, "few", worst_case)


@MODES
def test_files_that_are_no_shards_are_left_alone(references, worst_case, store):
    garbage = [by_attack(store)[1] / name for name in ("garbage.parquet", "00001-ABC.parquet", "1-0.parquet", ".x.tmp")]
    for path in garbage:
        path.write_bytes(b"garbage")
    with watched(lambda unit: pytest.fail(f"{unit} is there")):
        assert outcomes(store, "few", worst_case).equals(references["few", worst_case])
    assert all(path.read_bytes() == b"garbage" for path in garbage)


@MODES
def test_of_processes_that_find_damaged_shards_at_once_one_removes_each(references, worst_case, store, tmp_path):
    paths = [shard(folder, number) for folder in by_attack(store) for number in (0, 2, 4)]
    for path in paths:
        flip(path)
    children = [
        Child(__file__, "warned", store, tmp_path / "place", i, 3, attacks="few", worst_case=worst_case)
        for i in range(3)
    ]
    found, begun, said = zip(*(child.result() for child in children), strict=True)
    assert all(table.equals(references["few", worst_case]) for table in found)
    said = [one for each in said for one in each]
    assert len(said) == len(paths)
    assert all(sum(path.name in one for one in said) == 1 for path in paths)
    finished_ones = [(unit.folder.name, unit.shard) for each in begun for unit in each]
    assert {*finished_ones} == {(path.parent.name, int(path.name[:5])) for path in paths}
    assert len(units_in(store)) == UNITS["few"]
    assert_tidy(store)


@MODES
def test_a_shard_that_another_process_removes_before_it_is_read_is_waited_for(
    references, worst_case, store, monkeypatch
):
    """The other has found it damaged."""
    real, removed = module.read_outcomes, []

    def outcomes_after_removal(*args, **kwargs):
        if not removed:
            removed.append(shard(by_attack(store)[1], 3))
            removed[0].unlink()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "read_outcomes", outcomes_after_removal)
    assert outcomes(store, "few", worst_case).equals(references["few", worst_case])
    assert removed[0].exists()


@pytest.mark.parametrize("worst_case", [True])
@pytest.mark.parametrize("place", [0, 1])
def test_a_shard_that_another_process_removes_before_an_attack_needs_it_is_waited_for(
    references, worst_case, place, store
):
    folders, begun = by_attack(store), []
    shard(folders[2], 3).unlink()

    def before(unit):
        if not begun:
            shard(folders[place], 3).unlink()
        begun.append(unit.folder.name)

    with watched(before):
        assert outcomes(store, "few", worst_case).equals(references["few", worst_case])
    assert begun == [folders[i].name for i in (2, place, 2)]


@MODES
def test_a_damaged_shard_that_another_process_has_replaced_is_not_removed(references, worst_case, store, monkeypatch):
    path = shard(by_attack(store)[1], 3)
    whole = path.read_bytes()
    flip(path)
    real = module.read_outcomes

    def replaced_meanwhile(*args, **kwargs):
        try:
            return real(*args, **kwargs)
        except DamagedShardError:
            path.write_bytes(whole)
            raise

    monkeypatch.setattr(module, "read_outcomes", replaced_meanwhile)
    with watched(lambda unit: pytest.fail(f"{unit} is there")):
        assert outcomes(store, "few", worst_case).equals(references["few", worst_case])


@MODES
def test_a_damaged_shard_that_another_process_is_about_to_remove_is_waited_for(
    references, worst_case, store, monkeypatch
):
    """The other holds the shard's lock, and has not unlinked the file yet."""
    path, real, found = shard(by_attack(store)[1], 3), module.read_outcomes, []
    flip(path)
    unit = Unit(path.parent.parent.name, path.parent.name, 3)

    def outcomes_while_it_is_held(*args, **kwargs):
        try:
            return real(*args, **kwargs)
        except DamagedShardError:
            found.append(path)
            if len(found) == 1:
                other.enter_context(Store(store).lock(unit.lock, 0))
            else:
                path.unlink()
                other.close()
            raise

    monkeypatch.setattr(module, "read_outcomes", outcomes_while_it_is_held)
    with ExitStack() as other:
        assert outcomes(store, "few", worst_case).equals(references["few", worst_case])
    assert len(found) == 2
