"""MART on CIFAR-10, class by class: the paper's ResNet-18 on a GPU, or a small network beside AT and TRADES on a CPU.

    python evaluations/mart_cifar10.py --train cifar10_train.npz --test cifar10_test.npz

The files hold arrays ``x`` (uint8 images) and ``y``. With a CUDA GPU the size is ``full``: ResNet-18 by the published
recipe, 120 epochs on all of CIFAR-10, evaluated on all 10,000 test images. Without one it is ``cpu``: a network of two
convolutions, that recipe scaled down, standard adversarial training and TRADES beside MART, and 1,000 test images,
300 for AutoAttack.

A killed run goes on where it was: training after the last epoch, evaluation after the last 1,024 images of an attack.
``--train-only`` and ``--evaluate-only`` do one of the two. Weights and outcomes stay in the --checkpoint-dir; the CSV
files of results and history go to --out.

"Best" is the epoch with the highest robust accuracy under PGD-10 on the first 1,000 *test* images: the paper chose on
its test set, too (and for each attack anew). At CPU size the images evaluated are others. The attacks are the paper's:
FGSM, PGD-20 and CW-inf (PGD on the margin, 30 steps), both in steps of 0.003 from a uniform start and judged where they
end; and AutoAttack. All are at 8/255; the published recipe trains at 0.031, which is 7.905/255.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from _machine import hardware, versions

import art_classwise as acw
from art_classwise.trainers import trained_weights, training_history
from art_classwise.trainers.recipes import Recipe, paper_recipe

EPS = 8 / 255
THREAT = "Linf:8/255"
METHODS = {
    "standard": acw.AdversarialTrainerStandardPyTorch,
    "trades": acw.AdversarialTrainerTRADESPyTorch,
    "mart": acw.AdversarialTrainerMARTPyTorch,
}
BETAS = {"standard": None, "trades": 6.0, "mart": 5.0}
WEIGHTS = {"best": "kept", "last": "last"}
ATTACKS = {
    "fgsm": partial(acw.PGD, eps=EPS, eps_step=EPS, max_iter=1, num_random_init=0, verbose=False),
    "pgd-20": partial(acw.PGD, eps=EPS, eps_step=0.003, max_iter=20, verbose=False),
    "cw-30": partial(acw.PGD, eps=EPS, eps_step=0.003, max_iter=30, loss="margin", verbose=False),
    "autoattack": partial(acw.AutoAttack, eps=EPS, verbose=False),
}
# ResNet-18, accuracies in %. Of the re-runs only what was measured under the same attack, but for CW's steps.
PUBLISHED = {
    "paper, best for each attack": {"clean": 83.07, "fgsm": 65.65, "pgd-20": 55.57, "cw-30": 54.87},
    "others' runs": {"clean": 80.70, "fgsm": 58.91, "pgd-20": 54.02, "cw-30": 49.35, "autoattack": 47.49},
    "Adversarial_Training_Pytorch, best (CW-100)": {"clean": 78.59, "fgsm": 58.54, "pgd-20": 54.87, "cw-30": 49.14},
    "MAIR": {"autoattack": 47.51},
}
AIMS = {"pgd-20": 55.57, "autoattack": 47.5}
SLICE = 1024  # images: two of the audit's shards, so that slices don't change what an attack finds


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
        methods: What is trained.
        epochs: How long.
        changes: What differs from MART's published recipe.
        batch_size: Of the attacks.
        per_class: Test images attacked of each class, none of them used to choose the best epoch; None: all images.
        autoattack_per_class: The same for AutoAttack, which takes most of the time.
    """

    methods: tuple[str, ...]
    epochs: int
    changes: Mapping[str, Any]
    batch_size: int
    per_class: int | None
    autoattack_per_class: int | None


SIZES = {
    "full": Size(("mart",), 120, {}, 512, None, None),
    # After 3 epochs of MART 23 % of the validation images withstood with crops, 27 % without.
    "cpu": Size(("standard", "trades", "mart"), 7, {"lr": 0.05, "weight_decay": 5e-4, "crop_padding": 0}, 128, 100, 30),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate, write the tables and print them."""
    arguments = _arguments(argv)
    try:
        _run(arguments)
    except acw.InputError as error:
        sys.exit(f"error: {error}")


def _run(arguments: argparse.Namespace) -> None:
    began, size = time.perf_counter(), SIZES[arguments.size]
    epochs = size.epochs if arguments.epochs is None else arguments.epochs
    methods = tuple(arguments.methods or size.methods)
    folders = {method: arguments.checkpoint_dir / method for method in methods}
    recipes = {method: scaled_recipe(method, size, epochs, arguments.compile) for method in methods}
    test = acw.load_dataset(arguments.test, classes="cifar10")
    if not arguments.evaluate_only:
        images = acw.load_dataset(arguments.train, "train", classes="cifar10")
        for method in methods:
            print(f"{method}: {told(recipes[method])}", flush=True)
            _train(method, recipes[method], network(arguments.size), images, chosen_on(test), folders[method])
    origin = {"hardware": hardware(), "versions": versions(), "command": _command(arguments)}
    stories = {method: told(recipe) for method, recipe in recipes.items()}
    histories = {method: training_history(folder) for method, folder in folders.items()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"mart_cifar10_{arguments.size}_history.csv"
    _with_origin(joined_history(histories), stories, origin).to_csv(path, index=False, float_format="%.5g")
    print(path)
    if arguments.train_only:
        return
    data = {attack: evaluated_on(test, size.per_class) for attack in ATTACKS}
    data["autoattack"] = evaluated_on(test, size.autoattack_per_class)
    parts = []
    for method, folder in folders.items():
        for weights, which in WEIGHTS.items():
            module = network(arguments.size)
            module.load_state_dict(trained_weights(folder, which))
            classifier = acw.as_classifier(module.eval(), test.input_shape, len(test.classes))
            parts.append(_attack(f"{method} {weights}", classifier, data, size.batch_size, folder / "outcomes"))
    results = table(joined(parts))
    epoch_of = {(m, "best"): h.attrs["kept_epoch"] for m, h in histories.items()}
    epoch_of |= {(m, "last"): len(h) for m, h in histories.items()}
    results.insert(2, "epoch", [epoch_of[pair] for pair in zip(results["method"], results["weights"], strict=True)])
    path = arguments.out / f"mart_cifar10_{arguments.size}.csv"
    _with_origin(results, stories, origin).to_csv(path, index=False, float_format="%.4f")
    print(report(results, published=arguments.size == "full" and epochs == size.epochs))
    print(f"\n{origin['hardware']}; {origin['versions']}; {time.perf_counter() - began:.0f} s in this call\n{path}")


def _with_origin(frame: pd.DataFrame, stories: Mapping[str, str], origin: Mapping[str, str]) -> pd.DataFrame:
    return frame.assign(recipe=frame["method"].map(stories), **origin)


def scaled_recipe(method: str, size: Size, epochs: int, compile: bool = False) -> Recipe:
    """Return MART's published recipe for ResNet-18 at another size, for this method.

    Args:
        method: A key of :data:`METHODS`. Those other than MART have its budget, and their own objective.
        size: What differs at this size.
        epochs: Number of epochs; the learning rate falls at the same fractions of them.
        compile: Whether to compile the network.
    """
    recipe = paper_recipe("mart", "resnet18", "cifar10")
    if method != "mart":
        recipe = replace(
            recipe, method=method, beta=BETAS[method], exact=False, source=f"{recipe.source}, without MART"
        )
    decay = tuple((1 + round((first - 1) * epochs / recipe.epochs), factor) for first, factor in recipe.decay)
    return recipe.override(epochs=epochs, decay=decay, compile=compile, **size.changes)


def told(recipe: Recipe) -> str:
    """Return a recipe in a line."""
    falls = ", ".join(f"x {factor:g} from epoch {first}" for first, factor in recipe.decay)
    beta = "" if recipe.beta is None else f", beta {recipe.beta:g}"
    return (
        f"{recipe.threat}, {recipe.steps} steps of {recipe.eps_step:g}{beta}, {recipe.epochs} epochs in batches of "
        f"{recipe.batch_size}, learning rate {recipe.lr:g} ({falls}), weight decay {recipe.weight_decay:g}, "
        f"precision {recipe.precision}"
    )


def network(size: str) -> nn.Module:
    """Return ResNet-18, or at CPU size two convolutions and two linear layers, with fresh weights (always the same)."""
    if size == "full":
        return acw.build("resnet18", (3, 32, 32), 10, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10)),
        )


def chosen_on(test: acw.Dataset) -> acw.Dataset:
    """Return the test images that the best epoch is chosen on: the first 1,000, or of fewer than 2,000 half of them."""
    return test.take(np.arange(min(1000, len(test) // 2)))


def evaluated_on(test: acw.Dataset, per_class: int | None) -> acw.Dataset:
    """Return the test images that are attacked: all, or so many of each class, the first that nothing was chosen on."""
    if per_class is None:
        return test
    others = np.arange(len(chosen_on(test)), len(test))
    rows = [others[test.y[others] == k][:per_class] for k in range(len(test.classes))]
    return test.take(np.sort(np.concatenate(rows)))


def _train(
    method: str, recipe: Recipe, module: nn.Module, images: acw.Dataset, validation: acw.Dataset, folder: Path
) -> None:
    optimizer = recipe.optimizer(module)
    classifier = acw.as_classifier(module, images.input_shape, len(images.classes), optimizer=optimizer)
    trainer = METHODS[method](classifier, **recipe.trainer_options(module))
    scheduler, interval = recipe.scheduler(optimizer, len(images))
    trainer.fit(
        images.x,
        images.y,
        validation_data=(validation.x, validation.y),
        batch_size=recipe.batch_size,
        nb_epochs=recipe.epochs,
        scheduler=scheduler,
        scheduler_interval=interval,
        keep="robust",
        checkpoint_dir=folder,
        resume=True,
    )


def joined_history(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the histories of all methods in one table, a row per epoch."""
    rows = pd.concat([h.assign(method=method) for method, h in histories.items()], ignore_index=True)
    return rows[["method", *rows.columns.drop("method")]]


def _attack(
    model: str, classifier: Any, data: Mapping[str, acw.Dataset], batch_size: int, folder: Path
) -> list[acw.AuditResult]:
    """Run all attacks on a model, slice by slice, and keep each slice's outcomes; take those kept from the folder."""
    results = []
    for attack, make in ATTACKS.items():
        began, done = time.perf_counter(), []
        audit = acw.ClassWiseAudit(
            THREAT, {attack: partial(make, batch_size=batch_size)}, batch_size=batch_size, verbose=False
        )
        n_images = len(data[attack])
        for begin in range(0, n_images, SLICE):
            part = data[attack].take(np.arange(begin, min(begin + SLICE, n_images)))
            kept = folder / f"{attack}-{begin}-{_digest(classifier, make, part)}"
            if not (kept / "manifest.json").is_file():  # written last
                audit.evaluate({model: classifier}, part).save(kept)
            one = acw.read_audit(kept)
            done.append(replace(one, outcomes=one.outcomes.assign(model=model)))  # best and last may be the same
            withstood = np.concatenate([r.outcomes["withstood"] for r in done])
            seconds = time.perf_counter() - began
            print(
                f"{model}, {attack}: {100 * withstood.mean():.2f} % of {len(withstood)} images, {seconds:.0f} s",
                flush=True,
            )
        results += done
    return results


def _digest(classifier: Any, make: Any, data: acw.Dataset) -> str:
    """Return what tells the outcomes of one model, attack and data from those of others."""
    digest = hashlib.sha256(repr((make.func.__name__, sorted(make.keywords.items()))).encode())
    for array in (data.x, data.y, data.ids, *(v.cpu().numpy() for v in classifier.model.state_dict().values())):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def joined(parts: Sequence[Sequence[acw.AuditResult]]) -> acw.AuditResult:
    """Return one audit of several models from what was attacked at once: one model, one attack, a slice of images."""
    results = [r for part in parts for r in part]
    outcomes = pd.concat([r.outcomes.astype({"model": str, "attack": str}) for r in results], ignore_index=True)
    for column in ("model", "attack"):
        outcomes[column] = pd.Categorical(outcomes[column], categories=list(dict.fromkeys(outcomes[column])))
    attacks = {name: described for r in results for name, described in r.info["attacks"].items()}
    info = {**results[0].info, "n_examples": outcomes["example"].nunique(), "attacks": attacks}
    return acw.AuditResult(outcomes, results[0].classes, results[0].threat, info)


def table(result: acw.AuditResult) -> pd.DataFrame:
    """Return the accuracies of models named by method and weights, such as ``"mart best"``.

    Returns:
        A row per model, attack (``"clean"`` is none) and class, and one for all images, ``"mean"``: it is the mean of
        the classes if they have equally many. Columns ``method``, ``weights``, ``attack``, ``eps x 255``, ``class``,
        ``n``, ``accuracy``, ``low``, ``high``; the last two are the 95 % Wilson interval.
    """
    parts = []
    for model in result.models:
        clean = result.class_table(model, result.attacks[0])[["n", "clean"]]
        rows = {"clean": clean, **{a: result.class_table(model, a)[["n", "robust"]] for a in result.attacks}}
        for attack, by_class in rows.items():
            counts = by_class.set_axis(["n", "accuracy"], axis=1)
            right = (counts["n"] * counts["accuracy"]).fillna(0).round()
            counts.loc["mean"] = [counts["n"].sum(), right.sum() / counts["n"].sum()]
            right["mean"] = right.sum()
            counts["low"], counts["high"] = acw.metrics.wilson(right, counts["n"])
            method, weights = model.split()
            eps = 0.0 if attack == "clean" else 255 * result.threat.eps
            named = counts.rename_axis("class").reset_index().astype({"n": int})
            for place, (column, value) in enumerate(
                {"method": method, "weights": weights, "attack": attack, "eps x 255": eps}.items()
            ):
                named.insert(place, column, value)
            parts.append(named)
    return pd.concat(parts, ignore_index=True)


def report(results: pd.DataFrame, *, published: bool) -> str:
    """Return the tables to print: all images by attack, classes under PGD-20 and AutoAttack.

    Args:
        results: As :func:`table` returns it.
        published: Whether it is the paper's network and recipe, so that its numbers belong beside ours.
    """
    percent = results.assign(accuracy=100 * results["accuracy"])
    order = {"index": ["method", "weights"], "values": "accuracy", "sort": False}
    overall = percent[percent["class"] == "mean"].pivot_table(columns="attack", **order)
    overall.index = pd.Index([" ".join(pair) for pair in overall.index])
    n = percent[percent["class"] == "mean"].groupby("attack", sort=False)["n"].max()
    lines = [f"All images, accuracy in % ({', '.join(f'{a} of {k}' for a, k in n.items())} images)"]
    if published:
        theirs = pd.DataFrame.from_dict(PUBLISHED, orient="index")
        lines += [_text(pd.concat([overall, theirs])), ""]
        for model in overall.index[overall.index.str.startswith("mart ")]:
            away = [f"{a} {overall.loc[model, a] - aim:+.2f} (aim {aim:g})" for a, aim in AIMS.items()]
            lines.append(f"{model}, points from what was aimed at: {', '.join(away)}")
    else:
        lines += [_text(overall), "This isn't the paper's network and training: its numbers don't compare."]
    for attack in ("pgd-20", "autoattack"):
        under = percent[(percent["attack"] == attack) & (percent["class"] != "mean")]
        by_class = under.pivot_table(columns="class", **order)
        by_class.index = pd.Index([" ".join(pair) for pair in by_class.index])
        lines += ["", f"By class under {attack}, accuracy in %", _text(by_class)]
    return "\n".join(lines)


def _text(frame: pd.DataFrame) -> str:
    return frame.rename_axis(index=None, columns=None).to_string(float_format=lambda v: f"{v:.2f}", na_rep="-")


def _command(arguments: argparse.Namespace) -> str:
    """Return the command without folders, which are the user's own."""
    given = [f"--size {arguments.size}", f"--test {Path(arguments.test).name}"]
    given += [f"--train {Path(arguments.train).name}"] if arguments.train else []
    given += [f"--epochs {arguments.epochs}"] if arguments.epochs else []
    given += [f"--methods {' '.join(arguments.methods)}"] if arguments.methods else []
    for flag in ("compile", "train_only", "evaluate_only"):
        given += [f"--{flag.replace('_', '-')}"] if getattr(arguments, flag) else []
    return f"python evaluations/mart_cifar10.py {' '.join(given)}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, help="full where there is a CUDA GPU, else cpu")
    parser.add_argument("--train", help="an .npz file with CIFAR-10's training set, arrays x and y")
    parser.add_argument("--test", required=True, help="likewise its test set")
    parser.add_argument("--epochs", type=int, help="120 at full size, 7 at cpu size")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="mart at full size, all at cpu size")
    parser.add_argument("--compile", action="store_true", help="compile the network in training: faster on a GPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the CSV files")
    parser.add_argument("--checkpoint-dir", type=Path, help="folder to go on from; runs/mart_cifar10_SIZE if absent")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--train-only", action="store_true")
    only.add_argument("--evaluate-only", action="store_true")
    arguments = parser.parse_args(argv)
    arguments.size = arguments.size or ("full" if torch.cuda.is_available() else "cpu")
    arguments.checkpoint_dir = arguments.checkpoint_dir or Path("runs") / f"mart_cifar10_{arguments.size}"
    if not arguments.train and not arguments.evaluate_only:
        parser.error("--train is needed, but with --evaluate-only")
    return arguments


if __name__ == "__main__":
    main()
