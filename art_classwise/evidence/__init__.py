"""Evidence: an audit that a third party can check."""

from art_classwise.evidence.attest import attestation_differences, document, statement, write_attestation
from art_classwise.evidence.certificates import Recertified
from art_classwise.evidence.checking import Verification, verify
from art_classwise.evidence.recompute import Recomputed

__all__ = [
    "Recertified",
    "Recomputed",
    "Verification",
    "attestation_differences",
    "document",
    "statement",
    "verify",
    "write_attestation",
]
