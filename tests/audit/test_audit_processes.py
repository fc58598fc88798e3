"""An audit by several processes that know of each other by its folder only, and are stopped and killed at any moment.

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
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from processes import Child, Parent, together
from small_audit import (
    ATTACKS,
    CLASSES,
    MODES,
    SHARD,
    SHARDS,
    N,
    assert_tidy,
    make_classifier,
    make_data,
    outcomes,
    planned,
    units_in,
    work,  # noqa: F401 (processes run it)
)

from art_classwise import InputError
from art_classwise import read_audit as read
from art_classwise.audit import audit as module
from art_classwise.audit import runner
from art_classwise.audit.store import DamagedShardError, Store, Unit

FEW = {name: ATTACKS[name] for name in ("fgsm", "pgd-3")}
UNITS = SHARDS * (1 + len(ATTACKS))  # of one model


# What runs in the processes.


@contextmanager
def watched(before, after=lambda unit: None):
    """Call ``before`` and ``after`` with what this process computes: the attack's name, or "clean", and the shard."""
    clean, attacked = runner.ShardRunner.clean, runner.ShardRunner.attacked

    def call(unit, compute, *given):
        before(unit)
        frame = compute(*given)
        after(unit)
        return frame

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.ShardRunner, "clean", lambda self, c, shard: call(("clean", shard), clean, self, c, shard))
        patch.setattr(
            runner.ShardRunner,
            "attacked",
            lambda self, c, name, *rest: call((name, rest[1]), attacked, self, c, name, *rest),
        )
        yield


def one(store=None, attacks=None, **options):
    """Outcomes of one network."""
    return outcomes(store, models=("net",), attacks=attacks or ATTACKS, **options)


def few(store, worst_case):
    return one(store, FEW, worst_case=worst_case)


def meet(folder, who, n):
    """Wait until ``n`` processes have come here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(who)).touch()
    end = time.monotonic() + 60
    while len([*folder.iterdir()]) < n:
        assert time.monotonic() < end, "they never came"
        time.sleep(0.01)


def recorded(store, place, who, n, **options):
    """Outcomes, which units this process computed, and what it warned of; it begins once all have come."""
    meet(place, who, n)
    begun = []
    with warnings.catch_warnings(record=True) as said, watched(begun.append):
        warnings.simplefilter("always")
        return one(store, **options), begun, [str(w.message) for w in said]


def under_torchrun(folder):
    """What a rank does: two audits. Of three ranks, one is killed at its second unit of the second, the first time."""
    rank, n, run = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"))
    found = {"there": {*folder.glob("worst case/outcomes/*/*/*.parquet")}}
    meet(folder / f"run {run}", rank, n)
    for name, worst_case in (("every example", False), ("worst case", True)):
        begun = []

        def before(unit, name=name, begun=begun):
            begun.append(unit)
            with (folder / f"{name}.log").open("a") as log:
                log.write(f"{run} {rank} {unit}\n")
            if (run, rank, n, name, len(begun)) == (0, 1, 3, "worst case", 2):
                os.kill(os.getpid(), signal.SIGKILL)

        with watched(before):
            found[name] = one(folder / name, worst_case=worst_case, checks=n == 2)
    return found


def launched(folder):
    """Three ranks by what is behind torchrun, which forks them here: they needn't import everything again."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    one_machine = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    options = {"max_restarts": 1, "monitor_interval": 0.1, "start_method": "fork"}
    found = elastic_launch(LaunchConfig(nproc_per_node=3, **one_machine, **options), under_torchrun)(folder)
    return [found[rank] for rank in range(3)]


def killed(store, point, nth, worst_case):
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
        few(store, worst_case)


# What they leave behind.


@pytest.fixture(scope="module")
def references():
    """The outcomes by one process: of all attacks, and of a few."""
    return {
        (kind, mode): one(attacks=a, worst_case=mode)
        for kind, a in (("all", None), ("few", FEW))
        for mode in (False, True)
    }


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
    read_back = read(folder / name)
    assert read_back.outcomes.equals(references["all", worst_case])
    assert [*read_back.manifest.probes] == (["net"] if n == 2 else [])
    assert_tidy(folder / name)


@pytest.mark.parametrize(("n", "name"), [(2, "every example"), (2, "worst case"), (3, "every example")])
def test_ranks_share_the_units_and_none_is_computed_twice(runs, n, name):
    folder, _ = runs[n]
    log = log_of(folder, name)
    assert {rank for _, rank, _ in log} == {*range(n)}
    assert {run for run, _, _ in log} == {0}  # what is finished before a restart isn't begun after it
    assert len({unit for _, _, unit in log}) == len(log) == len(units_in(folder / name)) == UNITS


def test_a_killed_rank_costs_what_was_being_computed_and_no_more(runs):
    """Torchrun then ends the others, too, and starts all again."""
    folder, ranks = runs[3]
    log = log_of(folder, "worst case")
    there = len(ranks[0]["there"])
    first, second = ([unit for run, _, unit in log if run == which] for which in (0, 1))
    assert len(first) <= there + 3
    assert len({*second}) == len(second) == UNITS - there


# Killed.


@MODES
def test_killed_at_any_point_an_audit_goes_on_from_there(references, worst_case, tmp_path):
    store = tmp_path / "store"
    had = set()
    for point, nth, finishes in [
        ("before the rename of a json", 1, 0),
        ("after the rename of a json", 1, 0),
        ("before the rename of a json", 1, 0),  # the manifest, where there is a plan
        ("before computing", 1, 0),
        ("after computing", 1, 0),
        ("before the rename of a parquet", 1, 0),
        ("after the rename of a parquet", 1, 1),
        ("before the rename of a parquet", 3, 2),
        ("before computing", 2, 1),
        ("after the rename of a parquet", 2, 2),
    ]:
        child = Child(__file__, "killed", store, point, nth, worst_case)
        assert child.died_of() == signal.SIGKILL, (point, nth)
        now = units_in(store)
        assert (now >= had, len(now) - len(had)) == (True, finishes), (point, nth)
        had = now
    begun = []
    with watched(begun.append):
        assert few(store, worst_case).equals(references["few", worst_case])
    assert len(begun) == SHARDS * 3 - len(had)
    assert_tidy(store)


@MODES
@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_moment_an_audit_goes_on_from_there(references, worst_case, rounds, tmp_path):
    """A driver, two workers of its plan, and both: nothing that was finished is lost, and nothing is changed."""
    store = tmp_path / "store"
    planned(store, models=("net",), worst_case=worst_case)
    had = {}
    for turn in range(rounds):
        begun = [Child(__file__, "work", store, index=i, of=2) for i in (0, 1) if turn % 3 != 0]
        begun += [Child(__file__, "one", store, worst_case=worst_case)] if turn % 3 != 1 else []
        for child in begun:
            time.sleep(random.uniform(0.0, 0.35))
            child.send(signal.SIGKILL)
            child.died_of()
        now = {path: path.read_bytes() for path in store.glob("outcomes/*/*/*.parquet")}
        assert {path: now.get(path) for path in had} == had
        had = now
        if rounds > 3 and len(units_in(store)) == UNITS:  # again from the middle
            for path in random.sample(sorted(had), len(had) // 2):
                path.unlink()
                del had[path]
    assert one(store, worst_case=worst_case).equals(references["all", worst_case])
    assert read(store).outcomes.equals(references["all", worst_case])
    assert len(units_in(store)) == UNITS
    assert_tidy(store)


# Side by side, as anyone may start them.


@MODES
def test_two_processes_on_one_folder_have_the_outcomes_of_one(references, worst_case, tmp_path):
    """They may compute a unit both: the first one written counts, and the second one says the same."""
    store, place = tmp_path / "store", tmp_path / "place"
    children = [Child(__file__, "recorded", store, place, i, 2, worst_case=worst_case) for i in range(2)]
    for child in children:
        table, _, said = child.result()
        assert table.equals(references["all", worst_case])
        assert said == []
    assert read(store).outcomes.equals(references["all", worst_case])
    assert_tidy(store)


def test_a_model_is_added_by_each_of_two_processes_and_other_data_are_refused(references, tmp_path):
    store = tmp_path / "store"
    children = {model: Child(__file__, "outcomes", store, (model,), attacks=FEW) for model in ("net", "other")}
    tables = {model: child.result() for model, child in children.items()}
    assert tables["net"].equals(references["few", False])
    with pytest.raises(InputError, match="it is another audit: the choice of examples was '18 of .*Choose another"):
        one(store, FEW, seed=1)
    whole = read(store).outcomes
    for model, table in tables.items():
        part = whole[whole["model"] == model].drop(columns="model").reset_index(drop=True)
        assert part.equals(table.drop(columns="model"))
    assert_tidy(store)


def test_of_two_drivers_that_begin_different_audits_at_once_none_overwrites_the_other(tmp_path, monkeypatch):
    """Each has looked into the folder before the other wrote: whoever finds the other's plan leaves."""
    store = tmp_path / "store"
    real = Store._write
    others = []

    def write(self, name, content):
        if name.startswith("plans/") and not others:
            others.append(1)
            others.append(one(store, FEW, seed=1))  # the other is faster, and sees itself alone
        real(self, name, content)

    monkeypatch.setattr(Store, "_write", write)
    with pytest.raises(InputError, match="holds two audits that don't go together, since .*the choice of examples"):
        one(store, FEW)
    assert read(store).outcomes.equals(others[1])
    assert one(store, FEW, seed=1).equals(others[1])


class Slow(FastGradientMethod):
    """An attack during which another thread gets its turn."""

    def generate(self, x, y=None, **kwargs):
        time.sleep(0.01)
        return super().generate(x, y, **kwargs)


def test_two_threads_on_one_folder_have_the_outcomes_of_one(tmp_path):
    """What draws from the global random state, too, and what a thread changes meanwhile is as it was."""
    filters = [*warnings.filters]
    attacks = FEW | {"slow": lambda classifier: Slow(classifier, eps=0.02, num_random_init=2)}
    found = [None] * 3

    def run(i, store):
        audit = module.ClassWiseAudit("Linf:0.02", attacks, store=store, verbose=False)
        found[i] = audit.evaluate({"net": classifiers[i]}, data).outcomes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SHARD", SHARD)
        data, classifiers = make_data(), [make_classifier() for _ in found]
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
    """The next shard's file, whole, under this one's name."""
    number = int(path.name.split("-")[2])
    (other,) = path.parent.glob(f"*-*-{number + 1:05d}-*.parquet")
    shutil.copy(other, path)


@pytest.fixture(scope="module")
def finished_stores(tmp_path_factory):
    stores = {mode: tmp_path_factory.mktemp("finished") for mode in (False, True)}
    for worst_case, store in stores.items():
        few(store, worst_case)
    return stores


@pytest.fixture
def store(finished_stores, worst_case, tmp_path):
    """A folder with all of an audit."""
    return Path(shutil.copytree(finished_stores[worst_case], tmp_path / "copy"))


NAMES = ("clean", *FEW)


def shard(store, attack, number):
    (path,) = store.glob(f"outcomes/model=net/attack={attack}/*-{number:05d}-*-*.parquet")
    return path


def unit(store, attack, number):
    manifest = Store(store).manifest()
    return Unit(manifest.models["net"], None if attack == "clean" else manifest.attacks[attack].fingerprint, number)


@MODES
@pytest.mark.parametrize("attack", NAMES)
@pytest.mark.parametrize("damage", [flip, cut, empty, another])
def test_a_damaged_shard_is_named_and_computed_anew(references, worst_case, damage, attack, store):
    path = shard(store, attack, 2)
    damage(path)
    begun = []
    with (
        pytest.warns(UserWarning, match=f"The shard .*{path.name} is damaged: .* computed again"),
        watched(begun.append),
    ):
        assert few(store, worst_case).equals(references["few", worst_case])
    assert begun == [(attack, 2)]
    assert len(units_in(store)) == SHARDS * 3
    assert_tidy(store)


@pytest.mark.parametrize("worst_case", [True])
@pytest.mark.parametrize("attack", NAMES[:2])
def test_a_damaged_shard_is_found_when_a_later_attack_needs_it(references, worst_case, attack, store):
    flip(shard(store, attack, 2))
    shard(store, NAMES[2], 2).unlink()
    begun = []
    with pytest.warns(UserWarning, match=shard(store, attack, 2).name), watched(begun.append):
        assert few(store, worst_case).equals(references["few", worst_case])
    assert begun == [(attack, 2), (NAMES[2], 2)]


@pytest.mark.parametrize("worst_case", [True])
def test_where_a_shard_comes_out_otherwise_the_attacks_after_it_are_tried_anew(references, worst_case, store):
    """Computed anew on another machine, an example may fall that withstood by a hair: it isn't left to the next one."""
    held, (_, first, second) = Store(store), NAMES
    rows = held.read(unit(store, first, 1))
    fallen = rows.index[rows["prediction"] == rows["label"]][0]
    rows.loc[fallen, "prediction"] = (rows.loc[fallen, "prediction"] + 1) % len(CLASSES)
    shard(store, first, 1).unlink()
    held.write(unit(store, first, 1), rows)
    with pytest.raises(DamagedShardError, match="were left to attack, but other .* Run the same audit again"):
        read(store)
    begun = []
    name = shard(store, second, 1).name
    with pytest.warns(UserWarning, match=f"{name} is damaged: .* were left"), watched(begun.append):
        table = few(store, worst_case)
    assert begun == [(second, 1)]
    example = rows.loc[fallen, "example"]
    assert not table.loc[table["example"] == example, "withstood"].any()
    reference = references["few", worst_case]
    assert table[table["example"] != example].equals(reference[reference["example"] != example])
    assert read(store).outcomes.equals(table)


@MODES
def test_where_computing_anew_does_not_help_the_audit_ends(worst_case, store):
    """Outcomes without attack that are of other examples, with a checksum all the same."""
    held, clean = Store(store), unit(store, "clean", 1)
    rows = held.read(clean)
    shard(store, "clean", 1).unlink()
    held.write(clean, rows.assign(example=rows["example"] + 100))
    with pytest.warns(UserWarning, match="computed again"), pytest.raises(InputError, match="were left to attack"):
        few(store, worst_case)


@MODES
def test_files_that_are_no_shards_are_left_alone(references, worst_case, store):
    folder = shard(store, "fgsm", 1).parent
    garbage = [folder / name for name in ("garbage.parquet", "00001-ABC.parquet", "a-b-00001-c-d.parquet", ".x.tmp")]
    garbage += [folder / f"{shard(store, 'fgsm', 1).name}.bak", store / "plans" / "notes.txt", store / "more"]
    for path in garbage:
        path.write_bytes(b"garbage")
    with watched(lambda unit: pytest.fail(f"{unit} is there")):
        assert few(store, worst_case).equals(references["few", worst_case])
    assert all(path.read_bytes() == b"garbage" for path in garbage)


@MODES
def test_processes_that_find_damaged_shards_at_once_mend_all_of_them(references, worst_case, store, tmp_path):
    paths = [shard(store, attack, number) for attack in NAMES for number in (0, 2, 4)]
    for path in paths:
        flip(path)
    children = [Child(__file__, "recorded_few", store, tmp_path / "place", i, 3, worst_case) for i in range(3)]
    found, _, said = zip(*(child.result() for child in children), strict=True)
    assert all(table.equals(references["few", worst_case]) for table in found)
    assert all(any(path.name in text for each in said for text in each) for path in paths)
    assert read(store).outcomes.equals(references["few", worst_case])
    assert len(units_in(store)) == SHARDS * 3
    assert_tidy(store)


def recorded_few(store, place, who, n, worst_case):
    return recorded(store, place, who, n, attacks=FEW, worst_case=worst_case)


@MODES
def test_a_shard_that_another_process_removes_before_it_is_read_is_computed_anew(
    references, worst_case, store, monkeypatch
):
    """The other has found it damaged."""
    real, removed = module.read_outcomes, []

    def outcomes_after_removal(*args, **kwargs):
        if not removed:
            removed.append(shard(store, "fgsm", 3))
            removed[0].unlink()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "read_outcomes", outcomes_after_removal)
    assert few(store, worst_case).equals(references["few", worst_case])
    assert len(units_in(store)) == SHARDS * 3


@MODES
def test_a_damaged_shard_that_another_process_has_replaced_is_not_removed(references, worst_case, store, monkeypatch):
    path = shard(store, "fgsm", 3)
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
        assert few(store, worst_case).equals(references["few", worst_case])
