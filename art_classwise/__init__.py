"""art-classwise: robustness class by class, for the Adversarial Robustness Toolbox (ART).

Names are imported when first used: ``import art_classwise`` itself loads neither torch nor ART.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import art_classwise._core.display as _display

__version__ = "0.1.0"

if TYPE_CHECKING:
    from art_classwise import attacks, losses, metrics
    from art_classwise.attacks import PGD, AutoAttack, ClassWiseAttack, TemperaturePGD, TransferAttack
    from art_classwise.audit import (
        AuditResult,
        ClassWiseAudit,
        Comparison,
        Finding,
        read_audit,
    )
    from art_classwise.audit.comparison import compare
    from art_classwise.datasets import Dataset, load_dataset, load_unlabeled
    from art_classwise.errors import InputError
    from art_classwise.head import normalize_head
    from art_classwise.report import figures
    from art_classwise.studies import ClassExclusionStudy, ExclusionResult, SeedSpread, spread_over_seeds
    from art_classwise.threat import ThreatModel
    from art_classwise.trainers import (
        AdversarialTrainerAWPPyTorch,
        AdversarialTrainerBATPyTorch,
        AdversarialTrainerClassExcludedPyTorch,
        AdversarialTrainerMARTPyTorch,
        AdversarialTrainerStandardPyTorch,
        AdversarialTrainerTRADESPyTorch,
        NaturalTrainerPyTorch,
        policies,
    )
    from art_classwise.zoo import (
        as_classifier,
        build,
        load_checkpoint,
        load_robustbench,
        published,
        read_checkpoint,
        robustbench_files,
        robustbench_names,
        robustbench_table,
        save_checkpoint,
    )

_MODULES = {
    "attacks": "attacks",
    "figures": "report.figures",
    "losses": "losses",
    "metrics": "metrics",
    "policies": "trainers.policies",
}
_HOMES = {
    "PGD": "attacks",
    "AdversarialTrainerAWPPyTorch": "trainers",
    "AdversarialTrainerBATPyTorch": "trainers",
    "AdversarialTrainerClassExcludedPyTorch": "trainers",
    "AdversarialTrainerMARTPyTorch": "trainers",
    "AdversarialTrainerStandardPyTorch": "trainers",
    "AdversarialTrainerTRADESPyTorch": "trainers",
    "AuditResult": "audit",
    "AutoAttack": "attacks",
    "ClassExclusionStudy": "studies",
    "ClassWiseAttack": "attacks",
    "ClassWiseAudit": "audit",
    "Comparison": "audit",
    "Dataset": "datasets",
    "ExclusionResult": "studies",
    "Finding": "audit",
    "InputError": "errors",
    "NaturalTrainerPyTorch": "trainers",
    "SeedSpread": "studies",
    "TemperaturePGD": "attacks",
    "ThreatModel": "threat",
    "TransferAttack": "attacks",
    "as_classifier": "zoo",
    "build": "zoo",
    "compare": "audit",
    "load_checkpoint": "zoo",
    "load_dataset": "datasets",
    "load_robustbench": "zoo",
    "load_unlabeled": "datasets",
    "normalize_head": "head",
    "published": "zoo",
    "read_audit": "audit",
    "read_checkpoint": "zoo",
    "robustbench_files": "zoo",
    "robustbench_names": "zoo",
    "robustbench_table": "zoo",
    "save_checkpoint": "zoo",
    "spread_over_seeds": "studies",
}

__all__ = [
    "PGD",
    "AdversarialTrainerAWPPyTorch",
    "AdversarialTrainerBATPyTorch",
    "AdversarialTrainerClassExcludedPyTorch",
    "AdversarialTrainerMARTPyTorch",
    "AdversarialTrainerStandardPyTorch",
    "AdversarialTrainerTRADESPyTorch",
    "AuditResult",
    "AutoAttack",
    "ClassExclusionStudy",
    "ClassWiseAttack",
    "ClassWiseAudit",
    "Comparison",
    "Dataset",
    "ExclusionResult",
    "Finding",
    "InputError",
    "NaturalTrainerPyTorch",
    "SeedSpread",
    "TemperaturePGD",
    "ThreatModel",
    "TransferAttack",
    "__version__",
    "as_classifier",
    "attacks",
    "build",
    "compare",
    "figures",
    "load_checkpoint",
    "load_dataset",
    "load_robustbench",
    "load_unlabeled",
    "losses",
    "metrics",
    "normalize_head",
    "policies",
    "published",
    "read_audit",
    "read_checkpoint",
    "robustbench_files",
    "robustbench_names",
    "robustbench_table",
    "save_checkpoint",
    "spread_over_seeds",
]


_display.attach(notebook="art_classwise.report.notebook", page="art_classwise.report.page")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
