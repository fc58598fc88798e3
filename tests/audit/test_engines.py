"""One audit, three networks under four attacks, has the same outcomes and passes on any engine and in any store."""

from __future__ import annotations

import os
import random
import uuid
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from processes import _FORKED, Child
from small_audit import (
    ATTACKS,
    MODELS,
    MODES,
    SHARDS,
    Dies,
    make_classifier,
    make_data,
    planned,
    result,
    small_shards,
    work,
)

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core.executors import SlurmExecutor, open_executor
from art_classwise.audit import collect, planned_units, work_on

PASSES = ["n", "forwards", "backwards"]  # seconds differ


@pytest.fixture(scope="module")
def references():
    return {mode: result(worst_case=mode) for mode in (False, True)}


def assert_same(found, reference):
    assert found.outcomes.equals(reference.outcomes)
    assert found.costs[PASSES].equals(reference.costs[PASSES])
    assert (found.costs["seconds"] > 0).all()


# Processes that see the store.


@MODES
@pytest.mark.parametrize("n", [1, 2, 3])
def test_planned_and_worked_on_by_any_processes(references, worst_case, n, tmp_path):
    """In any order, at once, and repeatedly."""
    planned(tmp_path, worst_case=worst_case)
    order = random.sample(range(n), n)
    children = [Child(__file__, "work", tmp_path, index=i, of=n) for i in order]
    done = [child.result() for child in children]
    assert sum(done) == len(planned_units(tmp_path)) == len(MODELS) * SHARDS * (1 if worst_case else 1 + len(ATTACKS))
    assert all(done)
    assert [work(tmp_path, index=i, of=n) for i in order] == [0] * n
    assert collect(tmp_path) == ()
    assert_same(acw.read_audit(tmp_path), references[worst_case])
    assert_same(result(tmp_path, worst_case=worst_case), references[worst_case])


@MODES
def test_units_are_computed_by_their_names(references, worst_case, tmp_path):
    planned(tmp_path, worst_case=worst_case)
    units = planned_units(tmp_path)
    some = random.sample(units, 3)
    for _ in range(2):
        work(tmp_path, units=some)
    missing = collect(tmp_path)
    assert missing
    assert all(sentence.partition(":")[0] in MODELS for sentence in missing)
    assert work(tmp_path, units=random.sample(units, len(units))) == len(units) - len(some)
    assert_same(acw.read_audit(tmp_path), references[worst_case])


# Executors.


@MODES
def test_threads(references, worst_case):
    with ThreadPoolExecutor(3) as executor:
        assert_same(result(worst_case=worst_case, executor=executor), references[worst_case])


@MODES
def test_a_process_pool(references, worst_case, tmp_path):
    """A model may be a function that makes it there; what is finished isn't sent again."""
    with ProcessPoolExecutor(2, mp_context=_FORKED, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        options = {"worst_case": worst_case, "executor": executor}
        assert_same(result(tmp_path, **options), references[worst_case])
        for path in [*tmp_path.glob("outcomes/*/*/*-0000[13]-*.parquet")]:
            path.unlink()
        assert_same(result(tmp_path, **options), references[worst_case])


def test_models_made_by_the_workers_and_data_read_by_them(tmp_path):
    from art_classwise.audit.plan import NamedData

    def make():
        torch.manual_seed(0)
        return acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10, seed=0), (1, 8, 8), 10, device="cpu")

    data = NamedData(name="digits", n_examples=10)
    options = {"threat": "Linf:0.1", "attacks": "fgsm", "checks": True, "verbose": False}
    with small_shards():
        reference = acw.ClassWiseAudit(**options).evaluate({"net": make}, data)
        with ThreadPoolExecutor(2) as executor:
            found = acw.ClassWiseAudit(executor=executor, **options).evaluate({"net": make, "same": make}, data)
    one = found.outcomes[found.outcomes["model"] == "net"].drop(columns="model").reset_index(drop=True)
    assert one.equals(reference.outcomes.drop(columns="model"))
    assert found.manifest.probes["same"] == reference.manifest.probes["net"]


def test_a_pool_that_loses_a_process_ends_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIVER", str(os.getpid()))
    (tmp_path / "life").touch()
    classifier = acw.as_classifier(
        torch.nn.Sequential(Dies(tmp_path), make_classifier().model), (3, 6, 6), 4, device="cpu"
    )
    audit = {"threat": "Linf:0.02", "attacks": "fgsm", "verbose": False, "checks": False, "store": tmp_path / "store"}
    with (
        small_shards(),
        ProcessPoolExecutor(2, mp_context=_FORKED) as executor,
        pytest.raises(InputError, match="What is finished is kept: (run the same again with a new executor|see to)"),
    ):
        acw.ClassWiseAudit(executor=executor, **audit).evaluate({"net": classifier}, make_data())
    with small_shards(), ProcessPoolExecutor(2, mp_context=_FORKED) as executor:
        found = acw.ClassWiseAudit(executor=executor, **audit).evaluate({"net": classifier}, make_data())
        del audit["store"]
        assert found.outcomes.equals(acw.ClassWiseAudit(**audit).evaluate({"net": classifier}, make_data()).outcomes)


@pytest.fixture
def importable(monkeypatch):
    """Processes that begin by themselves find this package, and compute with one thread."""
    monkeypatch.setenv("PYTHONPATH", str(Path(acw.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask(references, importable, tmp_path, monkeypatch):
    """And a worker that dies costs what it computed, no more."""
    pytest.importorskip("distributed", reason="needs Dask")
    with open_executor("dask:2") as executor:
        for worst_case, reference in references.items():
            assert_same(result(worst_case=worst_case, executor=executor), reference)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_submitit(references, importable, tmp_path):
    pytest.importorskip("submitit", reason="needs submitit")
    for worst_case, reference in references.items():
        options = {"cluster": "local", "jobs": 1 if worst_case else 2, "timeout_min": 5}
        executor = SlurmExecutor(options, tmp_path / "jobs")
        assert_same(result(worst_case=worst_case, executor=executor), reference)
        executor.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray(references, importable):
    pytest.importorskip("ray", reason="needs Ray")
    with open_executor("ray") as executor:
        for worst_case, reference in references.items():
            assert_same(result(worst_case=worst_case, executor=executor), reference)


# Stores.


@MODES
def test_memory(references, worst_case):
    store = f"memory://{uuid.uuid4()}/audit"
    assert_same(result(store, worst_case=worst_case), references[worst_case])
    assert_same(acw.read_audit(store), references[worst_case])
    with ThreadPoolExecutor(2) as executor:
        assert_same(result(store, worst_case=worst_case, executor=executor), references[worst_case])


@pytest.fixture
def bucket(monkeypatch):
    """Address of a bucket on this machine."""
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = pytest.importorskip("moto.server", reason="needs moto").ThreadedMotoServer(port=0)
    import fsspec

    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    access = {"endpoint_url": f"http://{host}:{port}", "key": "a", "secret": "b"}
    monkeypatch.setitem(fsspec.config.conf, "s3", access)
    fsspec.filesystem("s3", **access).mkdir("bucket")
    yield "s3://bucket"
    server.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_s3(references, bucket, monkeypatch):
    import fsspec

    for worst_case, reference in references.items():
        store = f"{bucket}/{worst_case}"
        planned(store, worst_case=worst_case)
        assert work_on(store, index=0, of=2, run_code=True, verbose=False) > 0
        assert_same(result(store, worst_case=worst_case), reference)
        assert_same(acw.read_audit(store), reference)
    with pytest.raises(InputError, match=r"s3://nowhere/audit can't be written"):
        result("s3://nowhere/audit")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": fsspec.config.conf["s3"]["endpoint_url"]})
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(InputError, match="can't be opened: .*[Cc]redentials"):
        result(f"{bucket}/other")
