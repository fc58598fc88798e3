"""Audits made up for tests of what is shown of them."""

from __future__ import annotations

import numpy as np
import pandas as pd

import art_classwise as acw
from art_classwise.audit import AuditResult, Manifest
from art_classwise.audit.provenance import Environment

HOSTILE = "<script>alert('class')</script>\n$x_{$ & \"quotes\""


def make_result(classes, models=("one", "two"), n=40, attacks=("fgsm",), eps=0.1):
    """Outcomes with class k withstanding with probability (k + 1) / C; the last class without examples.

    Each further attack leaves two thirds of them, and a larger radius fewer.
    """
    rng = np.random.default_rng(0)
    tables = []
    label = np.repeat(np.arange(len(classes) - 1), n)  # the last class has no example
    for model in models:
        luck = rng.random(len(label))
        for i, attack in enumerate(attacks):
            withstood = luck < (label + 1) / len(classes) * (1.1 - eps) * (2 / 3) ** i
            tables.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "attack": attack,
                        "example": np.arange(len(label)),
                        "label": label.astype(np.int32),
                        "clean_prediction": label.astype(np.int32),
                        "prediction": np.where(withstood, label, (label + 1) % len(classes)).astype(np.int32),
                        "withstood": withstood,
                        "clean_margin": np.float32(1),
                        "margin": np.where(withstood, 1, -1).astype(np.float32),
                        "perturbation": np.float32(0.1),
                        "zero_gradient": False,
                    }
                )
            )
    outcomes = pd.concat(tables, ignore_index=True)
    outcomes["model"] = pd.Categorical(outcomes["model"], categories=list(models))
    outcomes["attack"] = pd.Categorical(outcomes["attack"], categories=list(attacks))
    machine = Environment(
        python="3", versions={"torch": "2"}, system="S", cpu="C", cpu_cores=2, torch_threads=1, gpus=()
    )
    manifest = Manifest.of_table(
        outcomes,
        classes,
        acw.ThreatModel("Linf", eps),
        attacks={attack: {"class": "PGD", "norm": "inf", "eps": eps, "max_iter": 20} for attack in attacks},
        dataset="made",
        split="test",
        created="2026-01-01T00:00:00+00:00",
        environments=(machine,),
        commands=("art-classwise audit --model '<b>'",),
    )
    return AuditResult(outcomes, manifest)
