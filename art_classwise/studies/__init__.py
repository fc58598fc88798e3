"""Studies: what takes several trainings or audits, class exclusion, training seeds and leaderboards."""

from art_classwise.studies.board import place_on_board
from art_classwise.studies.class_exclusion import ClassExclusionStudy, ExclusionResult
from art_classwise.studies.leaderboard import beside_measured
from art_classwise.studies.norms import NormUnion, audit_over_norms, read_union
from art_classwise.studies.radii import RadiusSweep, audit_over_radii, read_sweep
from art_classwise.studies.seeds import SeedSpread, compare_over_seeds, spread_over_seeds

__all__ = [
    "ClassExclusionStudy",
    "ExclusionResult",
    "NormUnion",
    "RadiusSweep",
    "SeedSpread",
    "audit_over_norms",
    "audit_over_radii",
    "beside_measured",
    "compare_over_seeds",
    "place_on_board",
    "read_sweep",
    "read_union",
    "spread_over_seeds",
]
