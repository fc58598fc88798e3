"""What all trainers share: ART's contract around the loop."""

from __future__ import annotations

import abc
import os
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer

from art_classwise import _estimator, _ranks
from art_classwise._labels import check_labels
from art_classwise._state import evaluating
from art_classwise.attacks._fast import Precision, check_precision
from art_classwise.errors import InputError, check_positive, check_seed, check_whole, unknown
from art_classwise.threat import ThreatModel
from art_classwise.trainers import _data, _loop
from art_classwise.trainers._adversary import Adversary, ArtAdversary, Attacked, InnerSearch
from art_classwise.trainers._checkpoint import TrainingFile, plain
from art_classwise.trainers._checks import check_attack, check_optimizer, check_range, check_scheduler
from art_classwise.trainers._history import Scalars, check_summary_writer
from art_classwise.trainers._recipe import describe_attack, describe_classifier, describe_optimizer, describe_scheduler

__all__ = ["SearchTrainer"]

_FIT = ("x", "y", "validation_data", "batch_size", "nb_epochs", "scheduler", "scheduler_interval", "keep")


class SearchTrainer(Trainer, abc.ABC):
    """Adversarial training of an ART ``PyTorchClassifier``, with the optimizer it was made with.

    Each method names its objective; these options are the same for all. Under ``torchrun`` the same script trains on
    many devices: each process takes its share of each batch, gradients are averaged (DDP), on GPUs batch norms see
    the whole batch, and the main process saves and shows progress. Random numbers belong to (seed, epoch, example), so
    neither the number of processes nor an interruption changes them; dropout's are those of (seed, epoch).

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        norm: ``np.inf``, 2 or 1.
        eps: Radius of the training attack, in the units of x.
        eps_step: Length of its steps; ``eps / 4`` if absent.
        max_iter: Number of its steps.
        attack: Any evasion attack of ART on the same classifier, untargeted, in place of the built-in one; the four
            before don't matter then. It works on arrays on the CPU, so it is slower.
        crop_padding: Random crops after so many pixels of zero padding on each side; 4 is usual for CIFAR, 0 is none.
        flip: Random horizontal flips.
        two_passes: Classify clean and adversarial images in two forward passes, clean ones first, so that batch norm
            sees two batches, as in the published implementations of TRADES and MART; one pass of both is faster.
        label_smoothing: How much of the cross-entropy's target goes to all classes evenly, from 0 to below 1.
        gradient_clip: Largest L2 norm of the gradient of all weights; none if absent.
        ema_decay: Decay per step of an exponential moving average of the weights, 0.995, say. The average is what is
            validated and kept. None is no average.
        awp_gamma: Size of the adversarial weight perturbation, relative to the weights (Wu et al. 2020, arXiv
            2004.05884; theirs is 5e-3); 0 is none. It doubles the cost of the step, not that of the attack.
        awp_warmup: Epochs without it.
        precision: ``"auto"``: bfloat16 matrix products, in attack and step, for networks of a million weights or more
            where the hardware multiplies it; ``"fp32"`` or ``"bf16"`` else.
        compile: Compile attack and step with ``torch.compile``: a minute or more at the start.
        num_workers: Processes that read images too many to be held.
        summary_writer: Where TensorBoard's values go: True, a folder, an ART ``SummaryWriter``, or whatever has
            ``add_scalar``.
        seed: Of the order of examples, crops, flips, random starts and dropout.
        verbose: Show a progress bar.

    Raises:
        InputError: The classifier isn't a PyTorch classifier or has no optimizer, or a parameter is out of range.
    """

    _start: Literal["uniform", "gaussian"] = "uniform"
    _ascended: Literal["cross_entropy", "kl"] = "cross_entropy"

    def __init__(
        self,
        classifier: Any,
        *,
        norm: float | str = np.inf,
        eps: float = 8 / 255,
        eps_step: float | None = None,
        max_iter: int = 10,
        attack: Any = None,
        crop_padding: int = 0,
        flip: bool = False,
        two_passes: bool = False,
        label_smoothing: float = 0.0,
        gradient_clip: float | None = None,
        ema_decay: float | None = None,
        awp_gamma: float = 0.0,
        awp_warmup: int = 0,
        precision: Precision = "auto",
        compile: bool = False,
        num_workers: int = 0,
        summary_writer: Any = False,
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        _estimator.check_classifier("The classifier", classifier)
        check_optimizer(classifier)
        super().__init__(classifier)
        self.threat = ThreatModel.from_art(norm, eps)
        self.eps_step = self.threat.eps / 4 if eps_step is None else eps_step
        self.max_iter, self.attack, self.num_workers = max_iter, attack, num_workers
        self.crop_padding, self.flip, self.label_smoothing = crop_padding, flip, label_smoothing
        self.two_passes = two_passes
        self.seed, self.verbose, self.summary_writer = seed, verbose, summary_writer
        check_positive("eps_step", self.eps_step)
        check_whole("max_iter", max_iter, 1)
        for name, value in (("crop_padding", crop_padding), ("awp_warmup", awp_warmup), ("num_workers", num_workers)):
            check_whole(name, value, 0)
        for name, flag in (("flip", flip), ("two_passes", two_passes), ("compile", compile), ("verbose", verbose)):
            if not isinstance(flag, bool):
                raise InputError(f"`{name}` must be True or False, but got {flag!r}.")
        check_range("label_smoothing", label_smoothing, 0, 1, "from 0 to below 1")
        if gradient_clip is not None:
            check_positive("gradient_clip", gradient_clip)
        if ema_decay is not None:
            check_range("ema_decay", ema_decay, 0, 1, "from 0 to below 1")
        check_range("awp_gamma", awp_gamma, 0, np.inf, "of at least 0")
        check_precision(precision)
        check_seed(seed)
        check_summary_writer(summary_writer)
        self.settings = _loop.Settings(gradient_clip, ema_decay, float(awp_gamma), awp_warmup, precision, compile, seed)
        if attack is not None:
            check_attack(attack, classifier)
        if (crop_padding or flip) and len(classifier.input_shape) != 3:
            raise InputError(
                "`crop_padding` and `flip` are for images (C, H, W), but the classifier takes inputs of shape "
                f"{classifier.input_shape}."
            )

    @abc.abstractmethod
    def _objective(self, adversary: Adversary) -> _loop.Objective:
        """Return what training descends."""

    @abc.abstractmethod
    def _recipe(self) -> dict[str, Any]:
        """Return the method's own parameters, as plain values."""

    def fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        validation_data: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: _loop.Stepper | None = None,
        *,
        scheduler_interval: _loop.Interval = "epoch",
        keep: _loop.Keep = "last",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Train on arrays, or on a data set's lazily read images.

        Images that fit on the device are held there, as uint8 where that loses nothing; others are read as needed.
        Each call begins at epoch 1: with the same seed a second one draws the same orders, crops and starts again. All
        submodules train, also those that were in eval mode; weights that don't require a gradient stay as they are.
        A last batch too small to be shared by all processes, or of one example, joins the one before it.

        Args:
            x: Images within the classifier's ``clip_values``, (n, C, H, W).
            y: Labels, indices (n,) or one-hot (n, C).
            validation_data: Images and labels to measure on after each epoch: PGD on cross-entropy from a random
                start in the ball, with the training attack's radius and steps, or under ``attack``.
            batch_size: Examples per step, over all processes.
            nb_epochs: Number of epochs.
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
            **kwargs: None are known.

        Returns:
            The history, a row per epoch: ``epoch`` (from 1), ``loss``, ``clean`` (NaN where the method doesn't
            classify clean images) and ``robust`` (training examples in train mode, before each step), the same by
            class, ``clean_<k>`` and ``robust_<k>``; ``learning_rate`` (of the last step), ``images_per_second``
            (without validation); with validation ``val_clean``, ``val_robust``, by class ``val_clean_<k>`` and
            ``val_robust_<k>``, and ``val_worst``, the worst class's robust accuracy. Absent classes are NaN.
            ``attrs["kept_epoch"]`` is the epoch whose weights the classifier has.

        Raises:
            InputError: Images or labels are out of range or of different length; a parameter is out of range; the
                checkpoint is of another recipe (the difference is named), or can't be written.
            DivergenceError: The loss became NaN or infinite (epoch and batch are named). The classifier has the
                weights from after the last good epoch again, and the checkpoint holds them.
        """
        _no_more(kwargs)
        check_whole("batch_size", batch_size, 1)
        images, labels = self._check(x, y)
        augment = _data.Augmentation(self.crop_padding, self.flip, self.seed)
        _ranks.join(self._classifier.device)
        source = _data.array_source(
            images, labels, batch_size, self.seed, augment, self._classifier.device, self.num_workers
        )
        data = {"n": len(labels), "hash": _data.fingerprint(images, labels), "batch_size": batch_size}
        return self._train(
            source, data, nb_epochs, validation_data, scheduler, scheduler_interval, keep, checkpoint_dir, resume
        )

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        *,
        validation_data: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
        scheduler: _loop.Stepper | None = None,
        scheduler_interval: _loop.Interval = "epoch",
        keep: _loop.Keep = "last",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Train on an ART ``DataGenerator`` that knows its size; otherwise as :meth:`fit`.

        Resuming draws the batches of the epochs done from the generator once more, and under ``torchrun`` each process
        takes its share of each batch: generators must give the same batches in the same order.
        """
        _no_more(kwargs)
        if not isinstance(generator, DataGenerator) or generator.size is None:
            raise InputError(
                "The generator must be an ART DataGenerator that knows its size, such as "
                "art.data_generators.PyTorchDataGenerator(loader, size, batch_size)."
            )

        def convert(x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
            images, labels = self._check(x, y)
            device = self._classifier.device
            return torch.from_numpy(np.asarray(images)).to(device), torch.from_numpy(labels).to(device)

        augment = _data.Augmentation(self.crop_padding, self.flip, self.seed)
        _ranks.join(self._classifier.device)
        source = _data.Generated(generator, convert, augment)
        data = {"n": source.n_examples, "generator": type(generator).__name__, "batch_size": generator.batch_size}
        return self._train(
            source, data, nb_epochs, validation_data, scheduler, scheduler_interval, keep, checkpoint_dir, resume
        )

    def predict(self, x: npt.NDArray[Any], **kwargs: Any) -> npt.NDArray[np.float32]:
        """Return the classifier's logits (n, C); its mode stays as it was."""
        with evaluating(self._classifier.model):
            logits: npt.NDArray[np.float32] = self._classifier.predict(x, **kwargs)
        return logits

    def _check(self, x: Any, y: Any) -> tuple[Any, npt.NDArray[np.int64]]:
        """Return images as a float32 array, or as they are if they are read as needed, and labels (n,)."""
        x = x.numpy(force=True) if isinstance(x, torch.Tensor) else x
        lazy = not isinstance(x, np.ndarray) and all(hasattr(x, a) for a in ("__getitem__", "__len__", "shape"))
        if lazy and len(x) == 0:
            raise InputError("There is no example: x is empty.")
        if lazy:
            _estimator.check_images(np.asarray(x[:2], dtype=np.float32), self._classifier, self.threat)
        images = x if lazy else np.require(x, np.float32, ["C", "W"])  # torch warns of arrays it may not write to
        if not lazy:
            _estimator.check_images(images, self._classifier, self.threat)
        return images, check_labels(y, len(images), self._classifier.nb_classes)

    def _adversary(self, **options: Any) -> Adversary:
        if self.attack is not None:
            return ArtAdversary(self.attack, self._classifier.nb_classes)
        low, high = _estimator.clip_bounds(self._classifier, self._classifier.device)
        return InnerSearch(self.threat, self.eps_step, self.max_iter, low, high, **options)

    def _train(
        self,
        source: _data.Source,
        data: dict[str, Any],
        nb_epochs: int,
        validation_data: Any,
        scheduler: _loop.Stepper | None,
        scheduler_interval: _loop.Interval,
        keep: _loop.Keep,
        checkpoint_dir: str | os.PathLike[str] | None,
        resume: bool,
    ) -> pd.DataFrame:
        check_whole("nb_epochs", nb_epochs, 1)
        check_scheduler(scheduler, scheduler_interval, self._classifier.optimizer)
        if keep not in get_args(_loop.Keep):
            raise unknown("rule to keep weights by", keep, get_args(_loop.Keep))
        if keep != "last" and validation_data is None:
            raise InputError(f'`keep="{keep}"` needs `validation_data` to choose by.')
        if resume and checkpoint_dir is None:
            raise InputError("`resume=True` needs a `checkpoint_dir` to go on from.")
        classifier = self._classifier
        validation = None
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
                raise InputError("`validation_data` must be a pair (x, y).")
            images, labels = self._check(*validation_data)
            validation = _data.array_source(
                *(images, labels, data["batch_size"], None, _data.Augmentation()),
                *(classifier.device, self.num_workers),
            )
            data = {**data, "validation": _data.fingerprint(images, labels)}
        _ranks.check_same("training data", data, classifier.device)
        file = None
        if checkpoint_dir is not None:
            recipe = {
                "trainer": type(self).__name__,
                **self._recipe(),
                **self._shared_recipe(),
                "nb_epochs": nb_epochs,
                "keep": keep,
                "data": data,
                "optimizer": describe_optimizer(classifier.optimizer),
                "scheduler": describe_scheduler(scheduler),
                "scheduler_interval": scheduler_interval,
                "classifier": describe_classifier(classifier),
            }
            file = TrainingFile(checkpoint_dir, plain(recipe))
            if hasattr(scheduler, "load_state_dict"):  # as torch's do: resumed in this process, the rate has moved
                for group in classifier.optimizer.param_groups:
                    group.setdefault("initial_lr", group["lr"])
        training = _loop.Training(
            classifier.model,
            _estimator.logits_module(classifier),
            classifier.optimizer,
            self._objective(self._adversary(start=self._start, loss=self._ascended, attacked=self._attacked)),
            self.settings,
            self._adversary(),
            classifier.nb_classes,
            self._sample(),
            scheduler,
            scheduler_interval,
            keep,
        )
        scalars = Scalars(self.summary_writer)
        try:
            return training.run(
                source,
                validation,
                nb_epochs,
                file=file,
                resume=resume,
                scalars=scalars,
                verbose=self.verbose,
                name=type(self).__name__.removeprefix("AdversarialTrainer").removesuffix("PyTorch"),
            )
        finally:
            scalars.close()

    def _sample(self) -> torch.Tensor:
        """Return two images to try a network on: noise, since images that are all alike would hide differences."""
        classifier = self._classifier
        low, high = _estimator.clip_bounds(classifier, torch.device("cpu"))
        noise = torch.rand(2, *classifier.input_shape, generator=torch.Generator().manual_seed(0))
        bounded = bool(low.isfinite().all() and high.isfinite().all())
        return (low + (high - low) * noise if bounded else noise).to(classifier.device)

    @property
    def _attacked(self) -> Attacked:
        return "all"

    def _shared_recipe(self) -> dict[str, Any]:
        if self.attack is not None:
            attack = describe_attack(self.attack)
        else:
            attack = {"name": "built-in", "threat": repr(self.threat)}
            attack |= {"eps_step": float(self.eps_step), "max_iter": self.max_iter}
        return {
            "attack": attack,
            **{name: getattr(self, name) for name in ("crop_padding", "flip", "two_passes", "label_smoothing", "seed")},
            **{
                name: getattr(self.settings, name) for name in ("gradient_clip", "ema_decay", "awp_gamma", "awp_warmup")
            },
            **{name: getattr(self.settings, name) for name in ("precision", "compile")},
        }


def _no_more(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise InputError(
            f"Unknown argument {', '.join(kwargs)}: fit takes {', '.join(_FIT)}, checkpoint_dir and resume; "
            "the attack and how to train are set when the trainer is made."
        )
