"""What looks wrong with an audit: the checks that a careful reviewer makes, on outcomes and probes."""

from art_classwise.audit.findings.registry import CHECKS, DIFFERS, Check, CheckResult, Finding, Findings

__all__ = ["CHECKS", "DIFFERS", "Check", "CheckResult", "Finding", "Findings"]
