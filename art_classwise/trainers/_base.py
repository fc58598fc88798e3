"""What all trainers share: ART's contract around the loop."""

from __future__ import annotations

import abc
import copy
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from art.attacks.attack import EvasionAttack
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer

from art_classwise._core import art_interface, distributed
from art_classwise._core.fingerprints import examples_fingerprint
from art_classwise._core.forward import warn_of_probabilities
from art_classwise._core.labels import check_labels
from art_classwise._core.plain_values import plain
from art_classwise._core.state import evaluating
from art_classwise.errors import InputError, check_number, check_whole, unknown
from art_classwise.threat import ThreatModel
from art_classwise.trainers.engine.adversary import Adversary, ArtAdversary, Attacked, InnerSearch
from art_classwise.trainers.engine.arrays import (
    array_source,
    check_images,
    mixed_source,
    order_of,
    unlabelled_per_batch,
)
from art_classwise.trainers.engine.batches import Augmentation, GeneratorSource, ShuffledOrder, Source
from art_classwise.trainers.engine.checkpoint import TrainingFile, describe_training
from art_classwise.trainers.engine.collapse import CollapseWatch
from art_classwise.trainers.engine.history import Scalars
from art_classwise.trainers.engine.loop import Training
from art_classwise.trainers.engine.options import (
    TrainingOptions,
    check_attack,
    check_optimizer,
    check_policy,
    loss_options,
    signature_of,
    threat_under,
    training_options,
)
from art_classwise.trainers.engine.schedule import FitArguments, Interval, Keep, Schedule, Stepper
from art_classwise.trainers.engine.step import Objective, Step, check_passes
from art_classwise.trainers.exclusion import check_excluded, excluded_units, leave_out, without_classes
from art_classwise.trainers.pseudo_labels import PseudoLabels, given_pseudo_labels, training_pseudo_labels

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

__all__ = ["SearchTrainer"]

_SOFTMAX_TWICE = "Trainers apply the softmax themselves, and of one applied twice a network learns little"


class SearchTrainer(Trainer, abc.ABC):
    """Adversarial training of an ART ``PyTorchClassifier``, with the optimizer it was made with.

    Each method names its objective; these options are the same for all. Under ``torchrun`` the same script trains on
    many devices: each process takes its share of each batch, gradients are averaged (DDP), on GPUs batch norms see
    the whole batch, and the main process saves and shows progress. Random numbers belong to (seed, epoch, example), so
    neither the number of processes nor an interruption changes them; dropout's are those of (seed, epoch).

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        **options: As :class:`TrainingOptions` names them.

    Attributes:
        options: All of them, with the defaults of those that weren't given.
        threat: Norm and radius of the training attack.
        eps_step: Length of its steps.
        attack: An attack of ART in its place, or None.
        class_policy: What sets class weights and budgets, or None.
        excluded: The classes that are left out.
        pseudo_labels: Those of the last training with unlabelled images, or None.

    Raises:
        InputError: The classifier isn't a PyTorch classifier or has no optimizer, or a parameter is out of range.
    """

    # A method's attack, where it isn't PGD on cross-entropy from a uniform start: see InnerSearch.
    _start: Literal["uniform", "gaussian", "clean"] = "uniform"
    _ascended: Literal["cross_entropy", "kl"] = "cross_entropy"
    _search: type[InnerSearch] = InnerSearch
    _views: ClassVar[str] = "ca"  # letters of the images that it classifies: see Objective
    _own_attack_only: ClassVar[str] = ""  # why a method takes no other attack
    _added: ClassVar[Mapping[str, Any]] = {}  # parameters that checkpoints of before don't name, with their defaults
    # What fit takes if it isn't told.
    batch_size: int = 128
    nb_epochs: int = 20

    __signature__: ClassVar[inspect.Signature]  # what editors and notebooks show
    options: TrainingOptions

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__signature__ = signature_of(cls.__init__)

    def __new__(cls, *given: Any, **options: Any) -> Self:
        """Refuse an attack in a place that isn't an attack's, before Python complains of the number of arguments."""
        places = list(inspect.signature(cls.__init__).parameters.values())[1 : len(given) + 1]
        sorts = any(place.kind is place.VAR_POSITIONAL for place in places)  # the method itself: see split_attack
        for i, value in enumerate(given[1:], start=1):
            takes = sorts or (i < len(places) and places[i].name == "attack")
            if isinstance(value, EvasionAttack) and not takes:
                raise InputError(
                    cls._own_attack_only
                    or f"{cls.__name__} takes an attack by its name, `attack=...`, but got a {type(value).__name__} by "
                    "its position."
                )
        return cast("Self", super().__new__(cls))

    def __init__(self, classifier: Any, **options: Unpack[TrainingOptions]) -> None:
        art_interface.check_classifier("The classifier", classifier)
        check_optimizer(classifier)
        super().__init__(classifier)
        self.options = values = training_options(options, type(self))
        self.attack, norm, eps, eps_step = values["attack"], values["norm"], values["eps"], values["eps_step"]
        if self.attack is not None:
            check_attack(self.attack, classifier)
            norm, eps, eps_step = threat_under(self.attack, values, options)
            if values["attack_mode"] == "train":
                raise InputError(
                    '`attack_mode="train"` is for the built-in attack, and can\'t be combined with `attack`.'
                )
            if values["friendly_tau"] is not None:
                raise InputError("`friendly_tau` is for the built-in attack, and can't be combined with `attack`.")
        self.threat = ThreatModel.from_art(norm, 8 / 255 if eps is None else eps)
        self.eps_step = self.threat.eps / 4 if eps_step is None else eps_step
        self._pass_order = check_passes(values["passes"], self._views)
        weights, values["label_smoothing"] = loss_options(classifier, values["label_smoothing"], values["class_policy"])
        self.class_policy = weights or values["class_policy"]
        self.excluded = () if values["excluded"] is None else check_excluded(values["excluded"], classifier.nb_classes)
        self.pseudo_labels: PseudoLabels | None = None
        low, high = art_interface.clip_bounds(classifier, torch.device("cpu"))
        self._width = float((high - low).max())
        if self.class_policy is not None:
            check_policy(self.class_policy, self.attack, values["ema_decay"])
            self.class_policy.check_fit(classifier.nb_classes, self.threat, self._width)
        if (values["crop_padding"] or values["flip"]) and len(classifier.input_shape) != 3:
            raise InputError(
                "`crop_padding` and `flip` are for images (C, H, W), but the classifier takes inputs of shape "
                f"{classifier.input_shape}."
            )

    @abc.abstractmethod
    def _objective(self, adversary: Adversary) -> Objective:
        """Return what training descends."""

    @abc.abstractmethod
    def _parameters(self) -> dict[str, Any]:
        """Return the method's own parameters, as plain values: a training that is resumed must have the same."""

    def fit(
        self,
        x: Any,
        y: Any,
        validation_data: tuple[Any, Any] | None = None,
        batch_size: int | None = None,
        nb_epochs: int | None = None,
        scheduler: Stepper | None = None,
        *,
        scheduler_interval: Interval = "epoch",
        keep: Keep = "last",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        x_unlabeled: Any = None,
        y_pseudo: Any = None,
        unlabeled_fraction: float = 0.5,
        gamma: float = 1.0,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Train on arrays, or on a data set's lazily read images; with unlabelled images, too, if there are.

        With ``x_unlabeled`` the objective is the sum over labelled examples of l(x, y) and gamma times that over
        unlabelled ones of l(x, y'), y' their pseudo-labels (Wang et al. 2020, section 3.3, for MART; Carmon et al.
        2019, arXiv 1905.13736), divided by the number of examples. Each batch has both kinds in the same ratio; an
        epoch is one pass over the labelled examples, and goes on through the unlabelled ones where the epoch before
        ended. Which examples come when follows from the seed.

        Images that fit on the device are held there, as uint8 where that loses nothing; others are read as needed.
        Each call begins at epoch 1: with the same seed a second one draws the same orders, crops and starts again. All
        submodules train, also those that were in eval mode; weights that don't require a gradient stay as they are.
        A last batch too small to be shared by all processes, or of one example, joins the one before it.

        Args:
            x: Images within the classifier's ``clip_values``, (n, C, H, W); read as needed from a
                :class:`art_classwise.Dataset`, a memory-mapped array or a torch data set of images.
            y: Labels, indices (n,) or one-hot (n, C).
            validation_data: Images and labels to measure on after each epoch: PGD on cross-entropy from a random
                start in the ball, with the training attack's radius and steps, or under ``attack``.
            batch_size: Examples per step, over all processes; 128 if absent.
            nb_epochs: Number of epochs; 20 if absent.
            scheduler: Anything with ``step``. One that needs an ``epoch`` gets the number of epochs done; one that
                needs a metric, as ReduceLROnPlateau, gets the training loss, or if its ``mode`` is ``"max"`` the
                robust accuracy (the validation's, if there is one).
            scheduler_interval: Call it after each ``"epoch"`` or each ``"step"``.
            keep: Which epoch's weights to end with: ``"last"``; ``"robust"``, of the highest ``val_robust``;
                ``"robust+worst"``, of the highest sum of ``val_robust`` and ``val_worst``, as the literature on
                class-wise fairness does. Of equals the first.
            checkpoint_dir: Folder for ``training.pt``, the state after each epoch; see
                :func:`art_classwise.trainers.trained_weights`.
            resume: Go on from the state in ``checkpoint_dir``; start anew if there is none. On the same machine
                the end is the same, bit for bit, as without the interruption.
            x_unlabeled: Images without labels, (m, C, H, W), as ``x``; they needn't fit in memory.
            y_pseudo: Their pseudo-labels, (m,) or (m, C). If absent, a copy of the network is trained naturally on
                the labelled images, for ``nb_epochs`` but 1,000 steps at least, and predicts them:
                :func:`art_classwise.trainers.make_pseudo_labels`. ``self.pseudo_labels`` holds them afterwards.
            unlabeled_fraction: Share of each batch that is unlabelled, above 0 and below 1.
            gamma: Weight of unlabelled examples, at least 0.
            **kwargs: None are known.

        Returns:
            The history, a row per epoch: ``epoch`` (from 1), ``loss`` (the objective, weights included), ``clean``
            (NaN where the method doesn't classify clean images) and ``robust`` (labelled training examples in train
            mode, before each step), the same by class, ``clean_<k>`` and ``robust_<k>``; ``learning_rate`` (of the
            last step), ``images_per_second`` (without validation); with validation ``val_clean``, ``val_robust``, by
            class ``val_clean_<k>`` and ``val_robust_<k>``, and ``val_worst``, the worst class's robust accuracy.
            Absent classes are NaN. With a class policy ``weight_<k>``, ``beta_<k>`` and ``eps_<k>``, the epoch's
            factors of the first term, the second, and the radius (its last batch's), as far as it sets them; with CFA
            ``averaged``, whether the epoch's weights were taken into the average. ``attrs["kept_epoch"]`` is the
            epoch whose weights the classifier has, ``attrs["pseudo_labels"]`` the number and confidence of the
            pseudo-labels made.

        Raises:
            InputError: Images or labels are out of range or of different length; a parameter is out of range; the
                checkpoint is of another recipe (the difference is named), or can't be written.
            DivergenceError: The loss became NaN or infinite (epoch and batch are named). The classifier has the
                weights from after the last good epoch again, and the checkpoint holds them.
        """
        _reject_unknown(self.fit, kwargs)
        batch_size = check_whole("batch_size", self.batch_size if batch_size is None else batch_size, 1)
        arguments = self._checked(
            validation_data, nb_epochs, scheduler, scheduler_interval, keep, checkpoint_dir, resume
        )
        images, labels = leave_out(*self._check(x, y), self.excluded, "training examples")
        validation = self._validation(validation_data)
        if x_unlabeled is None and y_pseudo is not None:
            raise InputError("`y_pseudo` needs `x_unlabeled`, the images that it labels.")
        check_number("gamma", gamma, 0, np.inf, below=True, words="of at least 0, and finite")
        check_number("unlabeled_fraction", unlabeled_fraction, 0, 1)
        if x_unlabeled is not None:
            unlabelled_per_batch(batch_size, unlabeled_fraction)
        augment = Augmentation(self.options["crop_padding"], self.options["flip"], self.options["seed"])
        device = self._classifier.device
        distributed.join(device)
        data = {"n": len(labels), "hash": examples_fingerprint(images, labels), "batch_size": batch_size}
        options: dict[str, Any] = {"augment": augment, "device": device, "num_workers": self.options["num_workers"]}
        source: Source
        balanced = self.options["class_balanced"]
        self.pseudo_labels = None
        if x_unlabeled is None:
            order = order_of(labels, batch_size, self.options["seed"], class_balanced=balanced)
            source = array_source(images, labels, order, **options)
        else:
            unlabeled = check_images(x_unlabeled, self._classifier, self.threat, "x_unlabeled")
            if y_pseudo is None:
                pseudo = training_pseudo_labels(
                    *(self._classifier, images, labels, unlabeled, arguments, batch_size, augment),
                    excluded=self.excluded,
                    num_workers=self.options["num_workers"],
                    verbose=self.options["verbose"],
                )
            else:
                pseudo = given_pseudo_labels(y_pseudo, len(unlabeled), self._classifier.nb_classes)
            self.pseudo_labels = pseudo
            data |= {"unlabeled": examples_fingerprint(unlabeled, pseudo.labels), "gamma": float(gamma)}
            data |= {"unlabeled_fraction": float(unlabeled_fraction)}
            chosen = leave_out(unlabeled, pseudo.labels, self.excluded, "pseudo-labelled examples")
            source = mixed_source(
                *((images, labels), chosen, unlabeled_fraction, batch_size, self.options["seed"]),
                **options,
                class_balanced=balanced,
            )
        counts = np.bincount(labels, minlength=self._classifier.nb_classes)
        shares = (counts > 0) / np.count_nonzero(counts) if balanced else counts / len(labels)
        history = self._train(source, data, arguments, validation, torch.from_numpy(shares), float(gamma), images[:2])
        if self.pseudo_labels is not None and y_pseudo is None:
            history.attrs["pseudo_labels"] = self.pseudo_labels.summary()
        return history

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int | None = None,
        *,
        validation_data: tuple[Any, Any] | None = None,
        scheduler: Stepper | None = None,
        scheduler_interval: Interval = "epoch",
        keep: Keep = "last",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Train on an ART ``DataGenerator`` that knows its size; otherwise as :meth:`fit`.

        Resuming draws the batches of the epochs done from the generator once more, and under ``torchrun`` each process
        takes its share of each batch: generators must give the same batches in the same order.
        """
        _reject_unknown(self.fit_generator, kwargs)
        if not isinstance(generator, DataGenerator) or generator.size is None:
            raise InputError(
                "The generator must be an ART DataGenerator that knows its size, such as "
                "art.data_generators.PyTorchDataGenerator(loader, size, batch_size)."
            )

        def convert(x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
            images, labels = self._check(x, y)
            stays = ~np.isin(labels, self.excluded)
            images, labels = images[stays], labels[stays]
            device = self._classifier.device
            return torch.from_numpy(np.asarray(images)).to(device), torch.from_numpy(labels).to(device)

        if self.options["class_balanced"]:
            raise InputError(
                "`class_balanced` draws from examples by their labels, but a generator chooses its batches itself: "
                "train by fit(x, y), or let the generator draw classes evenly."
            )
        arguments = self._checked(
            validation_data, nb_epochs, scheduler, scheduler_interval, keep, checkpoint_dir, resume
        )
        validation = self._validation(validation_data)
        self.pseudo_labels = None
        augment = Augmentation(self.options["crop_padding"], self.options["flip"], self.options["seed"])
        distributed.join(self._classifier.device)
        source = GeneratorSource(generator, convert, augment, max(2, distributed.world()) if self.excluded else 0)
        data = {"n": source.n_examples, "generator": type(generator).__name__, "batch_size": generator.batch_size}
        # Nothing is known of how many examples there are of each class.
        n_classes = self._classifier.nb_classes
        shares = torch.full((n_classes,), 1 / (n_classes - len(self.excluded)))
        shares[list(self.excluded)] = 0.0
        return self._train(source, data, arguments, validation, shares)

    def predict(self, x: npt.NDArray[Any], **kwargs: Any) -> npt.NDArray[np.float32]:
        """Return the classifier's logits (n, C); its mode stays as it was."""
        with evaluating(self._classifier.model):
            logits: npt.NDArray[np.float32] = self._classifier.predict(x, **kwargs)
        return logits

    def _validation(self, given: Any) -> tuple[Any, npt.NDArray[np.int64]] | None:
        """Return the images and labels to validate on, without those of excluded classes."""
        if given is None:
            return None
        return leave_out(*self._check(*given), self.excluded, "validation examples", warn=True)

    def _check(self, x: Any, y: Any) -> tuple[Any, npt.NDArray[np.int64]]:
        """Return images as a float32 array, or as they are if they are read as needed, and labels (n,)."""
        images = check_images(x, self._classifier, self.threat)
        return images, check_labels(y, len(images), self._classifier.nb_classes)

    def _adversary(self, **options: Any) -> Adversary:
        """Return the attack: with the method's options that of training, without any that of validation."""
        if self.attack is not None:
            return ArtAdversary(self.attack, self._classifier.nb_classes)
        low, high = art_interface.clip_bounds(self._classifier, self._classifier.device)
        search = self._search if options else InnerSearch
        if options and self.options["friendly_tau"] is not None:
            options["friendly_tau"] = self.options["friendly_tau"]
        return search(self.threat, self.eps_step, self.options["max_iter"], low, high, **options)

    def _watch(self) -> CollapseWatch | None:
        """Return what looks for catastrophic overfitting, if that is looked for."""
        return None

    def _train(
        self,
        source: Source,
        data: dict[str, Any],
        arguments: FitArguments,
        held_out: tuple[Any, npt.NDArray[np.int64]] | None,
        shares: torch.Tensor,
        gamma: float = 1.0,
        first: npt.NDArray[np.float32] | None = None,
    ) -> pd.DataFrame:
        classifier, validation = self._classifier, None
        if held_out is not None:
            images, labels = held_out
            order = ShuffledOrder(len(labels), data["batch_size"], None)
            validation = array_source(
                images, labels, order, Augmentation(), classifier.device, self.options["num_workers"]
            )
            data = {**data, "validation": examples_fingerprint(images, labels)}
        distributed.check_same("training data", data, classifier.device)
        file = None
        if arguments.checkpoint_dir is not None:
            recipe = describe_training(self, self._parameters(), arguments, data, self.excluded)
            file = TrainingFile(arguments.checkpoint_dir, plain(recipe))
            if hasattr(arguments.scheduler, "load_state_dict"):  # torch's: resumed in this process, the rate has moved
                for group in classifier.optimizer.param_groups:
                    group.setdefault("initial_lr", group["lr"])
        module, sample = art_interface.logits_module(classifier), art_interface.trial_images(classifier, first)
        adversary = self._adversary(start=self._start, loss=self._ascended, attacked=self._attacked)
        objective = self._objective(adversary)
        terms = without_classes(objective.terms, self.excluded, classifier.nb_classes, classifier.device)
        two_passes = objective.two_passes or self.options["two_passes"]
        objective = replace(objective, terms=terms, views=self._views, passes=self._pass_order, two_passes=two_passes)
        scalars = Scalars(self.options["summary_writer"])
        with excluded_units(
            *(classifier.model, module, classifier.optimizer, self.excluded, classifier.nb_classes, sample)
        ):
            outputs = art_interface.exact_logits(module, sample, classifier.nb_classes)
            warn_of_probabilities(outputs, classifier.model, _SOFTMAX_TWICE, stacklevel=4)
            step = Step(
                classifier.model,
                module,
                classifier.optimizer,
                objective,
                self.options,
                classifier.nb_classes,
                sample,
                copy.deepcopy(self.class_policy),
                gamma,
            )
            schedule = Schedule(arguments.scheduler, arguments.scheduler_interval)
            training = Training(
                step,
                schedule,
                arguments.keep,
                validation_adversary=self._adversary(),
                threat=self.threat,
                width=self._width,
                watch=self._watch(),
            )
            try:
                return training.run(
                    source,
                    validation,
                    arguments.nb_epochs,
                    file=file,
                    resume=arguments.resume,
                    shares=shares,
                    scalars=scalars,
                    verbose=self.options["verbose"],
                    name=type(self).__name__.removeprefix("AdversarialTrainer").removesuffix("PyTorch"),
                )
            finally:
                scalars.close()

    def _checked(self, validation_data: Any, nb_epochs: int | None, *others: Any) -> FitArguments:
        """Return what ``fit`` is given, checked as far as it can be before any work is done."""
        arguments = FitArguments(validation_data, self.nb_epochs if nb_epochs is None else nb_epochs, *others)
        arguments.check(self._classifier.optimizer)
        objective = self._objective(self._adversary())
        if objective.uses_clean and self._pass_order is not None and "c" not in self._pass_order.before:
            raise InputError(
                f'`passes` must name the clean images, "c", before the step: {type(self).__name__} needs their logits, '
                f"but got {self.options['passes']!r}."
            )
        if self.class_policy is not None:
            scene = (objective.beta, self.threat.eps, objective.soft_labels)
            arguments.check_policy(self.class_policy, self._classifier.nb_classes, *scene)
        return arguments

    @property
    def _attacked(self) -> Attacked:
        return "all"


def _reject_unknown(method: Callable[..., Any], given: Mapping[str, Any]) -> None:
    for name in given:
        known = [p.name for p in inspect.signature(method).parameters.values() if p.kind is not p.VAR_KEYWORD]
        hint = "The attack and how to train are set when the trainer is made."
        raise unknown(f"argument of {method.__name__}()", name, known, hint=hint)


SearchTrainer.__signature__ = signature_of(SearchTrainer.__init__)
