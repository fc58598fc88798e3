"""The command that trains."""

from __future__ import annotations

import math
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from art_classwise.cli import _train_data as prepare
from art_classwise.cli import _train_options as flags
from art_classwise.cli._config import ConfigFile, SaveConfig
from art_classwise.cli._config import save_config as write_config
from art_classwise.cli._interrupt import command_line, on_interrupt
from art_classwise.cli._json import printing
from art_classwise.cli._messages import say
from art_classwise.cli._method_options import check_options, method_options
from art_classwise.cli._options import ClassNames, DatasetName, Device, ImageSize, Json, Quiet, Root, Seed, split_names
from art_classwise.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from art_classwise.trainers.recipes import Recipe

__all__ = ["train"]


def train(
    context: typer.Context,
    method: flags.MethodName,
    out: flags.CheckpointFile,
    tensorboard: flags.TensorBoard = None,
    json: Json = False,
    quiet: Quiet = False,
    arch: flags.Architecture = "digits-cnn",
    init: flags.Init = None,
    teacher: flags.Teacher = None,
    tau: flags.HeadPower = None,
    dataset: DatasetName = "digits",
    examples: flags.Examples = None,
    imbalance: flags.Imbalance = None,
    class_names: ClassNames = None,
    image_size: ImageSize = None,
    data_dir: Root = None,
    threat: flags.Threat = None,
    steps: flags.Steps = None,
    recipe: flags.RecipeName = None,
    epochs: flags.Epochs = None,
    batch_size: flags.BatchSize = None,
    lr: flags.LearningRate = None,
    beta: flags.Beta = None,
    option: flags.MethodOption = None,
    awp: flags.Awp = None,
    gradient_clip: flags.GradientClip = None,
    ema: flags.Ema = None,
    precision: flags.TrainingPrecision = None,
    compile_: flags.Compile = None,
    class_policy: flags.PolicyText = None,
    exclude: flags.Exclude = None,
    unlabeled: flags.UnlabeledImages = None,
    pseudo_labels: flags.PseudoLabels = None,
    labels: flags.Labels = None,
    unlabeled_fraction: flags.UnlabeledFraction = None,
    gamma: flags.Gamma = None,
    validation: flags.Validation = None,
    keep: flags.KeepEpoch = None,
    on_collapse: flags.OnCollapse = None,
    device: Device = None,
    workers: flags.Workers = 0,
    seed: Seed = 0,
    resume: flags.Resume = False,
    config: ConfigFile = None,
    save_config: SaveConfig = None,
) -> None:
    """Train a network adversarially and save it as a checkpoint, with its history as CSV beside it.

    Under torchrun, training is shared by all processes.
    """
    given = dict(locals())
    from art_classwise._core.distributed import is_main
    from art_classwise._core.files import check_output_file, output_file
    from art_classwise.cli._early import check_given
    from art_classwise.datasets import load_dataset
    from art_classwise.head import normalize_head
    from art_classwise.trainers.catalog import method_spec
    from art_classwise.trainers.engine.arrays import unlabelled_per_batch
    from art_classwise.zoo import as_classifier, build, load_checkpoint, save_checkpoint

    with printing(json) as write:
        check_given(given)
        chosen = _chosen_recipe(method, recipe, arch, dataset, threat, image_size).override(
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            steps=steps,
            beta=beta,
            precision=None if precision is None else precision.value,
            compile=compile_,
            unlabeled_fraction=unlabeled_fraction,
            ema_decay=ema,
            awp_gamma=awp,
            gradient_clip=gradient_clip,
        )
        own = method_options(option or (), method)
        if chosen.verified is not None:
            others = [*own, *(() if class_policy is None else ("class_policy",))]
            chosen = replace(chosen, changed=tuple(dict.fromkeys((*chosen.changed, *others))))
        validates = chosen.validation > 0 if validation is None else validation != 0
        if keep not in (None, flags.Keep.last) and not validates:
            raise InputError(
                f"--keep {keep.value} needs validation examples: give --validation, e.g. --validation 1000."
            )
        if chosen.unlabeled_fraction is not None and unlabeled is None and labels is None:
            raise InputError(
                "--unlabeled-fraction needs unlabelled images: give --unlabeled or --labels."
                if unlabeled_fraction is not None
                else f"The paper's recipe for {arch} needs unlabelled images: give --unlabeled."
            )
        if gamma is not None and unlabeled is None and labels is None:
            raise InputError("--gamma needs unlabelled images: give --unlabeled or --labels.")
        if pseudo_labels is not None and unlabeled in (None, prepare.REST):
            raise InputError("--pseudo-labels names an array of the .npz file that --unlabeled gives: give that, too.")
        if unlabeled == prepare.REST and labels is None:
            raise InputError("--unlabeled rest are the examples that --labels leaves: give that, too.")
        spec = method_spec(method)
        prepare.check_teacher(teacher, spec)
        if on_collapse is not None and "on_collapse" not in spec.options:
            raise InputError(f"--on-collapse is for fast training, n-fgsm or fgsm-rs, not for {spec.name}.")
        if on_collapse is not None and not validates:
            raise InputError("--on-collapse needs validation examples: give --validation, e.g. --validation 1000.")
        check_options(replace(chosen, class_policy=None), own)
        semi_supervised = unlabeled is not None or gamma is not None or chosen.unlabeled_fraction is not None
        gamma = 1.0 if gamma is None else gamma
        npz = Path(unlabeled).expanduser() if unlabeled is not None and unlabeled.endswith(".npz") else None
        for flag, file in (("--init", init), ("--teacher", teacher), ("--unlabeled", npz)):
            if file is not None and not (str(file).startswith("hf:") or file.exists()):
                raise InputError(f"There is no file {str(file)!r} for {flag}.")
        if chosen.fine_tunes and init is None:
            raise InputError(
                f"The recipe {chosen.name} fine-tunes a robust network: give its checkpoint as --init, e.g. --init "
                "trades.pt."
            )
        kept = keep.value if keep is not None else (chosen.keep or "robust") if validates else "last"
        check_output_file(out, f"{method}.pt")
        stem = out.name.removesuffix(".pt")
        state, curve = out.with_name(f"{stem}.training"), out.with_name(f"{stem}.csv")
        if not resume and (state / "training.pt").exists():
            raise InputError(
                f"{state} already holds a training: continue it with --resume, choose another --out, or remove that "
                "folder."
            )
        for path in () if resume else (out, curve):
            if path.exists():
                raise InputError(f"{path} already exists: choose another --out, or remove it.")
        write_config(context, save_config)
        data = load_dataset(dataset, "train", root=data_dir, classes=split_names(class_names), image_size=image_size)
        data = data if imbalance is None else data.long_tailed(imbalance)
        data = data.first(examples) if examples is not None else data
        policy = prepare.class_policy_of(class_policy or chosen.class_policy, data.classes, validates)
        excluded = [data.class_number(name) for name in exclude or []]
        if excluded:
            data = prepare.without(data, excluded)
        if validation is None:
            validation = max(len(data.classes), round(chosen.validation * len(data))) if validates else 0
        data, held_out = prepare.held_out_of(data, validation, seed)
        # Version 0.1.0 took the rest of the images wherever there were --labels: what it began goes on so.
        semi_supervised = semi_supervised or (resume and (state / "pseudo_labels.npz").exists())
        n_all = len(data)
        data, rest = prepare.labelled(data, labels, seed)
        more = (
            prepare.unlabelled(data, rest, unlabeled, data_dir, image_size, pseudo_labels) if semi_supervised else None
        )
        if rest is not None and more is None and is_main() and not (quiet or json):
            say(f"Trained on {len(data):,} of {n_all:,} examples; --unlabeled rest uses the images of the others.")
        if chosen.verified is not None and is_main() and not (quiet or json):
            say(f"Recipe {chosen.name}: {chosen.provenance}.")
        on = None if device is None else device.value
        on_interrupt(context, lambda: _kept(state))
        network = build(arch, data.input_shape, len(data.classes), seed=seed)
        if init is not None:
            load_checkpoint(init, network, device="cpu")
        taught = prepare.teacher_of(teacher, spec, data, on)
        optimizer = chosen.optimizer(network)
        classifier = as_classifier(network, data.input_shape, len(data.classes), optimizer=optimizer, device=on)
        fraction = 0.5 if chosen.unlabeled_fraction is None else chosen.unlabeled_fraction
        labelled = chosen.batch_size - (0 if more is None else unlabelled_per_batch(chosen.batch_size, fraction))
        options = chosen.trainer_options(network, data.classes) | {
            "gradient_clip": chosen.gradient_clip,
            "ema_decay": chosen.ema_decay,
            "awp_gamma": chosen.awp_gamma,
            "class_policy": policy,
            "excluded": excluded or None,
            "num_workers": workers,
            "summary_writer": False if tensorboard is None else str(tensorboard),
            "seed": seed,
            "verbose": not quiet,
            **({} if spec.method is None else {"method": spec.method}),
            **taught,
            **own,
            **({} if on_collapse is None else {"on_collapse": on_collapse.value}),
        }
        trainer: Any = spec.trainer(classifier, **options)
        images = {} if more is None else {"x_unlabeled": more.x, "y_pseudo": more.y_pseudo, "gamma": gamma}
        history = trainer.fit(
            data.x,
            data.y,
            validation_data=None if held_out is None else (held_out.x, held_out.y),
            **chosen.fit_options(optimizer, len(data), batch_size=labelled),
            keep=kept,
            checkpoint_dir=state,
            resume=resume,
            **images,
            **({"unlabeled_fraction": fraction} if images else {}),
        )
        if not is_main():
            return
        source = None if unlabeled == prepare.REST else unlabeled
        used = chosen.as_dict() | {
            "compile": options["compile"],
            "ema": chosen.ema_decay,
            "awp": chosen.awp_gamma,
            "gradient_clip": chosen.gradient_clip,
            **own,
            "class_policy": None if policy is None else policy.describe(),
            "excluded": [data.classes[k] for k in excluded],
            "normalize_head": tau,
            "unlabeled": None if more is None else {"from": source or data.name, "n": len(more.x), "gamma": gamma},
            "init": None if init is None else str(init),
            **({} if teacher is None else {"teacher": str(teacher)}),
            **({} if on_collapse is None else {"on_collapse": on_collapse.value}),
            "seed": seed,
        }
        used |= {} if imbalance is None else {"imbalance": imbalance}
        used |= {"dataset": data.name, "n": len(data), "validation": validation, "keep": kept}
        used |= {"epoch": int(history.attrs["kept_epoch"])}
        saved = classifier.model if tau is None else normalize_head(classifier.model, tau, len(data.classes))
        save_checkpoint(
            out,
            saved,
            architecture=arch,
            classes=data.classes,
            threat=chosen.threat,
            recipe=used,
            input_shape=data.input_shape,
        )
        with output_file(curve, "history.csv") as aside:
            history.to_csv(aside, index=False)
        files = {"checkpoint": out, "history": curve, "training": state}
        if json:
            told = {"recipe": used, "epoch": used["epoch"], "history": history.to_dict("records")}
            write("training", {**told, "pseudo_labels": history.attrs.get("pseudo_labels"), "files": files})
            return
        _say_training(history, chosen, kept)
        if tau is not None:
            print(f"These numbers precede --normalize-head {tau:g}; audit the checkpoint to see its effect.")
        for what, path in files.items():
            print(f"{what:<10}  {path}")


def _kept(state: Path) -> str:
    """Return what is said of an interrupted training."""
    from art_classwise.trainers.engine.checkpoint import finished_epochs

    if not (state / "training.pt").exists():
        return f"Interrupted before the first epoch began; to start again:\n{command_line()}"
    done = finished_epochs(state)
    kept = f"{done} epoch{'s are' if done > 1 else ' is'} kept in {state}" if done else "no epoch was finished"
    return f"Interrupted: {kept}; to go on:\n{command_line('--resume')}"


def _chosen_recipe(
    method: str, name: str | None, arch: str, dataset: str, threat: str | None, size: int | None
) -> Recipe:
    from art_classwise.datasets.load import loaded_name
    from art_classwise.threat import ThreatModel
    from art_classwise.trainers.recipes import fast_recipe, paper_recipe, plain_recipe

    ball = None if threat is None else ThreatModel.parse(threat)
    known = loaded_name(dataset)
    if name == "fast":
        return fast_recipe(method, known, architecture=arch, threat=ball, image_size=size)
    if name is None:
        return plain_recipe(method, known, threat=ball)
    return paper_recipe(method, arch, known, name.partition(":")[2]).override(threat=ball)


def _say_training(history: pd.DataFrame, recipe: Recipe, kept: str) -> None:
    last = history.iloc[-1]
    print(
        f"After {len(history)} epoch{'s' * (len(history) > 1)}: loss {last['loss']:.3f}, "
        + (
            f"{last['clean']:.1%} of the training examples classified correctly."
            if math.isnan(last["robust"])
            else f"{last['robust']:.1%} of the training examples withstood."
        )
    )
    made = history.attrs.get("pseudo_labels")
    if made is not None:
        print(
            f"Pseudo-labels: {made['n']:,} images, mean confidence {made['mean_confidence']:.1%}; "
            f"{made['confident']:.1%} have a confidence of 90% or more."
        )
    if "val_robust" in history:
        epoch = int(history.attrs["kept_epoch"])
        row = history.set_index("epoch").loc[epoch]
        print(
            f"Validation at epoch {epoch}: clean {row['val_clean']:.1%}, robust {row['val_robust']:.1%}, "
            f"worst class {row['val_worst']:.1%}."
        )
        print(f"The weights are those of epoch {epoch} (--keep {kept}).")
    print(textwrap.fill(f"{'recipe':<10}  {recipe.name}: {recipe.provenance}", 80, subsequent_indent=" " * 12))
