"""The methods: standard adversarial training, TRADES, MART, AWP, BAT and natural training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, overload

import numpy as np
import numpy.typing as npt
import pandas as pd
from art.attacks.attack import EvasionAttack
from art.defences.trainer import Trainer
from torch import Tensor

from art_classwise import losses
from art_classwise.errors import InputError, check_flag, check_whole, unknown
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers.catalog import METHODS, method_spec, usual_beta
from art_classwise.trainers.engine.adversary import Adversary, Attacked, BoundarySearch, MisclassifiedAttack
from art_classwise.trainers.engine.options import TrainingOptions, check_beta, split_attack
from art_classwise.trainers.engine.step import Objective, natural_terms
from art_classwise.trainers.exclusion import check_excluded
from art_classwise.trainers.pseudo_labels import PseudoLabels

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "AdversarialTrainerAWPPyTorch",
    "AdversarialTrainerBATPyTorch",
    "AdversarialTrainerClassExcludedPyTorch",
    "AdversarialTrainerMARTPyTorch",
    "AdversarialTrainerStandardPyTorch",
    "AdversarialTrainerTRADESPyTorch",
    "NaturalTrainerPyTorch",
]


class AdversarialTrainerStandardPyTorch(SearchTrainer):
    """Standard adversarial training: cross-entropy on adversarial inputs (Madry et al. 2018, eq. 2.1).

    The attack ascends cross-entropy from a uniform start in the ball, in eval mode. Clean images aren't classified. The
    authors' code of AWP and of CFA attacks in train mode and classifies clean images after each step, for its log, by
    which batch norm's running statistics take them in: ``attack_mode="train", passes="a|c"``.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        nb_epochs: What ``fit`` and ``fit_generator`` take if they aren't told: 20 if absent. The first arguments are
            those of ART's ``AdversarialTrainerMadryPGD``, whose radii are for images in [0, 255].
        batch_size: Likewise; 128 if absent.
        eps: Radius of the training attack, as for :class:`SearchTrainer`.
        eps_step: Length of its steps, likewise.
        max_iter: Number of its steps, likewise.
        num_random_init: 1, or 0 to start at the image itself; more are for an ``attack``.
        **options: As for all trainers, :class:`art_classwise.trainers.TrainingOptions`: ``crop_padding``, ``seed``, ...

    Raises:
        InputError: One of these is out of range; and as :class:`SearchTrainer`.
    """

    def __init__(  # type: ignore[misc]  # options, too, which have places in ART's order
        self,
        classifier: Any,
        nb_epochs: int | None = None,
        batch_size: int | None = None,
        eps: float | None = None,
        eps_step: float | None = None,
        max_iter: int = 10,
        num_random_init: int = 1,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(classifier, eps=eps, eps_step=eps_step, max_iter=max_iter, **options)
        if nb_epochs is not None:
            self.nb_epochs = check_whole("nb_epochs", nb_epochs, 1)
        if batch_size is not None:
            self.batch_size = check_whole("batch_size", batch_size, 1)
        self.num_random_init = check_whole("num_random_init", num_random_init, 0)
        if num_random_init > 1:
            raise InputError(
                f"The built-in attack starts once, but num_random_init is {num_random_init}: give an attack that "
                f"starts several times, such as PGD(classifier, num_random_init={num_random_init}, ...), as `attack`."
            )
        if self.num_random_init == 0:
            self._start = "clean"

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, None]:
            return losses.standard(logits_adv, y, self.options["label_smoothing"]), None

        return Objective(terms, None, uses_clean=False, adversary=adversary)

    def _parameters(self) -> dict[str, Any]:
        return {} if self.num_random_init else {"num_random_init": 0}  # as checkpoints had it before there was a choice


class AdversarialTrainerTRADESPyTorch(SearchTrainer):
    """TRADES: cross-entropy on clean inputs, and closeness of predictions (Zhang et al. 2019, arXiv 1901.08573, eq. 5).

    Descends :func:`art_classwise.losses.trades`; the attack ascends the KL divergence from the clean prediction, in
    eval mode, from x + 0.001 N(0, 1) (their algorithm 1). Clean and attacked images are classified in one pass. The
    authors' code classifies clean, attacked, then clean images again, for the KL term, in train mode, so that batch
    norm's running statistics lean to clean images by 2 to 1: that is ``passes="cac"``. The code for TRADES with AWP
    takes attacked images, then clean ones twice: ``passes="acc"``. In L2 their steps have a length of 2 eps / number of
    steps.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        beta: Weight of the KL term, 0 or above; the paper's 1 / lambda, which is 6 for CIFAR-10 and 1 for MNIST. As in
            ART's trainer an attack may stand before it: ``(classifier, attack, beta)``.
        **options: As for all trainers: :class:`art_classwise.trainers.TrainingOptions`.

    Raises:
        InputError: ``beta`` is out of range; and as :class:`SearchTrainer`.
    """

    _start = "gaussian"
    _ascended = "kl"

    @overload
    def __init__(
        self, classifier: Any, beta: float = usual_beta("trades"), **options: Unpack[TrainingOptions]
    ) -> None: ...

    @overload
    def __init__(  # type: ignore[misc]  # an option, too, which has a place in ART's order
        self,
        classifier: Any,
        attack: EvasionAttack,
        beta: float = usual_beta("trades"),
        **options: Unpack[TrainingOptions],
    ) -> None: ...

    def __init__(self, classifier: Any, *given: Any, beta: float = usual_beta("trades"), **options: Any) -> None:
        beta, options = split_attack(given, beta, options)
        super().__init__(classifier, **options)
        self.beta = check_beta(beta)

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            assert logits is not None
            return losses.trades_terms(logits, logits_adv, y, self.options["label_smoothing"])

        return Objective(terms, self.beta, uses_clean=True, adversary=adversary)

    def _parameters(self) -> dict[str, Any]:
        return {"beta": self.beta}


class AdversarialTrainerMARTPyTorch(SearchTrainer):
    """MART: training that weighs misclassified examples more (Wang et al., ICLR 2020).

    Descends :func:`art_classwise.losses.mart`; the attack ascends cross-entropy in eval mode from
    x + 0.001 N(0, 1), as the published implementation does. That classifies clean images first, then attacked ones,
    in two passes; here it is one pass, unless ``exact`` or ``two_passes`` is set. The switches are those of the paper's
    ablations.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        beta: Weight of the KL term, 0 or above; the paper's is 5 for ResNet-18 and 6 for WRN-34-10. As in ART's trainer
            for TRADES an attack may stand before it: ``(classifier, attack, beta)``.
        boosted: Boosted cross-entropy as the first term; plain cross-entropy otherwise.
        on: Whether the first term is taken on ``"adversarial"`` or on ``"clean"`` images.
        kl: Whether there is a KL term.
        weighted: Whether the KL term is weighted by 1 - p_y, which is what makes it aware of misclassification. The
            paper's section 3 asks first for the regulariser on one part of the examples alone: ``"misclassified"`` and
            ``"correct"`` take the KL term on those that the step's clean prediction gets wrong, or right.
        attacked: Which training examples are attacked: ``"all"``, or those that the network gets right without
            the attack (``"correct"``), or wrong (``"misclassified"``); the others stay as they are.
        misclassified_attack: How examples are attacked that the network gets wrong without the attack, as that sees it
            (in eval mode, unless ``attack_mode`` is another): as the others (``"pgd"``); by a step of the radius from
            the image itself (``"fgsm"``); on the margin max_{k != y} z_k - z_y from the same start (``"cw"``); or not
            at all (``"none"``, which is ``attacked="correct"``). Examples to which a class policy gives a target go
            towards that, by the steps of either. The paper's other question: how little this matters.
        exact: Follow the published implementation to the letter: its two forward passes (as ``two_passes``) and
            its constants. It computed in float32 throughout: that is ``precision="fp32"``. Its attack may begin a
            little outside the range of images; here it begins inside.
        **options: As for all trainers: :class:`art_classwise.trainers.TrainingOptions`.

    Raises:
        InputError: One of these is out of range; and as :class:`SearchTrainer`.
    """

    _start = "gaussian"
    _added: ClassVar[Mapping[str, Any]] = {"misclassified_attack": "pgd"}

    @overload
    def __init__(
        self,
        classifier: Any,
        beta: float = usual_beta("mart"),
        *,
        boosted: bool = True,
        on: Literal["adversarial", "clean"] = "adversarial",
        kl: bool = True,
        weighted: bool | Literal["misclassified", "correct"] = True,
        attacked: Attacked = "all",
        misclassified_attack: MisclassifiedAttack = "pgd",
        exact: bool = False,
        **options: Unpack[TrainingOptions],
    ) -> None: ...

    @overload
    def __init__(  # type: ignore[misc]  # an option, too, which has a place here
        self,
        classifier: Any,
        attack: EvasionAttack,
        beta: float = usual_beta("mart"),
        *,
        boosted: bool = True,
        on: Literal["adversarial", "clean"] = "adversarial",
        kl: bool = True,
        weighted: bool | Literal["misclassified", "correct"] = True,
        exact: bool = False,
        **options: Unpack[TrainingOptions],
    ) -> None: ...

    def __init__(
        self,
        classifier: Any,
        *given: Any,
        beta: float = usual_beta("mart"),
        boosted: bool = True,
        on: Literal["adversarial", "clean"] = "adversarial",
        kl: bool = True,
        weighted: bool | Literal["misclassified", "correct"] = True,
        attacked: Attacked = "all",
        misclassified_attack: MisclassifiedAttack = "pgd",
        exact: bool = False,
        **options: Any,
    ) -> None:
        beta, options = split_attack(given, beta, options)
        super().__init__(classifier, **options)
        self.beta = check_beta(beta)
        self.boosted, self.on, self.kl, self.weighted, self.exact = boosted, on, kl, weighted, exact
        self.attacked: Attacked = attacked
        self.misclassified_attack: MisclassifiedAttack = misclassified_attack
        for name in ("boosted", "kl", "exact"):
            setattr(self, name, check_flag(name, getattr(self, name)))
        self.weighted = losses.check_weighted(weighted)
        if on not in ("adversarial", "clean"):
            raise unknown("kind of images for the first term, `on`,", on, ("adversarial", "clean"))
        if attacked not in get_args(Attacked):
            raise unknown("choice of `attacked` examples", attacked, get_args(Attacked))
        if misclassified_attack not in get_args(MisclassifiedAttack):
            raise unknown("value of `misclassified_attack`", misclassified_attack, get_args(MisclassifiedAttack))
        if self.attack is not None and (attacked != "all" or misclassified_attack != "pgd"):
            name = "misclassified_attack" if attacked == "all" else "attacked"
            raise InputError(f"`{name}` chooses for the built-in attack, and can't be combined with `attack`.")
        if (attacked, misclassified_attack) == ("misclassified", "none"):
            raise InputError('`attacked="misclassified"` and `misclassified_attack="none"` leave no example attacked.')
        if attacked == "correct" and misclassified_attack in ("fgsm", "cw"):
            raise InputError(
                f'`attacked="correct"` leaves misclassified examples as they are, so `misclassified_attack='
                f'"{misclassified_attack}"` has no effect: leave one of them out.'
            )
        if not kl and isinstance(weighted, str):
            raise InputError(f'`weighted="{weighted}"` is about the KL term, which `kl=False` leaves out.')

    def _adversary(self, **options: Any) -> Adversary:
        changed = options and self.misclassified_attack != "pgd"
        more = {"misclassified_attack": self.misclassified_attack} if changed else {}
        return super()._adversary(**options, **more)

    @property
    def _attacked(self) -> Attacked:
        return self.attacked

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            return losses.mart_terms(
                logits,
                logits_adv,
                y,
                boosted=self.boosted,
                on=self.on,
                kl=self.kl,
                weighted=self.weighted,
                exact=self.exact,
                label_smoothing=self.options["label_smoothing"],
            )

        return Objective(
            terms,
            self.beta if self.kl else None,
            uses_clean=self.kl or self.on == "clean",
            adversary=adversary,
            two_passes=self.exact,
        )

    def _parameters(self) -> dict[str, Any]:
        names = ("beta", "boosted", "on", "kl", "weighted", "attacked", "misclassified_attack", "exact")
        return {name: getattr(self, name) for name in names}


class AdversarialTrainerAWPPyTorch(SearchTrainer):
    """Standard adversarial training or TRADES with adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884).

    For calls written for ``art.defences.trainer.AdversarialTrainerAWPPyTorch``, with its arguments in its order. It is
    :class:`art_classwise.AdversarialTrainerStandardPyTorch` or :class:`art_classwise.AdversarialTrainerTRADESPyTorch`
    with ``awp_gamma`` and ``awp_warmup``, which any trainer takes.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        proxy_classifier: Has no meaning: the weights of the classifier itself are perturbed, and put back.
        attack: An evasion attack of ART on the classifier; the trainer's own, if absent.
        mode: ``"PGD"``, cross-entropy under attack, or ``"TRADES"``.
        gamma: Size of the perturbation, relative to the weights.
        beta: Weight of TRADES' KL term, 0 or above.
        warmup: Epochs without the perturbation.
        **options: As for all trainers: :class:`art_classwise.trainers.TrainingOptions`.

    Raises:
        InputError: ``mode``, ``gamma``, ``beta`` or ``warmup`` is out of range; and as :class:`SearchTrainer`.
    """

    def __init__(  # type: ignore[misc]  # as above
        self,
        classifier: Any,
        proxy_classifier: Any = None,
        attack: Any = None,
        mode: str = "PGD",
        gamma: float = 0.01,
        beta: float = usual_beta("trades"),
        warmup: int = 0,
        **options: Unpack[TrainingOptions],
    ) -> None:
        if str(mode).upper() not in ("PGD", "TRADES"):
            raise unknown("mode", mode, ("PGD", "TRADES"))
        super().__init__(classifier, attack=attack, awp_gamma=gamma, awp_warmup=warmup, **options)
        self.mode, self.beta = str(mode).upper(), check_beta(beta)
        if self.mode == "TRADES":
            self._start, self._ascended = "gaussian", "kl"

    def _objective(self, adversary: Adversary) -> Objective:
        trades = self.mode == "TRADES"

        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            if not trades or logits is None:
                return losses.standard(logits_adv, y, self.options["label_smoothing"]), None
            return losses.trades_terms(logits, logits_adv, y, self.options["label_smoothing"])

        beta = self.beta if trades else None
        return Objective(terms, beta, uses_clean=trades, adversary=adversary)

    def _parameters(self) -> dict[str, Any]:
        return {"mode": self.mode, **({"beta": self.beta} if self.mode == "TRADES" else {})}


class AdversarialTrainerBATPyTorch(SearchTrainer):
    """BAT: balanced training on both sides of the boundary (Sun et al. 2023, arXiv 2209.07534).

    Descends :func:`art_classwise.losses.bat`. The attack ascends the KL divergence from the clean prediction, in eval
    mode, from x + 0.001 N(0, 1); of its iterates training takes the first misclassified one and the last correct one
    before it. The history's ``robust`` is that of the former. The released code trains a ResNet-18 with TRADES'
    recipe for 200 epochs, with decays of the learning rate at 75, 90 and 100.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        beta: Weight of the KL term, 0 or above; the paper's is 6.
        exact: Follow the released code to the letter. It searches twice, from starts drawn independently, for the two
            sides. Its "first misclassified" iterate is one step beyond that if it is misclassified still (``tau = 1``),
            else the next that is misclassified: the second wrong one. The iterate of the last step isn't looked at:
            it stands in for what wasn't found before, on either side. Where the start is misclassified, it stands for
            the last correct iterate; without ``exact``, the clean image does. Last correct, first misclassified and
            clean images are classified in this order, ``passes="lfc"``, unless ``passes`` says another.
        **options: As for all trainers, :class:`art_classwise.trainers.TrainingOptions`, but for ``attack``: others'
            attacks don't tell their iterates.

    Raises:
        InputError: ``beta`` or ``exact`` is out of range, or there is an ``attack``; and as :class:`SearchTrainer`.
    """

    _start = "gaussian"
    _ascended = "kl"
    _search = BoundarySearch
    _views = "cfl"
    _own_attack_only = "BAT needs the iterates of its own attack: leave `attack` out."
    _added: ClassVar[Mapping[str, Any]] = {"exact": False}

    def __init__(
        self,
        classifier: Any,
        beta: float = usual_beta("bat"),
        *,
        exact: bool = False,
        **options: Unpack[TrainingOptions],
    ) -> None:
        if options.get("attack") is not None:
            raise InputError(self._own_attack_only)
        if options.get("friendly_tau") is not None:
            raise InputError("BAT chooses iterates of its attack itself: leave `friendly_tau` out.")
        exact = check_flag("exact", exact)
        if exact and options.get("passes") is None:
            options["passes"] = "lfc"
        super().__init__(classifier, **options)
        self.beta, self.exact = check_beta(beta), exact

    def _adversary(self, **options: Any) -> Adversary:
        return super()._adversary(**options, **({"exact": True} if options and self.exact else {}))

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            assert logits is not None
            first, last = logits_adv.chunk(2)
            return losses.bat_terms(logits, first, last, y, self.options["label_smoothing"])

        return Objective(terms, self.beta, uses_clean=True, adversary=adversary, n_views=2)

    def _parameters(self) -> dict[str, Any]:
        return {"beta": self.beta, "exact": self.exact}


class NaturalTrainerPyTorch(SearchTrainer):
    """Natural training: cross-entropy on clean images, as a control for what adversarial training changes.

    Nothing is attacked while training, so the history's ``robust`` is NaN; validation is attacked as for the others.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        **options: As for all trainers: :class:`art_classwise.trainers.TrainingOptions`. Those of the attack are for
            validation.

    Raises:
        InputError: The class policy sets class budgets; and as :class:`SearchTrainer`.
    """

    _views = "c"

    def __init__(self, classifier: Any, **options: Unpack[TrainingOptions]) -> None:
        policy = options.get("class_policy")
        if getattr(policy, "needs_own_attack", False):
            what = "class budgets have" if getattr(policy, "sets_budgets", False) else f"{type(policy).__name__} has"
            raise InputError(
                f"Natural training has no attack, so {what} no effect: choose a policy that sets weights alone, such "
                "as WAT."
            )
        if options.get("attack_mode", "eval") != "eval":
            raise InputError("Natural training has no attack, so `attack_mode` has no effect: leave it out.")
        if options.get("friendly_tau") is not None:
            raise InputError("Natural training has no attack, so `friendly_tau` has no effect: leave it out.")
        super().__init__(classifier, **options)

    def _objective(self, adversary: Adversary) -> Objective:
        return Objective(natural_terms(self.options["label_smoothing"]), None, uses_clean=True, adversary=None)

    def _parameters(self) -> dict[str, Any]:
        return {}


class AdversarialTrainerClassExcludedPyTorch(Trainer):
    """Training without some classes' examples and output units, with the numbering of classes as it is.

    The experiment of Tian et al. 2021 (arXiv 2105.14240, section 4): a class left out shows whose examples could be
    attacked into it alone. The network keeps an output for each class; those of the excluded ones are switched off in
    its last linear layer (weights 0, bias -10,000), so that they are never predicted and attacks, metrics, reports and
    checkpoints work unchanged. The loss sees the other outputs only. Another trainer would not switch them on again:
    their weights get no gradient.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer, whose network ends in a linear layer with a bias.
        excluded: Numbers of the classes; two or more must be left.
        objective: A name of ``art_classwise.trainers.METHODS``, ``"mart"``, say; or a trainer's class.
        **options: As for that trainer.

    Raises:
        InputError: ``excluded`` or ``objective`` is none of these; and as that trainer.
    """

    def __init__(
        self, classifier: Any, excluded: Any, objective: str | type[SearchTrainer] = "standard", **options: Any
    ) -> None:
        if isinstance(objective, str):
            spec = method_spec(objective)
            objective = spec.trainer
            options |= {} if spec.method is None else {"method": spec.method}
        trainer = isinstance(objective, type) and issubclass(objective, SearchTrainer)
        if not trainer or inspect.isabstract(objective):
            raise InputError(
                f"`objective` must be one of {', '.join(METHODS)}, or the class of a trainer of art-classwise, but got "
                f"{objective!r}."
            )
        if excluded is None:
            check_excluded(excluded, 0)  # raises: trainers take None for no class
        self.trainer = objective(classifier, excluded=excluded, **options)
        super().__init__(classifier)
        self.excluded = self.trainer.excluded

    @property
    def pseudo_labels(self) -> PseudoLabels | None:
        """The pseudo-labels of the last training, if it had unlabelled images."""
        return self.trainer.pseudo_labels

    def fit(self, x: npt.NDArray[Any], y: npt.NDArray[Any], *arguments: Any, **options: Any) -> pd.DataFrame:
        """Train on the examples of the other classes; otherwise as :meth:`SearchTrainer.fit`.

        Args:
            x: Images (n, C, H, W), of all classes or of the others.
            y: Labels, indices (n,) or one-hot (n, C), in the numbering of all classes.
            *arguments: As for :meth:`SearchTrainer.fit`.
            **options: As for :meth:`SearchTrainer.fit`. Validation examples of excluded classes are left out, with a
                warning; examples whose pseudo-label is one, without.

        Returns:
            The history, as there; NaN for excluded classes.

        Raises:
            InputError: No example is left, or the network's last layer isn't linear with a bias; and as there.
        """
        return self.trainer.fit(x, y, *arguments, **options)

    def fit_generator(self, generator: Any, nb_epochs: int | None = None, **options: Any) -> pd.DataFrame:
        """Train on an ART ``DataGenerator`` as :meth:`SearchTrainer.fit_generator`, without those examples."""
        return self.trainer.fit_generator(generator, nb_epochs, **options)

    def predict(self, x: npt.NDArray[Any], **kwargs: Any) -> npt.NDArray[np.float32]:
        """Return the classifier's logits (n, C); its mode stays as it was."""
        return self.trainer.predict(x, **kwargs)
