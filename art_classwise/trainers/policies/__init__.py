"""Class policies: rules that set class weights and class budgets while training.

Each is given to a trainer, ``AdversarialTrainerTRADESPyTorch(classifier, class_policy=DAFA(warmup=20))``, whatever its
objective. The functions are their formulas, on arrays or tensors.
"""

from art_classwise.trainers.policies.cfa import CFA, cfa_budgets, cfa_weights
from art_classwise.trainers.policies.cfol import CFOL, cfol_probabilities, cfol_scores
from art_classwise.trainers.policies.dafa import DAFA, dafa_weights
from art_classwise.trainers.policies.faal import FAAL, faal_probabilities
from art_classwise.trainers.policies.frl import FRL, frl_budgets, frl_multipliers, frl_weights
from art_classwise.trainers.policies.parse import POLICIES, parse_policy
from art_classwise.trainers.policies.policy import (
    ClassBudgets,
    ClassPolicy,
    ClassWeights,
    FairAveraging,
    Fixed,
    PolicyContext,
)
from art_classwise.trainers.policies.wat import WAT, wat_weights

__all__ = [
    "CFA",
    "CFOL",
    "DAFA",
    "FAAL",
    "FRL",
    "POLICIES",
    "WAT",
    "ClassBudgets",
    "ClassPolicy",
    "ClassWeights",
    "FairAveraging",
    "Fixed",
    "PolicyContext",
    "cfa_budgets",
    "cfa_weights",
    "cfol_probabilities",
    "cfol_scores",
    "dafa_weights",
    "faal_probabilities",
    "frl_budgets",
    "frl_multipliers",
    "frl_weights",
    "parse_policy",
    "wat_weights",
]
