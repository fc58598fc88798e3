"""Speed of an audit and its scaling over processes, for speed.py.

Every measurement is a function that runs in its own process: this file, called with the function's name and arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from lib.machine import moved, placed_by_art
from lib.processes import answer, apart
from lib.published import NETWORKS, load_published
from training_step import random_network

import art_classwise as acw

TABLES = ("audit", "scaling")
THEIRS, AUDIT, WORST_CASE, AUTOATTACK = "ART + pyautoattack", "audit", "audit, worst case", "pyautoattack"
ALL = "all attacks"
BATCH = 250  # of ART and pyautoattack, whose standard it is; an audit chooses its own
SHARD = 512  # examples that an audit's processes take at once


@dataclass(frozen=True)
class Subject:
    """What is attacked.

    Attributes:
        network: Name of a published one (see published.py), path of a checkpoint, or name of an architecture. The
            last has random weights, and what it predicts on an image is then that image's label.
        radius: Of the Linf ball, as a threat model spells it: ``"4/255"``.
        data: What :func:`art_classwise.load_dataset` takes; an .npz file is CIFAR-10's.
        n_examples: How many.
        checkpoints: Folder of the published networks' weights.
        device: Where to compute; the GPU where there is one, if absent.
    """

    network: str
    radius: str
    data: str
    n_examples: int
    checkpoints: str = "."
    device: str | None = None

    @property
    def threat(self) -> acw.ThreatModel:
        """The threat model."""
        return acw.ThreatModel.parse(f"Linf:{self.radius}")

    def load(self) -> tuple[Any, acw.Dataset]:
        """Return the network, as an ART classifier that has computed once, and the examples, in memory."""
        classes = "cifar10" if self.data.endswith(".npz") else None
        data = acw.load_dataset(self.data, classes=classes, n_examples=self.n_examples)
        x, place = np.asarray(data.x[:]), placed_by_art(self.device)
        if self.network in NETWORKS:
            classifier = moved(load_published(self.network, self.checkpoints, place), self.device)
        elif Path(self.network).is_file():
            classifier = moved(acw.load_checkpoint(self.network, device=place), self.device)
        else:
            module = random_network(self.network, data.input_shape, len(data.classes)).eval()
            classifier = acw.as_classifier(module, data.input_shape, len(data.classes), device=place)
            classifier = moved(classifier, self.device)
            data = replace(data, y=classifier.predict(x, batch_size=BATCH).argmax(1))
        classifier.loss_gradient(x[:BATCH], np.eye(len(data.classes), dtype=np.float32)[data.y[:BATCH]])
        return classifier, data


# Per size: of "audit" networks with radius and number of images, attacks, and ways; of "scaling" network and images.
_SMALL = (("standard",), (THEIRS, AUDIT, WORST_CASE))
AUDITED: dict[str, tuple[Any, ...]] = {
    "tiny": ((("cifar10-cnn-a", "4/255", 4),), ("fgsm",), (THEIRS, AUDIT)),
    "quick": ((("cifar10-cnn-a", "4/255", 200),), *_SMALL),
    "long": ((("cifar10-cnn-a", "4/255", 1_000), ("cifar10-resnet4b", "2/255", 256)), *_SMALL),
    "full": (((None, "8/255", 10_000),), ("pgd-20", "autoattack"), (AUTOATTACK, WORST_CASE)),
}
SCALED = {
    "tiny": ("cifar10-cnn-a", "4/255", 4),
    "quick": ("cifar10-resnet4b", "2/255", 2_000),
    "long": ("cifar10-resnet4b", "2/255", 10_000),
    "full": (None, "8/255", 10_000),
}


def lacks(arguments: argparse.Namespace) -> str:
    """Return which options the tables need that aren't given; empty if all are."""
    needed = {"--root with cifar10_test.npz": arguments.cifar10}
    if arguments.size != "full":
        needed["--checkpoints"] = arguments.checkpoints
    return " and ".join(option for option, value in needed.items() if not value)


def measure(arguments: argparse.Namespace, only: str) -> pd.DataFrame:
    """Return a table that speed.py's command line asks for.

    Args:
        arguments: With ``size``, ``rounds``, ``processes``, ``cifar10``, ``checkpoints`` and ``model``.
        only: One of :data:`TABLES`.

    Raises:
        SystemExit: CIFAR-10 or the published networks are needed, and it isn't said where they lie.
    """
    if lacking := lacks(arguments):
        sys.exit(f"error: --only {only} needs {lacking}")

    def subject(network: str | None, radius: str, n: int) -> Subject:
        name = network or arguments.model or "resnet18"
        return Subject(name, radius, arguments.cifar10, n, arguments.checkpoints or ".")

    if only == "scaling":
        counts = (1, *((arguments.processes,) if arguments.processes > 1 else ()))
        return time_scaling(subject(*SCALED[arguments.size]), ("pgd-20", "margin-20"), counts, arguments.rounds)
    audited, attacks, ways = AUDITED[arguments.size]
    return time_audits([subject(*of) for of in audited], attacks, ways, arguments.rounds)


def time_audits(
    subjects: Sequence[Subject], attacks: Sequence[str], ways: Sequence[str], rounds: int = 1
) -> pd.DataFrame:
    """Time the same attacks in several ways.

    Args:
        subjects: What is attacked.
        attacks: Names of ladders and attacks; :data:`AUTOATTACK` runs "autoattack" alone.
        ways: What :func:`time_way` takes. The first is what the others are compared with.
        rounds: How often each is timed.

    Returns:
        A row per network, way and attack, and one for all attacks together: ``seconds``, the median, with ``fastest``
        and ``slowest`` (of an audit only for all attacks); ``images / s``; ``robust %``; ``verdicts that differ``, the
        number of examples judged otherwise than in the first way; ``times NAME``, how often faster than the first.
    """
    timed: dict[tuple[Subject, str], list[dict[str, Any]]] = {}
    for round_ in range(rounds):  # by turns, so that a slow minute of the machine meets all ways alike
        for subject in subjects:
            for way in ways:
                print("round", round_ + 1, "of", rounds, subject.network, way, sep=" | ", flush=True)
                done = apart(__file__, "time_way", way=way, subject=asdict(subject), attacks=attacks)
                if done is not None:
                    timed.setdefault((subject, way), []).append(done)
    if not timed:
        sys.exit("error: no way of auditing ran")
    return table_of(timed, ways[0])


def table_of(timed: Mapping[tuple[Subject, str], Sequence[Mapping[str, Any]]], beside: str) -> pd.DataFrame:
    """Return the table of :func:`time_audits`.

    Args:
        timed: What :func:`time_way` returned, by subject and way.
        beside: The way that the others are compared with.
    """
    rows = []
    for (subject, way), measured in timed.items():
        first = timed.get((subject, beside), [{"seconds": {}, "withstood": {}}])
        for attack, verdicts in measured[0]["withstood"].items():
            seconds = [m["seconds"].get(attack, np.nan) for m in measured]
            theirs = [m["seconds"].get(attack, np.nan) for m in first]
            other = first[0]["withstood"].get(attack)
            differ = np.nan if other is None else sum(a != b for a, b in zip(verdicts, other, strict=True))
            rows.append(
                {
                    "network": _shown(subject.network),
                    "eps x 255": 255 * subject.threat.eps,
                    "n": len(verdicts),
                    "way": way,
                    "attack": attack,
                    "rounds": len(measured),
                    "seconds": statistics.median(seconds),
                    "fastest": min(seconds),
                    "slowest": max(seconds),
                    "images / s": len(verdicts) / statistics.median(seconds),
                    "robust %": 100 * verdicts.count("1") / len(verdicts),
                    "verdicts that differ": differ,
                    f"times {beside}": statistics.median(theirs) / statistics.median(seconds),
                }
            )
    return pd.DataFrame(rows).assign(pyautoattack=version("pyautoattack"))


def time_way(way: str, subject: dict[str, Any], attacks: Sequence[str]) -> dict[str, Any]:
    """Attack in one way, and note how long it took and who withstood.

    Args:
        way: :data:`THEIRS`, each attack on all examples by ART's class for it, and AutoAttack by pyautoattack;
            :data:`AUTOATTACK`, the latter alone; :data:`AUDIT`; or :data:`WORST_CASE`, an audit whose examples leave
            once broken, so that an attack's verdict stands for that attack and all before it.
        subject: The fields of a :class:`Subject`.
        attacks: Names of ladders and attacks.

    Returns:
        ``seconds`` and ``withstood``, both by attack and for "all attacks"; the latter a string of an ``0`` or ``1``
        per example.

    Raises:
        InputError: ART or pyautoattack has no such attack.
    """
    what = Subject(**subject)
    classifier, data = what.load()
    if way in (THEIRS, AUTOATTACK):
        only = ("autoattack",) if way == AUTOATTACK else attacks
        seconds, withstood = _one_by_one(classifier, data, what.threat, only)
    else:
        options = {"worst_case": True} if way == WORST_CASE else {}
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "audit"
            audit = acw.ClassWiseAudit(
                what.threat, attacks, store=store, seed=0, checks=False, verbose=False, **options
            )
            began = time.perf_counter()
            result = audit.evaluate({"network": classifier}, data)
            seconds = {ALL: time.perf_counter() - began}
        withstood = _verdicts(result, data)
    return {
        "seconds": seconds,
        "withstood": {attack: "".join("01"[int(v)] for v in values) for attack, values in withstood.items()},
    }


def _verdicts(result: acw.AuditResult, data: acw.Dataset) -> dict[str, np.ndarray]:
    """Return who withstood (n,) by attack; who isn't there, because it had left, is counted as broken."""
    rows = result.outcomes[["attack", "example", "withstood"]]
    verdicts = {
        attack: rows[rows["attack"] == attack].set_index("example")["withstood"].reindex(data.ids, fill_value=False)
        for attack in result.attacks
    }
    verdicts[ALL] = rows.groupby("example")["withstood"].all().reindex(data.ids)
    return {attack: values.to_numpy(dtype=bool) for attack, values in verdicts.items()}


def _one_by_one(
    classifier: Any, data: acw.Dataset, threat: acw.ThreatModel, attacks: Sequence[str]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Run others' attacks with the ladder's parameters, one after the other, each on all examples."""
    x, y = np.asarray(data.x[:]), data.y
    seconds: dict[str, float] = {}
    withstood: dict[str, np.ndarray] = {}
    factories = acw.attacks.ladder(list(attacks), threat)
    prepared = {name: _theirs(name, make(classifier), classifier) for name, make in factories.items()}
    np.random.seed(0)  # noqa: NPY002 - ART draws from it
    began = time.perf_counter()
    right = classifier.predict(x, batch_size=BATCH).argmax(1) == y
    for name, generate in prepared.items():
        start = time.perf_counter()
        x_adv = generate(x, y)
        withstood[name] = right & (classifier.predict(x_adv, batch_size=BATCH).argmax(1) == y)
        seconds[name] = time.perf_counter() - start
    seconds[ALL], withstood[ALL] = time.perf_counter() - began, np.all(list(withstood.values()), axis=0)
    return seconds, withstood


def _theirs(name: str, ours: Any, classifier: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return ART's or pyautoattack's attack with the parameters of ours."""
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch

    if name == "autoattack":
        from pyautoattack import AutoAttack

        theirs = AutoAttack(
            classifier.model.eval(), norm="Linf", eps=ours.eps, version="standard", seed=0, device=classifier.device
        )

        def generate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            x_adv, _ = theirs.run_standard_evaluation(torch.from_numpy(x), torch.from_numpy(y), batch_size=BATCH)
            return x_adv.cpu().numpy()

        return generate
    if isinstance(ours, acw.TemperaturePGD):
        estimator = _ascending(
            partial(acw.losses.soft_margin, inverse_temperature=ours.inverse_temperature), classifier
        )
    elif isinstance(ours, acw.PGD) and ours.loss in ("cross_entropy", "margin", "dlr"):
        ce = ours.loss == "cross_entropy"
        estimator = classifier if ce else _ascending(getattr(acw.losses, ours.loss), classifier)
    else:
        raise acw.InputError(f"ART has no attack that is {name!r}.")
    if name == "fgsm":
        return FastGradientMethod(estimator, eps=ours.eps, batch_size=BATCH).generate
    return ProjectedGradientDescentPyTorch(
        estimator,
        eps=ours.eps,
        eps_step=ours.eps / 4 if ours.eps_step is None else ours.eps_step,
        max_iter=ours.max_iter,
        num_random_init=ours.num_random_init,
        batch_size=BATCH,
        verbose=False,
    ).generate


def _ascending(loss: Callable[..., torch.Tensor], classifier: Any) -> Any:
    """Return an ART classifier of the same network with a loss of its logits and labels."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=classifier.model,
        loss=lambda logits, one_hot: loss(logits, one_hot.argmax(1)).sum(),
        input_shape=classifier.input_shape,
        nb_classes=classifier.nb_classes,
        clip_values=classifier.clip_values,
        device_type="gpu" if classifier.device.type == "cuda" else "cpu",
    )


def time_scaling(
    subject: Subject, attacks: Sequence[str], processes: Sequence[int] = (1, 2), rounds: int = 1
) -> pd.DataFrame:
    """Time one audit by different numbers of processes, of one thread each, that ``torchrun`` starts.

    Args:
        subject: What is attacked.
        attacks: Names of ladders and attacks.
        processes: The numbers of processes. The first is what the others are compared with.
        rounds: How often each is timed.

    Returns:
        A row per number of processes: ``seconds``, the median, from when all of them are ready to the end of the last
        one; ``images / s``; ``times``, how much faster than the first; ``robust %``, which mustn't depend on it.
    """
    timed: dict[int, list[float]] = {n: [] for n in processes}
    robust: dict[int, float] = {}
    for round_ in range(rounds):
        for n in processes:
            print("round", round_ + 1, "of", rounds, f"{n} processes", sep=" | ", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                done = apart(__file__, "time_share", n, folder=folder, subject=asdict(subject), attacks=attacks)
                if done is None:
                    continue
                each = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(n)]
            timed[n].append(max(e["ended"] for e in each) - max(e["ready"] for e in each))
            robust[n] = each[0]["robust %"]
    ran = [n for n in processes if timed[n]]
    if not ran:
        sys.exit("error: no number of processes ran")
    seconds = [statistics.median(timed[n]) for n in ran]
    return pd.DataFrame(
        {
            "network": _shown(subject.network),
            "eps x 255": 255 * subject.threat.eps,
            "attacks": ", ".join(attacks),
            "n": subject.n_examples,
            "shards": -(-subject.n_examples // SHARD),
            "processes": ran,
            "threads each": 1,
            "rounds": [len(timed[n]) for n in ran],
            "seconds": seconds,
            "fastest": [min(timed[n]) for n in ran],
            "slowest": [max(timed[n]) for n in ran],
            "images / s": [subject.n_examples / s for s in seconds],
            "times": [seconds[0] / s for s in seconds],
            "robust %": [robust[n] for n in ran],
        }
    )


def time_share(folder: str, subject: dict[str, Any], attacks: Sequence[str]) -> dict[str, Any]:
    """Take part in an audit with the other processes, and write down in the folder when it began and ended.

    Args:
        folder: Where the processes meet, and where the audit's store is.
        subject: The fields of a :class:`Subject`.
        attacks: Names of ladders and attacks.

    Returns:
        ``ready`` and ``ended``, seconds of a clock that all processes of a machine share, and in the first process
        ``robust %``, under all attacks.

    Raises:
        TimeoutError: Others weren't ready after five minutes.
    """
    torch.set_num_threads(1)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    what, shared = Subject(**subject), Path(folder)
    classifier, data = what.load()
    audit = acw.ClassWiseAudit(what.threat, attacks, store=shared / "audit", seed=0, checks=False, verbose=False)
    (shared / f"{rank}.ready").touch()
    patience = time.monotonic() + 300
    while len(list(shared.glob("*.ready"))) < world:
        if time.monotonic() > patience:
            raise TimeoutError(f"Of {world} processes only {len(list(shared.glob('*.ready')))} got ready.")
        time.sleep(0.01)
    ready = time.monotonic()
    result = audit.evaluate({"network": classifier}, data)
    times = {"ready": ready, "ended": time.monotonic()}
    if rank == 0:
        times["robust %"] = 100 * float(_verdicts(result, data)[ALL].mean())
    (shared / f"{rank}.json").write_text(json.dumps(times))
    return times


def _shown(network: str) -> str:
    """Return a network's name for a table: of a file its name alone."""
    return Path(network).name


if __name__ == "__main__":
    answer(time_way, time_share)
