"""Adversarial training behind ART's ``Trainer`` interface.

Names are imported when first used: the table of methods is read without torch.
"""

from typing import TYPE_CHECKING

import lazy_loader

from art_classwise.trainers.catalog import METHODS as METHODS
from art_classwise.trainers.catalog import MethodSpec as MethodSpec

if TYPE_CHECKING:
    from art_classwise.trainers import policies as policies
    from art_classwise.trainers import recipes as recipes
    from art_classwise.trainers._base import SearchTrainer as SearchTrainer
    from art_classwise.trainers.distillation import *  # noqa: F403
    from art_classwise.trainers.engine.checkpoint import trained_weights as trained_weights
    from art_classwise.trainers.engine.checkpoint import training_history as training_history
    from art_classwise.trainers.engine.options import TrainingOptions as TrainingOptions
    from art_classwise.trainers.fast import *  # noqa: F403
    from art_classwise.trainers.methods import *  # noqa: F403  the trainers of the table
    from art_classwise.trainers.pseudo_labels import PseudoLabels as PseudoLabels
    from art_classwise.trainers.pseudo_labels import make_pseudo_labels as make_pseudo_labels

_BY_MODULE: dict[str, list[str]] = {}
for _spec in METHODS.values():
    _BY_MODULE.setdefault(_spec.module.removeprefix(f"{__name__}."), []).append(_spec.class_name)

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["policies", "recipes"],
    {
        "_base": ["SearchTrainer"],
        "catalog": ["METHODS", "MethodSpec"],
        "engine.checkpoint": ["trained_weights", "training_history"],
        **_BY_MODULE,
        "methods": ["AdversarialTrainerAWPPyTorch", "AdversarialTrainerClassExcludedPyTorch", *_BY_MODULE["methods"]],
        "engine.options": ["TrainingOptions"],
        "pseudo_labels": ["PseudoLabels", "make_pseudo_labels"],
    },
)
