"""Run attacks on models and write down what each did to each example."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from itertools import groupby, islice
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from art.evaluations.evaluation import Evaluation

from art_classwise import __version__
from art_classwise._core import distributed
from art_classwise._core.executors import bundle_size, checked_executor, dispatch, share_with
from art_classwise._core.folders import MemoryFolder, open_folder
from art_classwise._core.forward import release
from art_classwise._core.pickles import Sent, unpickled
from art_classwise._core.progress import ProgressBar, is_shown, progress_bar
from art_classwise.attacks.fast_copy import Precision
from art_classwise.attacks.ladder import Attacks, is_ladder, usual_threat
from art_classwise.audit.corrupted import asked, attack_factories, located
from art_classwise.audit.cost import Effort, estimated
from art_classwise.audit.manifest import Examples, Manifest, ModelSource, Published
from art_classwise.audit.order import fastest_first, held_first
from art_classwise.audit.plan import (
    FileModel,
    NamedData,
    PickledData,
    PickledModel,
    Plan,
    RobustBenchModel,
    Task,
    attacks_spec,
    data_spec,
    loads,
    model_spec,
    share,
    tasks,
)
from art_classwise.audit.provenance import data_fingerprint, environment, file_digests, model_fingerprint
from art_classwise.audit.request import check_fit, check_names, check_told_apart, checked_attack, described_attacks
from art_classwise.audit.result import AuditResult
from art_classwise.audit.runner import ProbeExamples, ShardRunner, probe_examples
from art_classwise.audit.saved import finished_shards, is_whole, read_outcomes
from art_classwise.audit.store import DamagedShardError, MissingShardError, Store, StoreError, Unit
from art_classwise.audit.work import (
    Frames,
    Job,
    Parcel,
    Result,
    checked_model,
    compute,
    drop_damaged,
    held_of,
    is_probed,
    parcel_examples,
    run_parcels,
    unit_of,
)
from art_classwise.datasets import Dataset, as_dataset
from art_classwise.errors import InputError, check_flag, check_seed, check_whole, first_line
from art_classwise.threat import ThreatModel

__all__ = ["ClassWiseAudit"]

_SHARD = 512  # examples: what a process takes at once, and loses if it is killed


class ClassWiseAudit(Evaluation):
    """An audit of models under attacks, kept example by example.

    Whether an example withstood is decided in float32 and eval mode, after the attack's result is brought back
    into the ball and into [0, 1]. An example that is misclassified without attack has not withstood.

    The work is cut into shards of 512 examples, each of which is written to ``store`` once it is finished. An audit
    that was killed goes on from there; one that is asked for again is read. Models and attacks can be added to a
    store. The work is done here; or by an executor's workers; or it is planned (:meth:`plan`), done by any processes
    that see the store (:func:`art_classwise.audit.work_on`), and read. What comes out is the same for any batch size,
    order, number of processes and of interruptions: on CPUs of one kind and with the same number of threads to the bit.

    Args:
        threat: E.g. ``"Linf:8/255"``, in the units of images in [0, 1]; if absent, the one in use for the data set. Or
            ``"corruptions"``: no attack, but all corruptions.
        attacks: What :func:`art_classwise.attacks.ladder` takes: a ladder, names, ART attacks, or functions by name. If
            absent ``"quick"``; or none, where corruptions are asked for and no threat model.
        corruptions: Common corruptions to try, too (Hendrycks and Dietterich 2019): ``"all"``, or names such as
            ``"fog:3"``, a severity from 1 to 5, and ``"snow"``, all five; a list, or a text with commas. They are no
            adversaries: each is judged by the prediction on the corrupted image, and counts for itself and in
            ``"mean corruption"``, not under ``"all attacks"``.
        corruption_dir: Folder of CIFAR-10-C, CIFAR-100-C or ImageNet-C, or the one that it lies in;
            ``$ART_CLASSWISE_DATA``, else ``data``, if absent. Where there is none, images are made from the clean ones,
            with a warning; tables call them ``made:gaussian_noise:1``, and names like these ask for them.
        surrogate: An ART classifier that the ladder's transfer attacks come from.
        precision: Of the ladder's searches: see :class:`art_classwise.attacks.PGD`. Verdicts are float32 always.
        worst_case: Let an example leave once an attack has broken it: what is asked for the robust accuracy under all
            attacks then costs less, the more so the weaker the model. Outcomes of an attack are then of it and those
            before it: see :meth:`AuditResult.worst_case`.
        store: Folder of the outcomes: a path, or an address such as ``"s3://bucket/audit"``; needed under ``torchrun``.
        executor: Any ``concurrent.futures.Executor``, whose workers then compute: Dask's ``client.get_executor()``, a
            process pool. They are sent the models, and need no access to the store.
        seed: Of the attacks.
        batch_size: Examples computed at once; if absent, by their size, at most 512. Less takes less memory; where
            memory runs out it is halved.
        checks: Try each network itself, too: asked twice and one by one on 64 examples; with images normalised
            otherwise, and channels reversed, on at most 256; its gradients compared with finite differences on 16;
            within a radius that nothing can withstand, 20 steps on 32; and under a reference attack of 40 steps on a
            quarter of the examples, at most 256, of those that withstood. What looks wrong is among
            :attr:`AuditResult.findings`.
        verbose: Show a progress bar, and before an audit of more than ten seconds how long it takes at most.
        command: The command line that runs the audit, kept with its outcomes and shown in its report.

    Raises:
        InputError: The threat model or an attack is unknown or out of range, or the folder can't be written.
    """

    def __init__(
        self,
        threat: ThreatModel | str | None = None,
        attacks: Attacks | None = None,
        *,
        corruptions: str | Iterable[str] | None = None,
        corruption_dir: str | os.PathLike[str] | None = None,
        surrogate: Any = None,
        precision: Precision = "auto",
        worst_case: bool = False,
        store: str | os.PathLike[str] | None = None,
        executor: Executor | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        checks: bool = True,
        verbose: bool = True,
        command: str | None = None,
    ) -> None:
        if batch_size is not None:
            check_whole("batch_size", batch_size, 1)
        check_seed(seed)
        self.threat, self._attacks, self._corruptions = asked(threat, attacks, corruptions)
        self._corruption_dir = None if corruption_dir is None else os.path.abspath(os.path.expanduser(corruption_dir))
        self._surrogate, self._precision = surrogate, precision
        self._ladder = partial(
            attack_factories,
            self._attacks,
            surrogate=surrogate.load() if _is_spec(surrogate) else surrogate,
            seed=seed,
            batch_size=batch_size or _SHARD,
            precision=precision,
        )
        self._ladder(self._corruptions, self.threat or ThreatModel("Linf", 8 / 255))  # a wrong name is better known now
        self.worst_case = check_flag("worst_case", worst_case)
        if self.worst_case and self._corruptions:
            raise InputError(
                "Corruptions are tried on all images, also those that an attack has broken: ask for them without "
                "`worst_case`."
            )
        folder = None if store is None else open_folder(store)
        if folder is not None:
            folder.check_writable()
        self.store = None if folder is None else folder.address  # the same wherever evaluate() is called
        self.executor = checked_executor(executor)
        self.seed = int(seed)  # a NumPy integer can't be written as JSON
        self.batch_size = batch_size
        self.checks = check_flag("checks", checks)
        self.verbose = verbose
        self.command = None if command is None else command.encode(errors="backslashreplace").decode()

    def evaluate(self, models: Mapping[str, Any], data: Any, *, optional: Collection[str] = ()) -> AuditResult:
        """Attack examples of ``data`` on every model with every attack; what is in the store already is read.

        Args:
            models: ART ``PyTorchClassifier`` s by the names they shall have in the tables; or functions without
                arguments that load one, called when its turn comes, so that one of these at a time is in memory.
            data: The examples: a :class:`art_classwise.Dataset`, or what
                :func:`art_classwise.datasets.as_dataset` makes one of: ``(x, y)``, a torch data set, a name.
            optional: Names of models to go on without, with a warning, if they can't be loaded or audited. Of one that
                can't be loaded, what the store holds is read, if it is finished.

        Returns:
            The outcomes; under ``torchrun`` in every process. The models, and the global random state, are as they
            were.

        Raises:
            InputError: There is no model, or of optional ones none is left; a model doesn't fit the data or doesn't
                return logits, an attack returns something else than images, or the radius covers the whole range
                [0, 1]; the store holds another audit, or can't be written; or there is none under ``torchrun``; or an
                executor's workers fail.
        """
        if self.store is None and distributed.world() > 1:
            raise InputError("Under torchrun the processes share a folder: give `store`.")
        models = {name: m.load if _is_spec(m) else m for name, m in models.items()} if _is_mapping(models) else models
        examples = self._examples(data, _n_classes(models))
        check_names(models, optional, examples)
        # In memory nothing can be left behind, however the process ends.
        run = _Run(self, Store(MemoryFolder() if self.store is None else self.store), examples, data)
        run.store.check(run.blank)  # before models are loaded, and which of them aren't taken for another audit's
        lost, left_out = run.spread(models, optional) if self.executor else run.one_by_one(models, optional)
        if len(left_out) + len(lost) == len(models):
            raise InputError(f"None of the {len(models)} models could be loaded and audited: see the warnings.")
        return run.result(models, lost, left_out)

    def plan(self, models: Mapping[str, Any], data: Any) -> Manifest:
        """Write down an audit that other processes compute: its units, and how models and data are loaded there.

        Each model is loaded here once, and told by its fingerprint. Workers compute units
        (:func:`art_classwise.audit.work_on`, ``art-classwise work STORE``), and :meth:`evaluate`, or
        :func:`art_classwise.read_audit`, reads what they found.

        Args:
            models: By the names they shall have in the tables: paths of checkpoints, ``"robustbench:NAME"``; or
                functions and ART classifiers, which are written into the plan as they are, with a warning.
            data: A name or path that :func:`art_classwise.load_dataset` knows; or examples, which are written into the
                plan, with a warning.

        Returns:
            The manifest, whose ``plan`` says what a worker needs.

        Raises:
            InputError: There is no ``store``; a model can't be loaded or sent; or as for :meth:`evaluate`.
        """
        if self.store is None:
            raise InputError("A plan is written into a folder that workers see: give `store`.")
        examples = self._examples(data, None)
        check_names(models, (), examples)
        run = _Run(self, Store(self.store), examples, data)
        run.store.check(run.blank)
        specs = {name: model_spec(name, model, examples, run.blank.threat.norm) for name, model in models.items()}
        surrogate = self._surrogate
        if surrogate is not None:
            surrogate = model_spec("surrogate", surrogate, examples, run.blank.threat.norm)
        seconds: dict[str, dict[str, float]] = {}
        requested = run.blank
        for name, spec in specs.items():
            classifier = spec.load()
            attacks = run.attacks({name: classifier})
            one = run.requested({name: classifier}, attacks)
            requested = requested.extended(one)
            seconds[name] = estimated(classifier, run.factories(), examples)
            classifier = None
            release()
        plan = Plan(
            models=specs,
            data=data_spec(data, examples),
            attacks=run.attacks_spec(),
            surrogate=surrogate,
            precision=self._precision,
            batch_size=self.batch_size,
            threat_given=self.threat is not None,
            checks=self.checks,
            seconds=seconds,
            release=__version__,
            corruptions=run.corruptions,
            corruption_dir=self._corruption_dir,
        )
        return run.store.join(requested.updated(plan=plan))

    def _examples(self, data: Any, n_classes: int | None) -> Dataset:
        return data.load() if isinstance(data, (NamedData, PickledData)) else as_dataset(data, n_classes=n_classes)


class _Run:
    """One call of an audit, on a store and examples."""

    def __init__(self, audit: ClassWiseAudit, store: Store, examples: Dataset, data: Any) -> None:
        self._audit, self.store, self._data, self._given = audit, store, examples, data
        threat = audit.threat or usual_threat(examples.name)
        self._corruptions, corrupted = located(examples, audit._corruptions, audit._corruption_dir)
        self._make = partial(audit._ladder, self._corruptions, audit.threat, corrupted=corrupted, dataset=examples.name)
        threat.check_radius(0.0, 1.0, int(np.prod(examples.input_shape)))
        self.blank = Manifest.begun(
            threat=threat,
            seed=audit.seed,
            worst_case=audit.worst_case,
            shard_size=_SHARD,
            examples=Examples(
                dataset=examples.name,
                split=examples.split,
                n=len(examples),
                fingerprint=data_fingerprint(examples),
                files=file_digests(examples, shown=audit.verbose),
            ),
            classes=tuple(examples.classes),
            commands=() if audit.command is None else (audit.command,),
        )
        self._runner = ShardRunner(examples, threat, shard_size=_SHARD, seed=audit.seed, batch_size=audit.batch_size)
        self._outcomes: pd.DataFrame | None = None
        self._effort = Effort()
        self._order: list[str] | None = None

    # What is asked for.

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Names of the corruptions, as far as their images can be had."""
        return self._corruptions

    def factories(self) -> dict[str, Any]:
        """Return the attacks by name, each a function from a classifier to one; in their order, once it is known."""
        factories = self._make()
        return {name: factories[name] for name in self._order or factories}

    def _put_in_order(self, classifier: Any) -> None:
        """Decide in which order attacks are asked, once for all models: as the store has it, or a ladder as it costs.

        Under torchrun a ladder keeps its own order, which all processes know.
        """
        audit, factories = self._audit, self.factories()
        if self._order is not None or not audit.worst_case or not is_ladder(audit._attacks):
            return
        held = list(self.store.manifest().attacks) if self.store.is_begun else []
        if held or distributed.world() > 1:
            self._order = held_first([*factories], held)
            return
        attacks = {name: checked_attack(name, make(classifier)) for name, make in factories.items()}
        self._order = fastest_first(
            classifier, attacks, self._data, self.blank.threat, seed=audit.seed, batch_size=audit.batch_size
        )

    def attacks_spec(self) -> Any:
        """Return how attacks are made elsewhere: by their names where a ladder has another order than its own."""
        given, ordered = self._audit._attacks, list(self.factories())
        own = list(self._make())
        return attacks_spec(given if ordered == own else ordered)

    def attacks(self, models: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the attacks on each of some models, all checked."""
        for name, classifier in models.items():
            check_fit(name, classifier, self._data)
        self._put_in_order(next(iter(models.values())))
        factories = self.factories()
        return {
            name: {a: checked_attack(a, make(classifier)) for a, make in factories.items()}
            for name, classifier in models.items()
        }

    def requested(self, models: Mapping[str, Any], attacks: Mapping[str, Mapping[str, Any]]) -> Manifest:
        """Describe an audit of some models."""
        sources = {name: ModelSource.of(classifier) for name, classifier in models.items()}
        requested = self.blank.updated(
            models={name: model_fingerprint(one, sources[name].weights) for name, one in models.items()},
            sources=sources,
            attacks=described_attacks(attacks, worst_case=self._audit.worst_case),
            published={name: of for name, classifier in models.items() if (of := Published.of(classifier))},
        )
        check_told_apart(models, requested.models)
        return requested

    # In this process, or in each of those that torchrun started.

    def one_by_one(self, models: Mapping[str, Any], optional: Collection[str]) -> tuple[list[str], list[str]]:
        """Audit models here: those in memory together, others when their turn comes.

        Returns:
            Names of optional models that couldn't be loaded, and that couldn't be audited.
        """
        together = {name: m for name, m in models.items() if not loads(m) and name not in optional}
        if together:
            outcomes = self._done_here(together)
            self._outcomes = outcomes if len(together) == len(models) else None
        lost: list[str] = []
        left_out: list[str] = []
        for name in (name for name in models if name not in together):
            loaded = False
            try:
                one = models[name]() if loads(models[name]) else models[name]
                loaded = True
                self._done_here({name: one})
            except Exception as error:  # of the model's own code: of any kind
                if name not in optional or isinstance(error, StoreError):
                    raise
                (left_out if loaded else lost).append(name)
                warnings.warn(f"Continuing without {name!r}: {first_line(error)}", stacklevel=3)
            one = None
            release()  # ART's classifiers lie in circles of references
        return lost, left_out

    def _done_here(self, models: Mapping[str, Any]) -> pd.DataFrame:
        """Return the outcomes of models that are in memory, once all of them are in the store."""
        attacks = self.attacks(models)
        requested = self.requested(models, attacks)
        self.store.join(requested)
        self._measure(models)
        names = list(requested.attacks)
        dropped: set[Unit] = set()
        while True:
            with self._bar(requested) as bar:
                todo = [*self._todo(requested, bar)]
                distributed.meet()  # all have the same list, from which nothing is missing yet
                rank, world = distributed.rank(), distributed.world()
                if not dropped:
                    self._say_how_long(requested, bar)
                for task in [todo[i] for i in share(len(todo), rank, world)]:
                    self._compute(requested, models[task.model], attacks[task.model], task, bar)
            distributed.meet()
            try:
                outcomes, _ = read_outcomes(self.store, requested, list(requested.models), names)
                break
            except DamagedShardError as damaged:
                if damaged.shard.unit in dropped:
                    raise  # computing it anew doesn't help
                dropped.add(damaged.shard.unit)
                drop_damaged(self.store, damaged)
            except MissingShardError:  # another process found it damaged
                continue
            finally:
                distributed.meet()
        if self._audit.checks:
            for name in self._untried(requested, models):
                self._probe_here(requested, name, models[name], outcomes)
            distributed.meet()
        return outcomes

    def _compute(
        self, requested: Manifest, classifier: Any, attacks: Mapping[str, Any], task: Task, bar: ProgressBar
    ) -> None:
        """Compute a unit and write what comes of it."""
        n = self._n_examples(task)
        held = held_of(self.store, requested, task)
        for attack in _lacking(task, held):
            bar.at(f"{task.model}, {attack or 'without attack'}")
            break
        for attack, frame in compute(self._runner, classifier, attacks, task, held):
            self._write(requested, Result({attack: frame}, environment()), task)
            bar.update(n * self._effort.of(task.model, attack))
            held[attack] = frame
            for following in _lacking(task, held):
                bar.at(f"{task.model}, {following}")
                break

    def _probe_here(self, requested: Manifest, name: str, classifier: Any, outcomes: pd.DataFrame) -> None:
        try:
            chosen = self._probe_examples(outcomes, name)
            probe = self._runner.probe(classifier, chosen)
        except Exception as error:  # of the model's own code: of any kind; what attacks found stands
            warnings.warn(f"The checks of {name!r} failed: {first_line(error)}", stacklevel=2)
        else:
            self.store.add_environment(environment())
            self.store.add_probe(requested.models[name], probe)

    def _probe_examples(self, outcomes: pd.DataFrame, name: str) -> ProbeExamples:
        return probe_examples(self._data, outcomes[outcomes["model"] == name], self._corruptions)

    # By an executor's workers.

    def spread(self, models: Mapping[str, Any], optional: Collection[str]) -> tuple[list[str], list[str]]:
        """Have an executor's workers audit models; each is loaded here once, to be told by its fingerprint.

        Returns:
            As :meth:`one_by_one`.
        """
        executor = self._audit.executor
        assert executor is not None
        lost: list[str] = []
        left_out: list[str] = []
        requested = self.blank
        sent: dict[str, Any] = {}
        for name, model in models.items():
            loaded = False
            try:
                classifier = model() if loads(model) else model
                loaded = True
                requested = requested.extended(self.requested({name: classifier}, self.attacks({name: classifier})))
                self._measure({name: classifier})
                sent[name] = Sent.of(model, f"The model {name!r}")
                again = unpickled(sent[name].content, f"The model {name!r}")  # workers' errors would come late
                checked_model(name, classifier if loads(model) else again, requested.models[name])
                again = None
            except Exception as error:
                if name not in optional or isinstance(error, StoreError):
                    raise
                (left_out if loaded else lost).append(name)
                warnings.warn(f"Continuing without {name!r}: {first_line(error)}", stacklevel=3)
            classifier = None
            release()
        if not sent:
            return lost, left_out
        self.store.join(requested)
        with self._bar(requested) as bar:
            self._say_how_long(requested, bar)
            left_out += self._hand_out(executor, requested, sent, optional, bar)
        return lost, left_out

    def _hand_out(
        self,
        executor: Executor,
        requested: Manifest,
        sent: Mapping[str, Sent],
        optional: Collection[str],
        bar: ProgressBar,
    ) -> list[str]:
        job = share_with(executor, Sent.of(self._job(requested), "The audit"))
        shared = {name: share_with(executor, one) for name, one in sent.items()}
        failed: list[str] = []
        by_name = isinstance(self._given, NamedData)

        def parcels() -> Iterator[Parcel]:
            for task in self._todo(requested, bar):
                if task.model not in failed:
                    examples = None if by_name else parcel_examples(self._data, task, _SHARD)
                    yield Parcel(task, held_of(self.store, requested, task), examples)

        def receive(parcel: Parcel, result: Result) -> None:
            model = parcel.task.model
            if not result.error:
                self._write(requested, result, parcel.task)
                bar.at(f"{model}, {parcel.task.attacks[-1] or 'without attack'}")
                efforts = sum(self._effort.of(model, attack) for attack in result.frames)
                bar.update(efforts * self._n_examples(parcel.task))
            elif model not in optional:
                raise InputError(result.error)
            elif model not in failed:
                failed.append(model)
                warnings.warn(f"Continuing without {model!r}: {result.error}", stacklevel=2)

        def receive_probe(parcel: Parcel, result: Result) -> None:
            model = parcel.task.model
            if result.probe is None:
                warnings.warn(f"The checks of {model!r} failed: {result.error}", stacklevel=2)
            else:
                self.store.add_environment(environment() if result.environment is None else result.environment)
                self.store.add_probe(requested.models[model], result.probe)

        def submit(bundle: Sequence[Parcel]) -> Future[list[Result]]:
            return executor.submit(run_parcels, bundle, job, shared[bundle[0].task.model])

        dropped: set[Unit] = set()
        size = bundle_size(executor, len(sent) * requested.n_shards * (1 + len(requested.attacks)))
        while True:
            dispatch(executor, _bundled(parcels(), size), submit, _unbundled(receive), name=_bundle_name)
            rest = [name for name in sent if name not in failed]
            try:
                outcomes = read_outcomes(self.store, requested, rest, list(requested.attacks))[0] if rest else None
                break
            except DamagedShardError as damaged:
                if damaged.shard.unit in dropped:
                    raise
                dropped.add(damaged.shard.unit)
                drop_damaged(self.store, damaged)
            except MissingShardError:
                continue
        if self._audit.checks and outcomes is not None:
            tried = (
                Parcel(Task(name, 0, ("checks",)), probe=self._probe_examples(outcomes, name))
                for name in self._untried(requested, rest)
            )
            dispatch(executor, _bundled(tried, 1), submit, _unbundled(receive_probe), name=_bundle_name)
        return failed

    def _untried(self, requested: Manifest, names: Iterable[str]) -> list[str]:
        """Return which of the networks aren't tried themselves yet: of this process's share, each by its first name."""
        first = {requested.models[name]: name for name in reversed(list(names))}
        rank, world = distributed.rank(), distributed.world()
        mine = [name for number, name in enumerate(sorted(first.values())) if number % world == rank]
        held = self.store.manifest()
        return [name for name in mine if not is_probed(held, name)]

    def _job(self, requested: Manifest) -> Job:
        audit = self._audit
        assert self.blank.examples.fingerprint is not None
        return Job(
            threat=self.blank.threat,
            attacks=self._make,
            seed=audit.seed,
            shard_size=_SHARD,
            batch_size=audit.batch_size,
            data=self._given.load if isinstance(self._given, NamedData) else None,
            fingerprint=self.blank.examples.fingerprint,
            models=requested.models,
        )

    # What both need.

    def _bar(self, requested: Manifest) -> ProgressBar:
        each = [self._effort.of(model, attack) for model in requested.models for attack in (None, *requested.attacks)]
        return progress_bar(total=sum(each) * requested.examples.n, name="audit", shown=self._audit.verbose)

    def _measure(self, models: Mapping[str, Any]) -> None:
        if is_shown(self._audit.verbose):
            self._effort.measure(models, self.factories, self._data)

    def _say_how_long(self, requested: Manifest, bar: ProgressBar) -> None:
        if not self._effort.knows(requested.models):
            return
        there = finished_shards(self.store, requested)
        left = sum(
            self._effort.of(task.model, attack) * self._n_examples(task)
            for task in self._tasks(requested)
            for attack in task.attacks
            if task.shard not in there[task.model, attack]
        )
        world, on = distributed.world(), "on this machine"
        if self._audit.executor is not None:
            on = "of this machine's time, for all workers together"
        elif world > 1:
            on = f"by {world} processes like this one"
        names, attacks, n = requested.models, requested.attacks, requested.examples.n
        sentence = self._effort.sentence(left / world, names, attacks, n, on=on)
        if sentence:
            bar.say(sentence)

    def _tasks(self, requested: Manifest) -> Iterator[Task]:
        names, attacks = list(requested.models), list(requested.attacks)
        return iter(tasks(names, attacks, requested.n_shards, worst_case=requested.worst_case))

    def _n_examples(self, task: Task) -> int:
        return min(_SHARD, len(self._data) - task.shard * _SHARD)

    def _todo(self, requested: Manifest, bar: ProgressBar) -> Iterator[Task]:
        """Yield units of which something isn't there yet."""
        there = finished_shards(self.store, requested)
        for task in self._tasks(requested):
            found = [attack for attack in task.attacks if task.shard in there[task.model, attack]]
            bar.skip(sum(self._effort.of(task.model, attack) for attack in found) * self._n_examples(task))
            if len(found) < len(task.attacks):
                yield task

    def _write(self, requested: Manifest, result: Result, task: Task) -> None:
        if result.environment is not None and result.frames:
            self.store.add_environment(result.environment)
        for attack, frame in result.frames.items():
            self.store.write(unit_of(requested, task, attack), frame)

    def result(self, models: Mapping[str, Any], lost: Collection[str], left_out: Collection[str]) -> AuditResult:
        """Return the result, from the store."""
        held, attacks = self.store.manifest(), list(self.factories())
        reusable = [m for m in lost if is_whole(self.store, held, m, attacks)]
        if reusable:
            warnings.warn(
                f"The folder already holds outcomes of {', '.join(reusable)}, which are reused.", stacklevel=3
            )
        names = [m for m in models if m in reusable or m not in {*lost, *left_out}]
        outcomes, costs = read_outcomes(self.store, held, names, attacks)
        if distributed.is_main():
            self.store.tidy()
            self.store.seal()
        distributed.meet()
        text = None if self._audit.store is None else self.store.sealed()  # a folder in memory is gone soon
        sealed = () if text is None else (text,)
        return AuditResult(outcomes, self.store.manifest().part(names, attacks), (), costs, sealed=sealed)


Bundle: TypeAlias = Sequence[Parcel]
"""Units of one model that a worker computes at a time."""


def _bundled(parcels: Iterable[Parcel], size: int) -> Iterator[Bundle]:
    """Put units of one model together, as many as a worker shall take at a time."""
    for _, of_model in groupby(parcels, key=lambda parcel: parcel.task.model):
        while bundle := [*islice(of_model, size)]:
            yield bundle


def _unbundled(receive: Callable[[Parcel, Result], None]) -> Callable[[Bundle, list[Result]], None]:
    def receive_all(bundle: Bundle, results: list[Result]) -> None:
        for parcel, result in zip(bundle, results, strict=True):
            receive(parcel, result)

    return receive_all


def _bundle_name(bundle: Bundle) -> str:
    return bundle[0].task.id + (f" to {bundle[-1].task.id}" if len(bundle) > 1 else "")


def _lacking(task: Task, held: Frames) -> list[str | None]:
    return [attack for attack in task.attacks if attack not in held]


def _is_spec(value: Any) -> bool:
    return isinstance(value, (RobustBenchModel, FileModel, PickledModel))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _n_classes(models: Any) -> int | None:
    """Return how many classes the models have, as far as they are there already."""
    loaded = models.values() if isinstance(models, Mapping) else ()
    return next((int(m.nb_classes) for m in loaded if hasattr(m, "nb_classes")), None)
