"""Training under ``torchrun``: two gloo processes do together what one does alone.

The tests run this file, once in one process and once as a script under torchrun, and compare what these left behind.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from art.attacks.attack import EvasionAttack
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise._core import distributed
from art_classwise.datasets import LazyImages
from art_classwise.trainers import trained_weights
from art_classwise.trainers.engine.batches import Augmentation, DeviceSource, ShuffledOrder
from art_classwise.trainers.engine.weights import synchronised_batch_norms

METHODS = {
    "standard": (acw.AdversarialTrainerStandardPyTorch, {}),
    "trades": (acw.AdversarialTrainerTRADESPyTorch, {}),
    "mart": (acw.AdversarialTrainerMARTPyTorch, {}),
    "mart, misclassified": (acw.AdversarialTrainerMARTPyTorch, {"attacked": "misclassified"}),
    "mart, exact": (acw.AdversarialTrainerMARTPyTorch, {"exact": True}),
}
SMALL = {"eps": 0.05, "max_iter": 2, "verbose": False}
ALL = {
    **SMALL,
    "ema_decay": 0.9,
    "awp_gamma": 5e-3,
    "awp_warmup": 1,
    "gradient_clip": 1.0,
    "label_smoothing": 0.1,
    "crop_padding": 1,
    "flip": True,
}
N, BATCH, CLASSES = 151, 32, 5  # the last batch has 23 examples: 11 for the one process, 12 for the other


# What runs in the processes. Each task returns plain values.


def make_images(n, seed):
    """Return images of whole grey levels: a pattern per class, under noise."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(0).integers(60, 196, (CLASSES, 1, 6, 6))
    y = rng.integers(0, CLASSES, n)
    x = (patterns[y] + rng.integers(-60, 60, (n, 1, 6, 6))).astype(np.float32) / np.float32(255)
    return x, y


TRAIN, VALIDATION, UNLABELLED = make_images(N, 1), make_images(45, 2), make_images(61, 3)


def plain():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, CLASSES))


def normed():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, CLASSES))


class Noisy(nn.Module):
    """A network with a buffer that is drawn."""

    def __init__(self):
        super().__init__()
        self.layers = plain()
        self.register_buffer("noise", 0.1 * torch.randn(1, 1, 6, 6))
        self.register_buffer("number", torch.randint(100, ()))

    def forward(self, x):
        return self.layers(x + self.noise)


class Unused(nn.Module):
    """A network with weights that no logit depends on."""

    def __init__(self):
        super().__init__()
        self.layers, self.head = plain(), nn.Linear(3, 3)

    def forward(self, x):
        return self.layers(x)


def make_classifier(network=plain, seed=0, lr=0.1):
    torch.manual_seed(seed)
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)
    return acw.as_classifier(module, (1, 6, 6), CLASSES, optimizer=optimizer, device="cpu")


def weights(classifier):
    return {name: value.numpy().copy() for name, value in classifier.model.state_dict().items()}


def end(classifier, history):
    """Return what a training ended with."""
    values = history.drop(columns="images_per_second").to_dict("list")
    return {"history": values, "kept_epoch": history.attrs["kept_epoch"], "weights": weights(classifier)}


def train(network=plain, trainer=acw.AdversarialTrainerStandardPyTorch, seed=0, options=SMALL, **fit):
    classifier = make_classifier(network, seed)
    return end(classifier, trainer(classifier, **options).fit(*TRAIN, batch_size=BATCH, **{"nb_epochs": 3, **fit}))


class Recorder(EvasionAttack):
    """An attack that notes which examples it was given, and leaves them as they are."""

    _estimator_requirements = ()

    def __init__(self, classifier):
        super().__init__(estimator=classifier)
        self.seen = []

    def generate(self, x, y=None, **kwargs):
        self.seen += [(image.tobytes(), int(label)) for image, label in zip(x, y.argmax(1), strict=True)]
        return x


def methods(folder):
    """All methods, with all that training can do."""
    results = {}
    for name, (trainer, switches) in METHODS.items():
        classifier = make_classifier()
        adversarial = trainer(classifier, **ALL, **switches)
        history = adversarial.fit(
            *TRAIN,
            validation_data=VALIDATION,
            batch_size=BATCH,
            nb_epochs=3,
            scheduler=torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1, 0.7),
            keep="robust",
            checkpoint_dir=folder / name,
        )
        results[name] = end(classifier, history)
    return results


def sources(folder):
    """Wherever images come from."""
    results = {"array": train()}
    classifier = make_classifier()
    x = LazyImages(lambda i: TRAIN[0][i], np.arange(N), (1, 6, 6))
    trainer = acw.AdversarialTrainerStandardPyTorch(classifier, **SMALL)
    results["lazy"] = end(classifier, trainer.fit(x, TRAIN[1], batch_size=BATCH, nb_epochs=3))
    one_hot = np.eye(CLASSES, dtype=np.float32)[TRAIN[1]]
    tensors = torch.utils.data.TensorDataset(*map(torch.from_numpy, (TRAIN[0], one_hot)))
    torch.manual_seed(distributed.rank())  # what the global state was before must not matter
    np.random.seed(distributed.rank())
    loader = torch.utils.data.DataLoader(tensors, batch_size=BATCH, shuffle=True)
    for name, generator in {
        "NumPy generator": NumpyDataGenerator(TRAIN[0], one_hot, BATCH, drop_remainder=False, shuffle=True),
        "torch generator": PyTorchDataGenerator(loader, N, BATCH),
    }.items():
        classifier = make_classifier()
        trainer = acw.AdversarialTrainerMARTPyTorch(classifier, **SMALL, flip=True)
        results[name] = end(classifier, trainer.fit_generator(generator, nb_epochs=3, validation_data=VALIDATION))
    return results


def unlabelled(folder):
    """With images of which an epoch needs more than there are: of a batch of 32, 16 or 10; of the last one less."""
    x, y = UNLABELLED
    common = {"x_unlabeled": x, "gamma": 0.5, "validation_data": VALIDATION}
    results = {
        "given": train(options=ALL, y_pseudo=(y + (np.arange(61) % 4 == 0)) % CLASSES, **common),
        "in another ratio": train(y_pseudo=y, unlabeled_fraction=0.3, **common),
    }
    for name in ("made", "resumed"):  # when it ended: all that is left to do is to read what it kept
        classifier = make_classifier(seed=distributed.rank())
        trainer = acw.NaturalTrainerPyTorch(classifier, **SMALL)
        fit = {**common, "batch_size": BATCH, "nb_epochs": 12, "checkpoint_dir": folder / "unlabelled"}
        results[name] = end(classifier, trainer.fit(*TRAIN, resume=name == "resumed", **fit))
        results[name] |= {"labels": trainer.pseudo_labels.labels, "confidence": trainer.pseudo_labels.confidence}
    return results


def unlabelled_recorded(folder):
    """What is attacked in two epochs."""
    classifier = make_classifier()
    recorder = Recorder(classifier)
    trainer = acw.AdversarialTrainerStandardPyTorch(classifier, attack=recorder, verbose=False)
    x, y = UNLABELLED
    trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=2, x_unlabeled=x, y_pseudo=y)
    return recorder.seen


def recorded(folder):
    """What is attacked in an epoch."""
    classifier = make_classifier()
    recorder = Recorder(classifier)
    trainer = acw.AdversarialTrainerStandardPyTorch(classifier, attack=recorder, verbose=False)
    trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=1)
    return recorder.seen


def networks(folder):
    """What networks hold beside weights: buffers, which each process has its own of."""
    exact = {"trainer": acw.AdversarialTrainerMARTPyTorch, "options": {**SMALL, "exact": True}}
    return {
        "normed": train(normed, validation_data=VALIDATION),
        "normed, exact": train(normed, **exact),
        "normed, averaged": train(normed, options={**SMALL, "ema_decay": 0.9}, validation_data=VALIDATION),
        "normed, bf16": train(normed, options={**SMALL, "precision": "bf16"}),
    }


def starts(folder):
    """A script that seeds nothing: each process has other weights in the beginning."""
    return {
        "weights": train(seed=distributed.rank()),
        "averages": train(seed=distributed.rank(), options=ALL),
        "buffers": train(Noisy, seed=distributed.rank()),
    }


def unused(folder):
    return train(Unused)


def errors(folder):
    """Errors that all processes meet; the next thing they do together works."""
    said = {}

    def meet(name, call):
        try:
            call()
        except InputError as error:
            said[name] = str(error)

    classifier = make_classifier(lr=1e30)
    before = weights(classifier)
    trainer = acw.AdversarialTrainerStandardPyTorch(classifier, **SMALL)
    meet("diverged", lambda: trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=3, checkpoint_dir=folder / "diverged"))
    after = weights(classifier)
    train(nb_epochs=1, checkpoint_dir=folder / "used")
    meet("used", lambda: train(nb_epochs=1, checkpoint_dir=folder / "used"))
    meet("recipe", lambda: train(nb_epochs=2, checkpoint_dir=folder / "used", resume=True))
    trainer = acw.AdversarialTrainerStandardPyTorch(make_classifier(), **SMALL)
    meet("few", lambda: trainer.fit(TRAIN[0][:1], TRAIN[1][:1]))
    meet("small", lambda: trainer.fit(*TRAIN, batch_size=1))
    one_hot = np.eye(CLASSES, dtype=np.float32)[TRAIN[1]]
    generator = NumpyDataGenerator(TRAIN[0][:33], one_hot[:33], 32, drop_remainder=False)
    meet("generator", lambda: trainer.fit_generator(generator, nb_epochs=1))
    return {"said": said, "before": before, "after": after, "then": train()}


def unwritable(folder):
    """The main process meets a full disk."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        if distributed.is_main():
            patch.setattr(torch, "save", full)
        try:
            train(checkpoint_dir=folder / "full")
        except InputError as error:
            return {"said": str(error), "then": train()}


class Schedule(torch.optim.lr_scheduler.StepLR):
    stop_after = None

    def step(self, *args):
        super().step(*args)
        if self.last_epoch == self.stop_after:
            raise KeyboardInterrupt


def whole(folder, name="whole"):
    """A training of four epochs, which goes on from what the folder holds."""
    classifier = make_classifier()
    trainer = acw.AdversarialTrainerMARTPyTorch(classifier, **ALL)
    fit = {"validation_data": VALIDATION, "batch_size": BATCH, "nb_epochs": 4, "keep": "robust+worst"}
    schedule = Schedule(classifier.optimizer, 1, 0.7)
    return end(classifier, trainer.fit(*TRAIN, scheduler=schedule, checkpoint_dir=folder / name, resume=True, **fit))


def stopped(folder):
    """The same, stopped in its third epoch."""
    Schedule.stop_after = 3
    try:
        with pytest.raises(KeyboardInterrupt):
            whole(folder, "stopped")
    finally:
        Schedule.stop_after = None


def resumed(folder):
    """It goes on, from where one process stopped and from where two did."""
    return {name: whole(folder, name) for name in ("after one", "after two")}


def shown(folder):
    """The progress of two epochs."""
    train(options={**SMALL, "verbose": True}, nb_epochs=2)


def diverge(folder):
    """An error that nobody catches."""
    trainer = acw.AdversarialTrainerStandardPyTorch(make_classifier(lr=1e30), **SMALL)
    trainer.fit(*TRAIN, batch_size=BATCH, nb_epochs=100)


def main(folder, tasks):
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "The pseudo-labels have a mean confidence")
    warnings.simplefilter("ignore", ResourceWarning)  # older torch leaves a folder of its own to be cleaned at the end
    results, save = {"saved": []}, torch.save

    def spy(content, file, *args, **kwargs):
        if hasattr(file, "name"):  # and not a tensor that is sent to the other process
            results["saved"].append(Path(file.name).parent.name)
        return save(content, file, *args, **kwargs)

    torch.save = spy
    for task in tasks:
        results[task] = globals()[task](folder)
        (folder / f"{distributed.rank()}.pickle").write_bytes(pickle.dumps(results))


# What they leave behind.


class Run:
    """A run of this script: what its processes returned by task, and what it printed."""

    def __init__(self, folder, tasks):
        folder.mkdir(exist_ok=True)
        self.folder, self.processes = folder, 2
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *torchrun, __file__, str(folder), *tasks]
        path = os.pathsep.join([str(Path(processes.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "0"}
        environment["PYTHONPATH"] = path
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait(self):
        """Wait for its end; a run that hangs is stopped."""
        hung = ""
        try:
            output = self._process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            hung = "\nIt hung."
            self._process.terminate()  # torchrun ends its processes then
            output = self._process.communicate(timeout=60)
        self.stdout, self.stderr = (text.decode() for text in output)  # with progress's carriage returns
        self.stderr += hung
        self.returncode = self._process.returncode
        return self

    def of(self, task):
        """Return what each process returned."""
        files = [self.folder / f"{rank}.pickle" for rank in range(self.processes)]
        results = [pickle.loads(file.read_bytes()) if file.exists() else {} for file in files]
        assert all(task in result for result in results), f"{task} didn't end:\n{self.stderr[-5000:]}"
        return [result[task] for result in results]


def alone(folder, tasks):
    """What a run of one process does, its output in two files."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    main(folder, tasks)


class Alone(Run):
    """A run of one process, which needn't import everything anew."""

    def __init__(self, folder, tasks):
        folder.mkdir(exist_ok=True)
        self.folder, self.processes = folder, 1
        self._process = processes.Rank({"TQDM_DISABLE": 0}, __file__, "alone", folder, tasks)

    def wait(self):
        """Wait for its end."""
        self._process.result()
        self.stdout, self.stderr = ((self.folder / name).read_bytes().decode() for name in ("stdout", "stderr"))
        self.returncode = 0
        return self


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same script, plainly and under torchrun."""
    folder = tmp_path_factory.mktemp("ranks")
    tasks = ["methods", "sources", "recorded", "networks", "starts", "errors", "whole", "stopped", "shown"]
    tasks += ["unlabelled", "unlabelled_recorded"]
    started = [Alone(folder / "1", tasks), Run(folder / "2", tasks)]
    return [run.wait() for run in started]


@pytest.fixture(scope="module")
def later(runs, tmp_path_factory):
    """Others, which go on with what those left."""
    folder = tmp_path_factory.mktemp("ranks")
    for number in (1, 2):
        for name, run in zip(("after one", "after two"), runs, strict=True):
            run.of("stopped")
            shutil.copytree(run.folder / "stopped", folder / str(number) / name)
    started = [Alone(folder / "1", ["resumed"]), Run(folder / "2", ["resumed", "unused", "unwritable", "diverge"])]
    return [run.wait() for run in started]


def check_same(one, two):
    """Check that two processes' training is one's: the loss to 1e-4, and counts to an example."""
    first, second = (pd.DataFrame(result["history"]) for result in (one, two))
    assert list(first.columns) == list(second.columns)
    np.testing.assert_allclose(first["loss"], second["loss"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(first["learning_rate"], second["learning_rate"])
    for column in first.columns.drop(["epoch", "loss", "learning_rate"]):
        y = VALIDATION[1] if column.startswith("val_") else TRAIN[1]
        number = column.rpartition("_")[2]
        n = (y == int(number)).sum() if number.isdigit() else np.bincount(y).min() if number == "worst" else len(y)
        np.testing.assert_allclose(first[column], second[column], rtol=0, atol=1.01 / n, err_msg=column)
    for name, value in one["weights"].items():
        np.testing.assert_allclose(value, two["weights"][name], rtol=0, atol=1e-3, err_msg=name)


def check_both(results):
    """Check that both processes ended with the same, to the bit; return it."""
    first, second = results
    pd.testing.assert_frame_equal(*(pd.DataFrame(r["history"]) for r in results), check_exact=True)
    assert first["kept_epoch"] == second["kept_epoch"]
    for name, value in first["weights"].items():
        np.testing.assert_array_equal(value, second["weights"][name], err_msg=name)
    return first


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_curve_is_that_of_one_process(runs, name):
    (one,), two = (run.of("methods") for run in runs)
    check_same(one[name], check_both([result[name] for result in two]))
    losses = one[name]["history"]["loss"]
    assert losses[-1] < losses[0] - 0.01  # it does train


@pytest.mark.parametrize("name", ["array", "lazy", "NumPy generator", "torch generator"])
def test_data_are_shared_wherever_they_come_from(runs, name):
    (one,), two = (run.of("sources") for run in runs)
    check_same(one[name], check_both([result[name] for result in two]))


def test_images_read_as_needed_train_as_those_in_memory(runs):
    for result in [*runs[0].of("sources"), *runs[1].of("sources")]:
        assert result["lazy"]["history"]["loss"] == result["array"]["history"]["loss"]


def test_each_example_is_attacked_once_by_one_of_both(runs):
    everything = sorted((image.tobytes(), int(label)) for image, label in zip(*TRAIN, strict=True))
    assert len(set(everything)) == N
    (one,), (first, second) = (run.of("recorded") for run in runs)
    assert sorted(one) == everything
    assert sorted(first + second) == everything
    assert {len(first), len(second)} == {75, 76}  # 4 x 16 and 11 or 12 of the last batch


@pytest.mark.parametrize("name", ["given", "in another ratio", "made"])
def test_training_with_unlabelled_images_is_that_of_one_process(runs, name):
    (one,), two = (run.of("unlabelled") for run in runs)
    check_same(one[name], check_both([result[name] for result in two]))
    losses = one[name]["history"]["loss"]
    assert losses[-1] < losses[0] - 0.01


def test_pseudo_labels_are_made_together_and_kept_by_the_main_process(runs):
    (one,), (first, second) = (run.of("unlabelled") for run in runs)
    for name in ("made", "resumed"):
        for key in ("labels", "confidence"):
            np.testing.assert_array_equal(first[name][key], second[name][key])
            np.testing.assert_array_equal(first[name][key], first["made"][key])
        np.testing.assert_array_equal(one[name]["labels"], first[name]["labels"])
        np.testing.assert_allclose(one[name]["confidence"], first[name]["confidence"], rtol=0, atol=1e-3)
    assert (one["made"]["labels"] == UNLABELLED[1]).mean() > 0.8
    both = check_both([result["resumed"] for result in (first, second)])
    for key, value in first["made"]["weights"].items():
        np.testing.assert_array_equal(value, both["weights"][key])


def test_each_batch_has_its_labelled_and_unlabelled_examples_once_in_one_of_both(runs):
    (one,), (first, second) = (run.of("unlabelled_recorded") for run in runs)
    known = {image.tobytes(): "x" for image in TRAIN[0]} | {image.tobytes(): "u" for image in UNLABELLED[0]}
    assert len(known) == N + 61
    assert sorted(one) == sorted(first + second)
    assert [known[image] for image, _ in one].count("x") == [known[image] for image, _ in one].count("u") == 2 * N
    for seen in (first, second):  # each takes half of either kind; of the last batch's 7 one takes 3, the other 4
        kinds = [known[image] for image, _ in seen]
        assert {kinds.count("x"), kinds.count("u")} <= {2 * 75, 2 * 76}
    of_images = sorted(key for key, _ in one if known[key] == "u")
    counts = np.unique(of_images, return_counts=True)[1]
    assert counts.min() >= counts.max() - 1  # none comes a third time before all have come twice


@pytest.mark.parametrize("name", ["mart", "mart, exact"])
def test_accuracies_by_class_are_those_of_all_examples(runs, name):
    """A share's accuracies, or their mean, would be no whole numbers of the examples of a class."""
    history = pd.DataFrame(check_both([result[name] for result in runs[1].of("methods")])["history"])
    for prefix, (_, y) in {"": TRAIN, "val_": VALIDATION}.items():
        n = np.bincount(y, minlength=CLASSES)
        for kind in ("clean", "robust"):
            right = history[[f"{prefix}{kind}_{k}" for k in range(CLASSES)]].to_numpy() * n
            np.testing.assert_allclose(right, right.round(), rtol=0, atol=1e-9)
            np.testing.assert_allclose(right.sum(1) / len(y), history[f"{prefix}{kind}"], rtol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_the_best_epoch_is_kept_and_saved(runs, name):
    for run in runs:
        for result in run.of("methods"):
            accuracies = result[name]["history"]["val_robust"]
            assert result[name]["kept_epoch"] == 1 + int(np.argmax(accuracies))
            for key, value in trained_weights(run.folder / name).items():
                np.testing.assert_array_equal(result[name]["weights"][key], value.numpy())


def test_the_main_process_alone_saves_once_per_epoch(runs):
    (alone,), (first, second) = (run.of("saved") for run in runs)
    expected = (
        [name for name in METHODS for _ in range(4)] + ["diverged"] + 2 * ["used"] + 5 * ["whole"] + 3 * ["stopped"]
    )
    expected += 13 * ["unlabelled"]
    assert alone == first == expected
    assert second == []
    for run in runs:
        files = sorted(path.name for path in run.folder.glob("*/*") if path.name != "training.previous.pt")
        assert files == ["pseudo_labels.npz"] + ["training.pt"] * (len(METHODS) + 5)
        assert {path.name for path in run.folder.glob("*/.*")} == set()  # nothing half written


def test_the_main_process_alone_shows_progress_and_nobody_else_says_anything(runs):
    for run in runs:
        assert run.returncode == 0, run.stderr[-5000:]
        assert run.stdout == ""
        # What torch logs about the machine's network is not ours.
        lines = [line for line in run.stderr.split("\n") if line and not re.match(r"\[?W\d", line)]
        shown = [" ".join(line.split()[:4]) for line in lines]
        assert shown == ["Standard 50% epoch 1/2", "Standard 100% epoch 2/2"], run.stderr


@pytest.mark.parametrize("name", ["normed", "normed, exact", "normed, averaged", "normed, bf16"])
def test_without_shared_batch_norm_both_still_end_with_the_same(runs, name):
    """On CPUs each process normalises by its own share, and running statistics are averaged."""
    (one,), two = (run.of("networks") for run in runs)
    both = check_both([result[name] for result in two])
    np.testing.assert_allclose(both["history"]["loss"], one[name]["history"]["loss"], rtol=0, atol=0.02)
    for statistic in ("1.running_mean", "1.running_var"):
        key = next(k for k in both["weights"] if k.endswith(statistic))
        np.testing.assert_allclose(both["weights"][key], one[name]["weights"][key], rtol=0.1, atol=0.02)


@pytest.mark.parametrize("name", ["weights", "averages", "buffers"])
def test_without_a_seed_both_begin_with_what_the_main_process_has(runs, name):
    (one,), two = (run.of("starts") for run in runs)
    check_same(one[name], check_both([result[name] for result in two]))


def test_weights_that_no_logit_depends_on(later):
    results = later[1].of("unused")
    check_both(results)
    assert np.isfinite(results[0]["history"]["loss"]).all()


def test_errors_are_met_by_both_in_step(runs):
    (one,), (first, second) = (run.of("errors") for run in runs)
    assert first["said"] == second["said"]
    for name, says in {
        "diverged": "The loss was NaN or infinite in epoch 1, batch 2: lower the learning rate",
        "used": "used/training.pt holds a training after epoch 1: continue it with `resume=True`",
        "recipe": "nb_epochs was 1, but is 2",
    }.items():
        assert says in one["said"][name]
        assert says in first["said"][name]
    for name, says in {
        "few": "2 processes need as many examples or more",
        "small": "2 processes need a `batch_size` as large or larger, but got 1",
        "generator": "The generator gave a batch of 1, which 2 processes can't share",
    }.items():
        assert name not in one["said"]
        assert says in first["said"][name]
    for result in (one, first, second):
        for name, value in result["before"].items():
            np.testing.assert_array_equal(value, result["after"][name])
    check_same(one["then"], check_both([first["then"], second["then"]]))


def test_a_full_disk_is_met_by_both(later):
    """The other one would wait for ever for the main process."""
    results = later[1].of("unwritable")
    for result in results:
        assert "after epoch 0 can't be written" in result["said"]
        assert "No space left" in result["said"]
    check_both([result["then"] for result in results])


def test_an_error_ends_both_processes_at_once(later):
    run = later[1]
    assert run.returncode not in (0, -15)
    assert "It hung." not in run.stderr
    assert "DivergenceError: The loss was NaN or infinite in epoch 1, batch 2: lower the learning rate" in run.stderr
    assert run.stderr.count("Traceback (most recent call last):") <= 3  # theirs and torchrun's
    assert "exitcode  : 1" in run.stderr


@pytest.mark.parametrize("name", ["after one", "after two"])
@pytest.mark.slow
def test_training_goes_on_with_another_number_of_processes(runs, later, name):
    (whole_one,), whole_two = runs[0].of("whole"), check_both(runs[1].of("whole"))
    assert later[0].stderr == later[0].stdout == ""
    (one,), two = later[0].of("resumed"), check_both([result[name] for result in later[1].of("resumed")])
    for result in (one[name], two):
        assert result["history"]["epoch"] == [1, 2, 3, 4]
        check_same(whole_one, result)
        assert result["kept_epoch"] == whole_one["kept_epoch"]
    # As many processes as before: the same to the bit.
    uninterrupted, again = (whole_one, one[name]) if name == "after one" else (whole_two, two)
    assert again["history"]["loss"] == uninterrupted["history"]["loss"]
    for key, value in uninterrupted["weights"].items():
        np.testing.assert_array_equal(value, again["weights"][key])


# What can be seen without other processes.


@pytest.fixture
def of_two(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 16])
def test_shares_are_a_partition_into_nearly_equal_parts(processes, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    for n in [*range(40), 127, 128, 1001]:
        shares = []
        for rank in range(processes):
            monkeypatch.setenv("RANK", str(rank))
            shares.append(list(range(n))[distributed.share(n)])
        assert [*chain(*shares)] == list(range(n))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batches_of_all_processes_are_those_of_one(monkeypatch):
    """For all sizes: the same batches, each shared without overlap, and nobody's share is empty."""
    x, y = torch.arange(64.0).view(64, 1, 1, 1), torch.zeros(64, dtype=torch.int64)

    def batches(n, size, processes):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        found = []
        for rank in range(processes):
            monkeypatch.setenv("RANK", str(rank))
            source = DeviceSource(x[:n], y[:n], None, ShuffledOrder(n, size, 3), Augmentation(), torch.device("cpu"))
            found.append([(batch.ids.tolist(), batch.size) for batch in source.batches(1)])
            assert len(found[-1]) == source.n_batches
        return found

    for n in range(2, 65):
        for size in (2, 5, 16, 64):
            (alone,), shared = batches(n, size, 1), batches(n, size, 2)
            joined = [[*chain(*(ids for ids, _ in parts))] for parts in zip(*shared, strict=True)]
            assert joined == [ids for ids, _ in alone]
            assert sorted(chain(*joined)) == list(range(n))
            assert all(ids for process in shared for ids, _ in process)
            assert all(len(ids) == parts[0][1] for ids, parts in zip(joined, zip(*shared, strict=True), strict=True))


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.deep = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3, momentum=0.3, eps=1e-3)))
        self.flat = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12, affine=False), nn.Linear(12, 2))

    def forward(self, x):
        return self.flat(self.deep(self.first(x)))


def test_batch_norms_are_synchronised_within_the_block_and_share_their_tensors(of_two):
    model = Norms()
    model.deep[1].eval()  # one that is frozen
    own, state = list(model.named_modules()), {name: id(t) for name, t in model.state_dict(keep_vars=True).items()}
    with synchronised_batch_norms(model, torch.device("cuda")):
        for name, module in own:
            other = model.get_submodule(name)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert type(other) is nn.SyncBatchNorm
                assert (other.momentum, other.eps, other.training) == (module.momentum, module.eps, module.training)
            else:
                assert other is module
        # In the same order, too: averages go along them.
        assert [*state.items()] == [(name, id(t)) for name, t in model.state_dict(keep_vars=True).items()]
        for layer in model.modules():
            if isinstance(layer, nn.SyncBatchNorm) and layer.affine:
                layer.weight.grad = torch.ones(3)
                layer.weight.data.add_(1)
            if isinstance(layer, nn.SyncBatchNorm):
                layer.running_mean.add_(2)
                layer.num_batches_tracked.add_(3)
    assert [*model.named_modules()] == own
    assert [*state.items()] == [(name, id(t)) for name, t in model.state_dict(keep_vars=True).items()]
    assert model.first.weight.grad is not None
    assert model.first.weight.tolist() == [2, 2, 2]
    assert model.flat[1].running_mean.tolist() == [2] * 12
    assert int(model.flat[1].num_batches_tracked) == 3


def test_batch_norms_are_back_after_an_error(of_two):
    model = Norms()
    own = list(model.named_modules())
    with pytest.raises(RuntimeError, match="of the block"), synchronised_batch_norms(model, torch.device("cuda")):
        raise RuntimeError("of the block")
    assert [*model.named_modules()] == own


@pytest.mark.parametrize(("processes", "device"), [(1, "cuda"), (2, "cpu")])
def test_batch_norms_stay_where_there_is_nothing_to_synchronise_or_no_way(processes, device, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: processes)
    model = Norms()
    own = list(model.named_modules())
    with synchronised_batch_norms(model, torch.device(device)):
        assert [*model.named_modules()] == own


def test_processes_that_share_a_gpu_are_told(of_two, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="computes on cuda:0, but should on cuda:1"):
        distributed.join(torch.device("cuda:0"))


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    distributed.use_own_gpu()
    assert taken == [1]
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.use_own_gpu()
    assert taken == [1]


def test_alone_nothing_is_asked_of_others():
    values = torch.tensor([1.0, 2.0])
    distributed.join(torch.device("cpu"))
    assert distributed.world() == 1
    assert distributed.is_main()
    assert distributed.sum_(values) is distributed.largest(values) is values
    assert values.tolist() == [1, 2]
    assert distributed.from_main(lambda: 3) == 3
    assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
