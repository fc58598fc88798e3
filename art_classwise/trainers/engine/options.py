"""The options of all trainers: one table of names, types, defaults and checks; and checks of several at once."""

from __future__ import annotations

import inspect
import numbers
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, cast, get_args, get_type_hints

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from torch import nn

from art_classwise._core.labels import check_reads_true_labels
from art_classwise._core.options import Check, number, optional, positive, whole
from art_classwise.attacks.fast_copy import Compile, Precision, check_compile, check_precision
from art_classwise.errors import InputError, as_float, check_flag, check_number, check_seed, unknown
from art_classwise.threat import ThreatModel
from art_classwise.trainers.engine.history import check_summary_writer
from art_classwise.trainers.engine.schedule import required_arguments
from art_classwise.trainers.policies import ClassPolicy, Fixed, PolicyContext

__all__ = [
    "OPTIONS",
    "TrainingOptions",
    "check_attack",
    "check_beta",
    "check_optimizer",
    "check_policy",
    "loss_options",
    "signature_of",
    "split_attack",
    "threat_under",
    "training_options",
]

AttackMode = Literal["eval", "train"]


@dataclass(frozen=True)
class Option:
    """The default of an option, and its check; without one, only the whole can tell."""

    default: Any
    check: Check = lambda _, value: value


def _check_attack_mode(_: str, value: Any) -> Any:
    if value not in get_args(AttackMode):
        raise unknown("attack_mode", value, get_args(AttackMode))
    return value


class TrainingOptions(TypedDict, total=False):
    """Options that all trainers take, by name.

    Attributes:
        norm: ``np.inf``, 2 or 1.
        eps: Radius of the training attack, in the units of x; 8 / 255 if absent, or with ``attack`` that one's radius,
            norm and step, where it has them.
        eps_step: Length of its steps; ``eps / 4`` if absent.
        max_iter: Number of its steps.
        attack: Any evasion attack of ART on the same classifier, untargeted, in place of the built-in one; the four
            before don't matter then. It works on arrays on the CPU, so it is slower. One with a ``seed`` draws other
            numbers in each epoch.
        crop_padding: Random crops after so many pixels of zero padding on each side; 4 is usual for CIFAR, 0 is none.
        flip: Random horizontal flips.
        two_passes: Classify clean and adversarial images in two forward passes, clean ones first, so that batch norm
            sees two batches, as in the published implementation of MART; one pass of both is faster.
        passes: The forward passes in train mode one by one, in place of ``two_passes``: ``c`` is the clean images,
            ``a`` those under attack (BAT: ``f`` and ``l``, the first misclassified and the last correct ones), ``|``
            the step. ``"cac"`` is the order of TRADES' authors, whose batch norms see clean images twice; others' are
            told where their methods and policies are. Passes that the loss doesn't need are for batch norm alone: they
            have no gradient, and dropout of their own.
        attack_mode: Whether the training attack sees the network in ``"eval"`` mode, as most published
            implementations have it, or in ``"train"`` mode, as CFA's of standard adversarial training and AWP's: batch
            norms then normalise by each batch of iterates and take it into their running statistics.
        friendly_tau: Friendly adversarial training (FAT, Zhang et al., ICML 2020, arXiv 2002.11242): each example's
            search ends this many steps after the first iterate that is misclassified, 0 being that one itself, if it
            isn't again correct by then: theirs is 0, then 1 and 2 as the training goes. Their code adds noise of .001
            to each step, too. None searches to the end.
        class_balanced: Draw the class of each training example evenly, then an example of it, in place of each example
            once: as many in an epoch. :class:`art_classwise.policies.CFOL` is published so.
        label_smoothing: How much of the cross-entropy's target goes to all classes evenly, from 0 to below 1; if it is
            0, that of the classifier's ``CrossEntropyLoss``.
        gradient_clip: Largest L2 norm of the gradient of all weights; none if absent.
        ema_decay: Decay per step of an exponential moving average of the weights, 0.995, say. The average is what is
            validated and kept. None is no average.
        awp_gamma: Size of the adversarial weight perturbation (AWP), relative to the weights (Wu et al. 2020, arXiv
            2004.05884); 0 is none. Theirs is 1e-2 for standard adversarial training and 5e-3 for TRADES. It doubles the
            cost of the step, not that of the attack. Perturbed is each trained parameter of two dimensions or more;
            in their code its name must hold "weight", too. Weight decay acts on the weights without the perturbation,
            in their code on those with it.
        awp_warmup: Epochs without it; theirs are 0 for standard adversarial training. For TRADES they pass over epochs
            numbered below 10, from 1, which are 9.
        class_policy: A rule that sets class weights and class budgets, one of ``art_classwise.policies``. Weights of
            the classifier's ``CrossEntropyLoss(weight=...)`` are one if there is none: factors of each example's loss,
            of which the mean over the training examples is 1.
        excluded: Numbers of classes to train without: without their examples and their output units, with the numbering
            of classes as it is. The network must end in a linear layer with a bias. See
            :class:`art_classwise.AdversarialTrainerClassExcludedPyTorch`. None if absent.
        precision: ``"auto"``: bfloat16 matrix products, in attack and step, for networks of a million weights or more
            where the hardware multiplies it; ``"fp32"`` or ``"bf16"`` else.
        compile: Compile attack and step with ``torch.compile``: a minute or more at the start. ``"reduce-overhead"``
            makes CUDA graphs of their passes, which pays where the host can't launch kernels as fast as they run:
            small networks or batches.
        num_workers: Processes that read images too many to be held.
        summary_writer: Where TensorBoard's values go: True, a folder, an ART ``SummaryWriter``, or whatever has
            ``add_scalar``.
        seed: Of the order of examples, crops, flips, random starts and dropout.
        verbose: Show a progress bar.
    """

    norm: Annotated[float | str, Option(np.inf)]
    eps: Annotated[float | None, Option(None)]
    eps_step: Annotated[float | None, Option(None, optional(positive()))]
    max_iter: Annotated[int, Option(10, whole(1))]
    attack: Annotated[Any, Option(None)]
    crop_padding: Annotated[int, Option(0, whole(0))]
    flip: Annotated[bool, Option(False, check_flag)]
    two_passes: Annotated[bool, Option(False, check_flag)]
    passes: Annotated[str | None, Option(None)]
    attack_mode: Annotated[AttackMode, Option("eval", _check_attack_mode)]
    friendly_tau: Annotated[int | None, Option(None, optional(whole(0)))]
    class_balanced: Annotated[bool, Option(False, check_flag)]
    label_smoothing: Annotated[float, Option(0.0, number(0, 1, below=True))]
    gradient_clip: Annotated[float | None, Option(None, optional(positive()))]
    ema_decay: Annotated[float | None, Option(None, optional(number(0, 1, below=True)))]
    awp_gamma: Annotated[float, Option(0.0, number(0, np.inf, below=True, words="of at least 0"))]
    awp_warmup: Annotated[int, Option(0, whole(0))]
    class_policy: Annotated[ClassPolicy | None, Option(None)]
    excluded: Annotated[Any, Option(None)]
    precision: Annotated[Precision, Option("auto", check_precision)]
    compile: Annotated[Compile, Option(False, check_compile)]
    num_workers: Annotated[int, Option(0, whole(0))]
    summary_writer: Annotated[Any, Option(False, check_summary_writer)]
    seed: Annotated[int, Option(0, lambda _, value: check_seed(value))]
    verbose: Annotated[bool, Option(True, check_flag)]


_TYPES = get_type_hints(TrainingOptions, include_extras=True)
OPTIONS: dict[str, Option] = {name: kind.__metadata__[0] for name, kind in _TYPES.items()}
"""Default and check of each of the :class:`TrainingOptions`."""


def training_options(given: Mapping[str, Any], trainer: type | None = None) -> TrainingOptions:
    """Return all options, checked one by one, with the defaults of those that aren't given.

    Args:
        given: Options by name.
        trainer: The class they were given to, among whose own options a misspelt one may be.

    Raises:
        InputError: One is unknown, or not allowed.
    """
    for name in given:
        if name not in OPTIONS:
            own = [] if trainer is None else [*inspect.signature(trainer).parameters][1:]
            raise unknown("option", name, dict.fromkeys([*own, *OPTIONS]))
    values = {name: option.check(name, given.get(name, option.default)) for name, option in OPTIONS.items()}
    return cast(TrainingOptions, values)


def signature_of(constructor: Callable[..., None]) -> inspect.Signature:
    """Return the signature of a trainer with the shared options, which its constructor has as ``**options``."""
    _, *own = inspect.signature(constructor).parameters.values()
    takes_options = bool(own) and own[-1].kind is inspect.Parameter.VAR_KEYWORD
    named = {p.name for p in own}
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=_type_of(name))
        for name, option in OPTIONS.items()
        if name not in named
    ]
    return inspect.Signature([*own[:-1], *shared] if takes_options else own)


def _type_of(name: str) -> Any:
    return _TYPES[name].__origin__


def check_optimizer(classifier: Any) -> None:
    """Check that a classifier has an optimizer, of its own weights, whose step needs nothing.

    Raises:
        InputError: It hasn't.
    """
    optimizer = classifier.optimizer
    if optimizer is None:
        raise InputError(
            "The classifier has no optimizer: make it with one, as_classifier(..., optimizer=torch.optim.SGD(...))."
        )
    needed = required_arguments(
        type(optimizer).step.__get__(optimizer)
    )  # the object's own a scheduler may have wrapped
    if needed:
        raise InputError(
            f"The step of the optimizer {type(optimizer).__name__} needs {needed[0]}, to compute the loss several "
            "times: take one whose step needs nothing, such as torch.optim.SGD or AdamW."
        )
    other = next((p.dtype for p in classifier.model.parameters() if p.dtype != torch.float32), None)
    if other is not None:
        raise InputError(
            f"The network has weights of {other}: trainers keep them in float32 (call network.float()), and compute in "
            "bfloat16 where precision says so."
        )
    unapplied = [p for p in classifier.preprocessing_operations if p.apply_fit and not p.apply_predict]
    if unapplied:
        raise InputError(
            f"The defence {type(unapplied[0]).__name__} of the classifier is for training only (apply_fit without "
            "apply_predict), which adversarial training doesn't do: make the classifier without it."
        )
    own = {id(p) for p in classifier.model.parameters() if p.requires_grad}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InputError(
            "The optimizer holds none of the classifier's weights that require a gradient, so that nothing would be "
            "trained: make it of the same network's parameters()."
        )


def check_attack(attack: Any, classifier: Any) -> None:
    """Check that an attack can be trained against: ART's, untargeted, on the classifier.

    Raises:
        InputError: It can't.
    """
    if not isinstance(attack, EvasionAttack):
        raise InputError(f"`attack` must be an evasion attack of ART, but is a {type(attack).__name__}.")
    if getattr(attack, "estimator", None) is not classifier:
        raise InputError(
            f"The {type(attack).__name__} must attack the classifier that is trained: make it on that one."
        )
    check_reads_true_labels(f"The {type(attack).__name__}", attack)


def check_policy(policy: Any, attack: Any, ema_decay: Any) -> None:
    """Check that something is a class policy, and that it goes with an attack and an average of weights.

    Raises:
        InputError: It doesn't.
    """
    if not isinstance(policy, ClassPolicy):
        raise InputError(
            f"`class_policy` must be a policy of art_classwise.policies, such as DAFA(warmup=20), but got {policy!r}."
        )
    if policy.needs_own_attack and attack is not None:
        does = "sets class budgets, which are for" if policy.sets_budgets else "directs or counts the steps of"
        raise InputError(
            f"The class policy {type(policy).__name__} {does} the built-in attack: leave `attack` out, or choose a "
            "policy that sets weights alone."
        )
    if policy.averaging is not None and ema_decay is not None:
        raise InputError(
            f"The class policy {type(policy).__name__} averages weights itself (FAWA): leave `ema_decay` out, or "
            "switch fawa off."
        )


def threat_under(
    attack: Any, options: TrainingOptions, given: Mapping[str, Any]
) -> tuple[float | str, float | None, float | None]:
    """Return a trainer's norm, radius and step: where no radius is given, those of its attack, as far as it has them.

    Warns of what is given and isn't the attack's, which applies.

    Args:
        attack: The attack.
        options: The trainer's options.
        given: Those that were given.
    """
    norm, eps, eps_step = options["norm"], options["eps"], options["eps_step"]
    within: Any = getattr(attack, "attack", None)  # a transfer's
    searched = within if hasattr(within, "generate") else attack
    own = _threat_of(searched)
    step, steps = (getattr(searched, name, None) for name in ("eps_step", "max_iter"))
    asked: dict[str, Any] = {name: given[name] for name in ("norm", "eps", "eps_step", "max_iter") if name in given}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked.get("max_iter") == OPTIONS["max_iter"].default:
        del asked["max_iter"]  # constructors hand on their default
    has: dict[str, Any] = {"eps_step": step, "max_iter": steps}
    if own is not None:
        has |= {"norm": own.art_norm, "eps": own.eps}
        if "norm" in asked or "eps" in asked:
            asked = {"norm": norm, **asked}  # a radius is one of a norm
    differ = [name for name, value in asked.items() if not _agree(name, value, has.get(name))]
    if differ:
        words = (", ".join(f"{name}={_shown(source[name])}" for name in differ) for source in (asked, has))
        warnings.warn(
            "The trainer is given {}, but its attack, a {}, has {}, which applies: leave {} out.".format(
                *(next(words), type(attack).__name__, next(words), " and ".join(f"`{name}`" for name in differ))
            ),
            stacklevel=4,
        )
    if own is None or eps is not None:
        return norm, eps, eps_step
    usable = eps_step is None and 0 < as_float(step) < np.inf
    return own.art_norm, own.eps, float(cast(Any, step)) if usable else eps_step


def _threat_of(attack: Any) -> ThreatModel | None:
    """Return an attack's norm and largest radius, if it has them."""
    if isinstance(own := getattr(attack, "threat", None), ThreatModel):
        return own
    try:
        return ThreatModel.from_art(attack.norm, float(np.max(attack.eps)))
    except (AttributeError, TypeError, ValueError):
        return None


def _agree(name: str, given: Any, own: Any) -> bool:
    """Return whether what a trainer is given is what its attack has, or the attack has nothing like it."""
    if name == "norm":
        return own is None or ThreatModel.from_art(given, 1.0).norm == ThreatModel.from_art(own, 1.0).norm
    if not isinstance(own, numbers.Real):
        return True
    return abs(as_float(given) - as_float(own)) <= 0.01 * abs(as_float(own))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, numbers.Real) else repr(value)


def split_attack(given: tuple[Any, ...], beta: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return beta and the options of a trainer that may be called as ART's: (classifier, attack, beta).

    Args:
        given: What was given by position after the classifier: beta; an attack; or both, the attack first.
        beta: What was given by name, or the default.
        options: The other arguments.

    Raises:
        InputError: It was given in another order, or twice.
    """
    if given and isinstance(given[0], EvasionAttack):
        if options.get("attack") is not None:
            raise InputError("There are two attacks, one by position and one as `attack`: give one.")
        options = {**options, "attack": given[0]}
        given = given[1:]
    if len(given) > 1:
        raise InputError(
            "After the classifier come `beta`, or an attack and `beta`; everything else is given by its name, "
            f"but got {', '.join(type(value).__name__ for value in given)} as well."
        )
    return (given[0] if given else beta), options


def check_beta(beta: Any) -> float:
    """Return the weight of a KL term if it is one.

    Raises:
        InputError: It isn't a finite number of at least 0.
    """
    if isinstance(beta, EvasionAttack):
        raise InputError(f"`beta` is a number, but got a {type(beta).__name__}: give an attack as `attack=...`")
    check_number("beta", beta, 0, np.inf, below=True, words="of at least 0, and finite")
    return float(beta)


# Losses that are the cross-entropy: of logits, or of log-probabilities, for which it is the same.
_CROSS_ENTROPIES = (nn.CrossEntropyLoss, nn.NLLLoss)
_FUNCTIONS = (nn.functional.cross_entropy, nn.functional.nll_loss)


@dataclass
class LossWeights(Fixed):
    """Class weights of ``torch.nn.CrossEntropyLoss(weight=...)``: their mean over the training examples is 1.

    Torch divides by the sum of the weights of a batch; here it is that of the training examples, so that no batch
    counts more than another.
    """

    def begin(self, scene: PolicyContext) -> None:
        """See :class:`art_classwise.policies.ClassPolicy`."""
        super().begin(scene)
        weights = self._state["weights"]
        self._state["weights"] = weights / (weights * scene.shares.to(weights)).sum()

    def describe(self) -> dict[str, Any]:
        """See :class:`art_classwise.policies.ClassPolicy`."""
        return {**super().describe(), "name": "weights of the loss"}


def loss_options(classifier: Any, label_smoothing: float, class_policy: Any) -> tuple[LossWeights | None, float]:
    """Return the class weights that a classifier's loss has, and the label smoothing, of it or of the trainer.

    Args:
        classifier: An ART ``PyTorchClassifier``.
        label_smoothing: The trainer's option.
        class_policy: Likewise.

    Raises:
        InputError: It is another loss, it has options that trainers don't follow, or others than the trainer's.
    """
    weights, smoothing = _options_of(classifier.loss, classifier.nb_classes)
    if smoothing and label_smoothing not in (0, smoothing):
        raise InputError(
            f"The classifier's loss has label_smoothing={smoothing:g}, and the trainer {label_smoothing!r}: make "
            "the classifier with loss=torch.nn.CrossEntropyLoss(), and give it to the trainer."
        )
    if weights is not None and class_policy is not None:
        raise InputError(
            "The classifier's loss has class weights, and there is a class policy, which sets them, too: make the "
            "classifier with loss=torch.nn.CrossEntropyLoss(), or leave `class_policy` out. Fixed(weights=..., "
            "budgets=...) is a policy of given weights."
        )
    return weights, smoothing or label_smoothing


def _options_of(loss: Any, n_classes: int) -> tuple[LossWeights | None, float]:
    if loss is None or loss in _FUNCTIONS:
        return None, 0.0
    if type(loss) not in _CROSS_ENTROPIES:
        name = getattr(loss, "__name__", type(loss).__name__)
        raise InputError(
            f"The classifier's loss is {name}, which trainers would not descend: each has an objective of its own, "
            "made of cross-entropies and divergences. Make the classifier with loss=torch.nn.CrossEntropyLoss(), and "
            "choose the trainer for its objective."
        )
    if 0 <= loss.ignore_index < n_classes:
        raise InputError(
            f"The classifier's loss leaves out class {loss.ignore_index} (ignore_index), which trainers would not do: "
            "leave its examples out, or take AdversarialTrainerClassExcludedPyTorch."
        )
    if loss.reduction == "sum":
        warnings.warn(
            'The classifier\'s loss is a sum (reduction="sum"), but trainers descend the mean over the batch: for '
            "steps as long as before multiply the learning rate by the batch size.",
            stacklevel=4,
        )
    weight = loss.weight
    even = weight is None or bool((weight == weight[0]).all())  # of which torch's mean is that without weights
    if weight is not None and (weight.shape != (n_classes,) or (even and not float(weight[0]) > 0)):
        raise InputError(
            f"The weights of the classifier's loss must be {n_classes} numbers, one per class and not all 0, but are "
            f"{weight.tolist()}."
        )
    weights = None if even else LossWeights(weights=weight.detach().to("cpu", torch.float64).tolist())
    return weights, float(getattr(loss, "label_smoothing", 0.0))
