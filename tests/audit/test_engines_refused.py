"""What engines and plans refuse: by name, in a sentence, instead of outcomes that would mean something else."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
from small_audit import make_classifier, make_data, outcomes, planned, result, small_shards, work

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core import executors
from art_classwise._core.executors import SlurmExecutor, open_executor
from art_classwise.audit import collect
from art_classwise.audit import work as module
from art_classwise.audit.plan import NamedData

FEW = {"attacks": "fgsm"}


# Executors.


def test_an_executor_that_was_shut_down():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(InputError, match="takes no work: .*shutdown.* run the same again with a new executor"):
        result(executor=executor, **FEW)


class Stopping(ThreadPoolExecutor):
    """Is shut down once it was given so much work."""

    def __init__(self, pieces, *, cancelling):
        super().__init__(1)
        self.left, self.cancelling = pieces, cancelling

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        self.left -= 1
        if not self.left:
            self.shutdown(wait=False, cancel_futures=self.cancelling)
        return future


@pytest.mark.parametrize("cancelling", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_an_executor_that_is_shut_down_meanwhile(pieces, cancelling, tmp_path):
    """What was finished is kept, and the same audit goes on."""
    stopping = Stopping(pieces, cancelling=cancelling)
    with pytest.raises(InputError, match="What is finished is kept"):
        result(tmp_path, executor=stopping, **FEW)
    stopping.shutdown(wait=True)  # its threads draw from the global random state, as those do that make the networks
    finished = {*tmp_path.glob("outcomes/*/*/*.parquet")}
    assert cancelling or len(finished) >= pieces - 2
    assert outcomes(tmp_path, **FEW).equals(outcomes(**FEW))
    assert finished <= {*tmp_path.glob("outcomes/*/*/*.parquet")}


class Failing(ThreadPoolExecutor):
    def __init__(self, error):
        super().__init__(1)
        self.error, self.n = error, 0

    def submit(self, fn, /, *args, **kwargs):
        self.n += 1
        future = Future()
        future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "failed 3 times, at last with MemoryError: .*memory, most often"),
        (ModuleNotFoundError("No module named 'art_classwise'"), "install the same version of art-classwise"),
    ],
)
def test_an_engine_that_always_fails_is_asked_three_times(error, says):
    executor = Failing(error)
    with pytest.raises(InputError, match=says):
        result(models=["net"], executor=executor, **FEW)
    assert 3 <= executor.n <= 6


@pytest.mark.parametrize("value", [3, "dask:2", ThreadPoolExecutor, open])
def test_what_is_no_executor(value):
    with pytest.raises(InputError, match="`executor` must be a concurrent.futures.Executor"):
        result(executor=value)


class Silent:
    """Listens, and says nothing."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        return self.socket.getsockname()[1]

    def __exit__(self, *_):
        self.socket.close()


def free_port():
    with Silent() as port:
        return port


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_an_address_where_nobody_listens(kind):
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[kind])
    address = f"{kind}://127.0.0.1:{free_port()}"
    with (
        pytest.raises(InputError, match=rf"^No (Dask scheduler|Ray cluster) answers at {address} .*refused"),
        open_executor(address),
    ):
        pass


def test_an_address_where_something_else_listens(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "_ANSWER", 0.1)
    with (
        Silent() as port,
        pytest.raises(InputError, match="No Dask scheduler answers .*nothing said within 0.1 s"),
        open_executor(f"dask://127.0.0.1:{port}"),
    ):
        pass


@pytest.mark.parametrize("rest", ["", "host", "host:", ":1", "host:x", "host:0", "host:65536", "host:1/path", "a b:1"])
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_what_is_no_address(kind, rest):
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[kind])
    with pytest.raises(InputError, match=rf"write it as {kind}://HOST:PORT"), open_executor(f"{kind}://{rest}"):
        pass


@pytest.mark.parametrize(
    "engine",
    ["", "dask", "dask:", "dask:0", "dask:-1", "dask:x", "processes", "slurm:4", "ray:2", "spark://a:1", "Ray"],
)
def test_unknown_engines(engine):
    with pytest.raises(InputError, match="Unknown engine"), open_executor(engine):
        pass


@pytest.mark.parametrize("option", ["", "a", "=3", "a b=3", "4=5", "timeout-min=4"])
def test_options_of_slurm_that_are_not_written_so(option):
    with pytest.raises(InputError, match="--slurm takes KEY=VALUE, such as"), open_executor("slurm", [option]):
        pass


def test_options_that_submitit_does_not_know(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(InputError, match="submitit refuses --slurm's options: .*partitoin"):
        SlurmExecutor({"cluster": "local", "partitoin": "gpu"}, tmp_path)
    with pytest.raises(InputError, match="submitit refuses --slurm's options: .*nowhere"):
        SlurmExecutor({"cluster": "nowhere"}, tmp_path)
    with pytest.raises(InputError, match="jobs=N takes a whole number of at least 1, not"):
        SlurmExecutor({"cluster": "local", "jobs": "many"}, tmp_path)


def test_options_of_slurm_for_another_engine():
    with pytest.raises(InputError, match="--slurm is for --on slurm"), open_executor("dask:2", ["timeout_min=4"]):
        pass


# Workers that aren't like the one who asks.


def test_workers_of_another_version(monkeypatch):
    monkeypatch.setattr(module, "__version__", "9.9")
    with ThreadPoolExecutor(1) as executor, pytest.raises(InputError) as refused:
        result(models=["net"], executor=executor, seed=31, **FEW)
    assert "This worker, " in str(refused.value)
    assert f"has art-classwise 9.9, but the audit is of {acw.__version__}" in str(refused.value)


def test_workers_with_other_data(monkeypatch):
    """A data set that is loaded by its name where units are computed."""
    load = NamedData.load

    def other(self):
        data = load(self)
        return data if threading.current_thread() is threading.main_thread() else data.first(4)

    monkeypatch.setattr(NamedData, "load", other)
    network = acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10, seed=5), (1, 8, 8), 10, device="cpu")
    audit = acw.ClassWiseAudit("Linf:0.1", "fgsm", executor=ThreadPoolExecutor(1), verbose=False, checks=False)
    with pytest.raises(
        InputError, match=r"The examples that .* reads as digits \(test\) aren't the audit's: .* of fing"
    ):
        audit.evaluate({"net": network}, NamedData(name="digits", n_examples=5))


def elsewhere(here, there):
    """A function that makes another network in another thread."""
    return lambda: make_classifier(here if threading.current_thread() is threading.main_thread() else there)


def test_workers_with_another_network(monkeypatch):
    with small_shards(), ThreadPoolExecutor(1) as executor:
        audit = acw.ClassWiseAudit("Linf:0.02", "fgsm", executor=executor, verbose=False, checks=False)
        with pytest.raises(InputError, match="The model 'mine' that .* loads isn't the audit's"):
            audit.evaluate({"mine": elsewhere("net", "other")}, make_data())
        with pytest.warns(UserWarning, match="Continuing without 'mine': The model 'mine' that .* isn't the audit's"):
            found = audit.evaluate(
                {"mine": elsewhere("net", "other"), "same": lambda: make_classifier("third")},
                make_data(),
                optional=["mine"],
            )
        assert found.models == ("same",)


class Recording(ThreadPoolExecutor):
    asked = 0

    def submit(self, fn, /, *args, **kwargs):
        self.asked += 1
        return super().submit(fn, *args, **kwargs)


class Unsendable(torch.nn.Module):
    """A layer that can't be sent, or not be made again there, or is another there."""

    def __init__(self, how):
        super().__init__()
        self.how, self.lock, self.scale = how, None, torch.nn.Parameter(torch.ones(1))
        if how == "sent":
            self.lock = threading.Lock()

    def __getstate__(self):
        state = dict(self.__dict__)
        if self.how == "another":
            state["_parameters"] = {"scale": torch.nn.Parameter(torch.zeros(1))}
        return state

    def __setstate__(self, state):
        if state["how"] == "made":
            raise RuntimeError("the licence isn't here")
        super().__setstate__(state)

    def forward(self, x):
        return x * self.scale


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("sent", "The model 'mine' can't be sent to other processes: .*lock"),
        ("made", "The model 'mine' can't be made again in this process: the licence isn't here"),
        ("another", "The model 'mine' that .* loads isn't the audit's"),
    ],
)
def test_a_model_that_cannot_be_sent_or_made_again(how, says):
    """Which is known before any work is handed out."""
    network = torch.nn.Sequential(Unsendable(how), make_classifier().model)
    classifier = acw.as_classifier(network, (3, 6, 6), 4, device="cpu")
    with Recording(1) as executor:
        audit = acw.ClassWiseAudit("Linf:0.02", "fgsm", executor=executor, verbose=False, checks=False)
        with pytest.raises(InputError, match=says):
            audit.evaluate({"mine": classifier}, make_data())
        assert executor.asked == 0


# Plans that were edited by hand.

REFUSED = {
    "an unknown field": (("plan", "extra"), 1, r"holds plan\.extra, which this release doesn't know"),
    "a wrong type": (("plan", "batch_size"), "8", r"plan\.batch_size must be a whole number, but is '8'"),
    "a number out of range": (("plan", "batch_size"), 0, r"plan\.batch_size must be at least 1"),
    "no data": (("plan", "data"), ..., r"lacks plan\.data"),
    "an unknown kind of model": (("plan", "models", "net", "kind"), "zip", r"plan\.models\.net\.kind must be 'robust"),
    "no way to load a model": (("plan", "models", "net"), ..., "doesn't say how to load net"),
    "another attack": (("plan", "attacks"), ["fgsm", "pgd-4"], "The attack 'pgd-3' isn't here what"),
    "one attack less": (("plan", "attacks"), ["fgsm"], "The attack 'pgd-3' isn't here what"),
    "an unknown attack": (("plan", "attacks"), ["zap"], "Unknown attack 'zap'"),
    "another seed": (("seed",), 5, "The attack 'fgsm' isn't here what the manifest says"),
    "another radius": (("threat", "eps"), 0.1, "The attack 'fgsm' isn't here what the manifest says"),
    "worst case": (("worst_case",), True, "The attack 'fgsm' isn't here what the manifest says"),
    "another precision": (("plan", "precision"), "bf16", "The attack 'fgsm' isn't here what the manifest says"),
    "a network's fingerprint": (("models", "net"), "0" * 32, "The model 'net' that .* isn't the audit's"),
    "another data set": (("plan", "data"), {"kind": "named", "name": "digits"}, "aren't the audit's: 797 of"),
    "an unknown data set": (("plan", "data"), {"kind": "named", "name": "digitz"}, "Unknown data set 'digitz'"),
    "the examples' number": (("examples", "n"), 4000, "is an audit of 4000 examples, but its data are 18"),
    "another release": (("plan", "release"), "0.0.9", r"planned by art-classwise 0\.0\.9, but this is"),
    "damaged contents": (("plan", "models", "net", "content"), "?", "The model in the plan is damaged"),
    "no plan": (("plan",), None, "holds an audit, but no plan"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    planned(folder, models=["net"], attacks=["fgsm", "pgd-3"])
    return folder


def edited(store, folder, path, value):
    """The store with another value in every file that says it."""
    for file in [store / "manifest.json", *store.glob("plans/*.json")]:
        content = json.loads(file.read_text())
        at = content
        for name in path[:-1]:
            at = at[name]
        if value is ...:
            del at[path[-1]]
        else:
            at[path[-1]] = value
        copy = folder / file.relative_to(store)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(json.dumps(content))


@pytest.mark.parametrize(("path", "value", "says"), REFUSED.values(), ids=REFUSED)
def test_a_plan_edited_by_hand(store, tmp_path, path, value, says):
    edited(store, tmp_path, path, value)
    with pytest.raises(InputError, match=says):
        work(tmp_path)
    assert [*tmp_path.glob("outcomes/*")] == []


def test_a_plan_that_names_the_file_of_another_network(tmp_path):
    classifiers = {name: make_classifier(name) for name in ("net", "other")}
    for name, classifier in classifiers.items():
        network = acw.build("digits-cnn", (1, 8, 8), 10, seed=len(name))
        acw.save_checkpoint(
            tmp_path / f"{name}.pt",
            network,
            architecture="digits-cnn",
            classes=list("0123456789"),
            input_shape=(1, 8, 8),
        )
        assert classifier is not None
    store = tmp_path / "store"
    audit = acw.ClassWiseAudit("Linf:0.1", "fgsm", store=store, verbose=False, checks=False)
    audit.plan({"net": str(tmp_path / "net.pt")}, NamedData(name="digits", n_examples=5))
    copy = tmp_path / "copy"
    copy.mkdir()
    edited(store, copy, ("plan", "models", "net", "path"), str(tmp_path / "other.pt"))
    with pytest.raises(InputError, match="The model 'net' that .* loads isn't the audit's"):
        acw.audit.work_on(copy, verbose=False)


def test_code_is_run_only_if_allowed(store, tmp_path):
    edited(store, tmp_path, ("created",), "2026-01-01T00:00:00+00:00")
    with pytest.raises(InputError, match=r"run code of .*: the model 'net', the data set.*`run_code=True`"):
        acw.audit.work_on(tmp_path, verbose=False)


# Shares and units.


@pytest.mark.parametrize(("index", "of"), [(3, 3), (-1, 2), (0, 0), (5, 2)])
def test_shares_that_are_not_there(store, index, of):
    with pytest.raises(InputError, match="--index NUMBER/WORKERS"):
        work(store, index=index, of=of)


@pytest.mark.parametrize("unit", ["", "net", "net/fgsm/00009", "net/fgsm/0", "nets/fgsm/00000", "net/../00000"])
def test_units_that_are_not_there(store, unit):
    with pytest.raises(InputError, match=r"Unknown unit .*work STORE --list"):
        work(store, units=[unit])


def test_stores_without_a_plan(tmp_path):
    for act in (work, collect, acw.read_audit):
        with pytest.raises(InputError, match="holds no audit: there is no such folder"):
            act(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"holds no audit: there is no such folder|no manifest\.json"):
            act(tmp_path)
    result(tmp_path / "finished", models=["net"], **FEW)
    with pytest.raises(InputError, match="holds an audit, but no plan"):
        work(tmp_path / "finished")
    assert collect(tmp_path / "finished") == ()
    found = acw.read_audit(tmp_path / "finished")
    found.save(tmp_path / "saved")
    with pytest.raises(InputError, match="holds an audit, but no plan"):
        work(tmp_path / "saved")


def test_an_unplanned_audit_cannot_be_planned_elsewhere():
    with pytest.raises(InputError, match="give `store`"):
        acw.ClassWiseAudit("Linf:0.02", "fgsm").plan({"net": make_classifier()}, make_data())
