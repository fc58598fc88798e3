"""The audit: models x attacks x examples -> one table of outcomes, from which everything else is read."""

from art_classwise.audit.audit import ClassWiseAudit
from art_classwise.audit.compare import compare
from art_classwise.audit.comparison import Comparison
from art_classwise.audit.exclusion import ClassExclusionStudy
from art_classwise.audit.exclusion_result import ExclusionResult
from art_classwise.audit.result import WORST_CASE, AuditResult
from art_classwise.audit.sanity import Finding
from art_classwise.audit.saved import is_finished, read_audit, write_audit
from art_classwise.audit.seeds import SeedSpread, spread_over_seeds

__all__ = [
    "WORST_CASE",
    "AuditResult",
    "ClassExclusionStudy",
    "ClassWiseAudit",
    "Comparison",
    "ExclusionResult",
    "Finding",
    "SeedSpread",
    "compare",
    "is_finished",
    "read_audit",
    "spread_over_seeds",
    "write_audit",
]
