"""The options of the command that audits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from art_classwise.cli import _completion as completion
from art_classwise.cli._options import ATTACKS, DATA, MODELS, OUTPUT, RUNNING, Precision

__all__ = [
    "Architectures",
    "AttackNames",
    "BatchSize",
    "Checks",
    "CorruptionDir",
    "Corruptions",
    "Examples",
    "Mean",
    "Models",
    "On",
    "OnlyClasses",
    "SearchPrecision",
    "Slurm",
    "Std",
    "Store",
    "Surrogate",
    "Threat",
    "UnsafeWeights",
    "WorstCase",
]


def _option(flag: str, metavar: str, panel: str, says: str, **more: Any) -> Any:
    return typer.Option(flag, help=says, metavar=metavar, rich_help_panel=panel, show_default=False, **more)


Models = Annotated[
    list[str],
    _option(
        "--model",
        "MODEL",
        MODELS,
        "A checkpoint of `train`, a file of weights (with --arch), robustbench:NAME, robustbench:DATASET/NAME or "
        "hf:ORGANISATION/NAME; repeat the option for more models. MINE=MODEL names it MINE in tables. robustbench:all "
        "is the whole leaderboard, one model in memory at a time, without models that can't be downloaded.",
        autocompletion=completion.models,
    ),
]
Architectures = Annotated[
    list[str] | None,
    _option(
        "--arch",
        "ARCH",
        MODELS,
        "Architecture of weights that don't say theirs: resnet18, wrn-34-10, torchvision:resnet50, timm:NAME or "
        "FILE.py:CALLABLE, which is run. MODEL=ARCH is for one of the models; repeat the option.",
        autocompletion=completion.architectures,
    ),
]
Mean = Annotated[
    list[str] | None,
    _option(
        "--mean",
        "NUMBERS",
        MODELS,
        "What those networks want subtracted from images in [0, 1], e.g. 0.4914,0.4822,0.4465; or MODEL=NUMBERS.",
    ),
]
Std = Annotated[
    list[str] | None, _option("--std", "NUMBERS", MODELS, "What they then want images divided by, likewise.")
]
Surrogate = Annotated[
    str | None,
    _option(
        "--surrogate",
        "MODEL",
        MODELS,
        "Source model of transfer attacks, written as for --model.",
        autocompletion=completion.models,
    ),
]
UnsafeWeights = Annotated[
    bool,
    typer.Option(
        "--unsafe-weights",
        help="Also load RobustBench files that can run code. Use it only for files you trust.",
        rich_help_panel=MODELS,
    ),
]
Examples = Annotated[int | None, _option("--examples", "N", DATA, "Number of test examples. Default: all.")]
OnlyClasses = Annotated[
    list[str] | None,
    _option("--class", "NAME", DATA, "Only examples of this class; repeat the option for more classes."),
]
Threat = Annotated[
    str | None,
    _option(
        "--threat",
        "NORM:EPS",
        ATTACKS,
        "Norm and radius for images in [0, 1], e.g. Linf:8/255, L2:0.5 or L1:12; or corruptions, which nobody attacks "
        "by. Default: usual for the data set. Several radii, Linf:4/255,8/255,12/255, are an audit each, a table and a "
        "figure; several norms, Linf:8/255,L2:0.5,L1:12, an audit each, and what withstands all of them.",
        autocompletion=completion.threats,
    ),
]
AttackNames = Annotated[
    str | None,
    _option(
        "--attacks",
        "NAMES",
        ATTACKS,
        "A ladder (quick; fast, a quick estimate; standard; blackbox), or names separated by commas: fgsm, pgd-20, "
        "pgd-100x5, margin-20, tpgd5-20, fmn (every radius at once), autoattack, square, transfer-pgd-20. Default: "
        "quick; none with --corruptions and no --threat.",
        autocompletion=completion.attacks,
    ),
]
Corruptions = Annotated[
    str | None,
    _option(
        "--corruptions",
        "NAMES",
        ATTACKS,
        "Also try corrupted images: all, or names separated by commas: fog:3 (severity 1 to 5), snow (all five), "
        "made:contrast (made here, not read). They are no attack and count apart.",
        autocompletion=completion.corruptions,
    ),
]
CorruptionDir = Annotated[
    Path | None,
    _option(
        "--corruption-dir",
        "DIR",
        ATTACKS,
        "Folder of CIFAR-10-C, CIFAR-100-C or ImageNet-C. Default: within --data-dir; where there is none, images are "
        "made from the clean ones, and named so.",
    ),
]
WorstCase = Annotated[
    bool,
    typer.Option(
        "--worst-case",
        help="Skip examples that an attack has broken: faster, for robust accuracy under all attacks. A ladder named "
        "alone is put in order by what it breaks for its cost.",
        rich_help_panel=ATTACKS,
    ),
]
Checks = Annotated[
    bool,
    typer.Option(
        "--checks/--no-checks",
        help="Also check the networks themselves, on 64 examples.",
        rich_help_panel=ATTACKS,
    ),
]
SearchPrecision = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Precision of the search: auto, fp32 or bf16; verdicts are always float32.",
        metavar="NAME",
        rich_help_panel=ATTACKS,
    ),
]
BatchSize = Annotated[
    int | None, _option("--batch-size", "N", RUNNING, "Examples per batch. Default: chosen by their size.")
]
Store = Annotated[
    str,
    typer.Option(
        "--out",
        help="Folder for the results, or an address: s3://, gs://, az://.",
        metavar="DIR",
        rich_help_panel=OUTPUT,
    ),
]
On = Annotated[
    str | None,
    _option(
        "--on",
        "ENGINE",
        RUNNING,
        "Who computes: dask:4 (workers on this machine), dask://HOST:PORT, slurm, ray, ray://HOST:PORT or processes:4.",
    ),
]
Slurm = Annotated[
    list[str] | None,
    _option(
        "--slurm",
        "KEY=VALUE",
        RUNNING,
        "With --on slurm: slurm_partition=gpu, gpus_per_node=1, timeout_min=60, jobs=16; repeat the option.",
    ),
]
