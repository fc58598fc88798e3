from . import (
    attacks,
    audit,
    certification,
    datasets,
    evidence,
    figures,
    head,
    losses,
    metrics,
    policies,
    studies,
    trainers,
    zoo,
)
from .attacks import PGD, AutoAttack, ClassWiseAttack, MinimumNormAttack, TemperaturePGD, TransferAttack
from .audit import AuditResult, ClassWiseAudit, compare, read_audit
from .certification import CertifiedResult, certify, read_certificate
from .datasets import Dataset, load_dataset
from .errors import InputError
from .evidence import verify
from .studies import ClassExclusionStudy, spread_over_seeds
from .threat import ThreatModel
from .trainers import (
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerBATPyTorch,
    AdversarialTrainerClassExcludedPyTorch,
    AdversarialTrainerDistillationPyTorch,
    AdversarialTrainerFastPyTorch,
    AdversarialTrainerMARTPyTorch,
    AdversarialTrainerStandardPyTorch,
    AdversarialTrainerTRADESPyTorch,
    NaturalTrainerPyTorch,
)
from .zoo import as_classifier, build, load_checkpoint, load_robustbench, save_checkpoint

__version__: str
__all__ = [
    "PGD",
    "AdversarialTrainerAWPPyTorch",
    "AdversarialTrainerBATPyTorch",
    "AdversarialTrainerClassExcludedPyTorch",
    "AdversarialTrainerDistillationPyTorch",
    "AdversarialTrainerFastPyTorch",
    "AdversarialTrainerMARTPyTorch",
    "AdversarialTrainerStandardPyTorch",
    "AdversarialTrainerTRADESPyTorch",
    "AuditResult",
    "AutoAttack",
    "CertifiedResult",
    "ClassExclusionStudy",
    "ClassWiseAttack",
    "ClassWiseAudit",
    "Dataset",
    "InputError",
    "MinimumNormAttack",
    "NaturalTrainerPyTorch",
    "TemperaturePGD",
    "ThreatModel",
    "TransferAttack",
    "as_classifier",
    "attacks",
    "audit",
    "build",
    "certification",
    "certify",
    "compare",
    "datasets",
    "evidence",
    "figures",
    "head",
    "load_checkpoint",
    "load_dataset",
    "load_robustbench",
    "losses",
    "metrics",
    "policies",
    "read_audit",
    "read_certificate",
    "save_checkpoint",
    "spread_over_seeds",
    "studies",
    "trainers",
    "verify",
    "zoo",
]
