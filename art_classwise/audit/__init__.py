"""The audit: models x attacks x examples -> one table of outcomes, from which everything else is read."""

from art_classwise.audit.audit import ClassWiseAudit
from art_classwise.audit.exclusion import ClassExclusionStudy, ExclusionResult
from art_classwise.audit.result import WORST_CASE, AuditResult
from art_classwise.audit.saved import is_finished, read_audit, write_audit

__all__ = [
    "WORST_CASE",
    "AuditResult",
    "ClassExclusionStudy",
    "ClassWiseAudit",
    "ExclusionResult",
    "is_finished",
    "read_audit",
    "write_audit",
]
