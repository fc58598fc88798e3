"""Class policies: rules that set class weights and class budgets while training.

Each is given to a trainer, ``AdversarialTrainerTRADESPyTorch(classifier, class_policy=DAFA(warmup=20))``, whatever its
objective. The functions are their formulas, on arrays or tensors.
"""

from art_classwise.trainers.policies.absld import ABSLD, absld_temperatures
from art_classwise.trainers.policies.balanced import BalancedSoftmax, balanced_adjustment
from art_classwise.trainers.policies.cfa import CFA, cfa_budgets, cfa_weights
from art_classwise.trainers.policies.cfol import CFOL, cfol_probabilities, cfol_scores
from art_classwise.trainers.policies.combined import Combined
from art_classwise.trainers.policies.dafa import DAFA, dafa_weights
from art_classwise.trainers.policies.faal import FAAL, faal_probabilities
from art_classwise.trainers.policies.fair_ard import FairARD, fair_ard_weights
from art_classwise.trainers.policies.frl import FRL, frl_budgets, frl_multipliers, frl_weights
from art_classwise.trainers.policies.parse import POLICIES, parse_policy
from art_classwise.trainers.policies.policy import (
    ClassBudgets,
    ClassPolicy,
    ClassWeights,
    FairAveraging,
    Fixed,
    PolicyContext,
    SoftLabels,
)
from art_classwise.trainers.policies.spectral import Spectral, confusional_norm, confusional_weights
from art_classwise.trainers.policies.targets import TRIX, FairTAT, draw_targets, false_positive_scores
from art_classwise.trainers.policies.wat import WAT, wat_weights

__all__ = [
    "ABSLD",
    "CFA",
    "CFOL",
    "DAFA",
    "FAAL",
    "FRL",
    "POLICIES",
    "TRIX",
    "WAT",
    "BalancedSoftmax",
    "ClassBudgets",
    "ClassPolicy",
    "ClassWeights",
    "Combined",
    "FairARD",
    "FairAveraging",
    "FairTAT",
    "Fixed",
    "PolicyContext",
    "SoftLabels",
    "Spectral",
    "absld_temperatures",
    "balanced_adjustment",
    "cfa_budgets",
    "cfa_weights",
    "cfol_probabilities",
    "cfol_scores",
    "confusional_norm",
    "confusional_weights",
    "dafa_weights",
    "draw_targets",
    "faal_probabilities",
    "fair_ard_weights",
    "false_positive_scores",
    "frl_budgets",
    "frl_multipliers",
    "frl_weights",
    "parse_policy",
    "wat_weights",
]
