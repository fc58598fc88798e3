"""The audit: models x attacks x examples -> one table of outcomes, from which everything else is read."""

from art_classwise.audit.audit import ClassWiseAudit
from art_classwise.audit.comparison import Comparison, compare, comparison_table
from art_classwise.audit.findings import Finding
from art_classwise.audit.manifest import Manifest
from art_classwise.audit.planned import planned_units, work_on
from art_classwise.audit.requirements import Requirement, Verdict, Verdicts
from art_classwise.audit.result import WORST_CASE, AuditResult, read_audit
from art_classwise.audit.saved import collect, is_finished, write_audit

__all__ = [
    "WORST_CASE",
    "AuditResult",
    "ClassWiseAudit",
    "Comparison",
    "Finding",
    "Manifest",
    "Requirement",
    "Verdict",
    "Verdicts",
    "collect",
    "compare",
    "comparison_table",
    "is_finished",
    "planned_units",
    "read_audit",
    "work_on",
    "write_audit",
]
