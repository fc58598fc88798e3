"""A training that was killed, or failed, goes on from its checkpoint to the same bits.

Run as a script this file trains in processes of its own, for the tests here to kill: see ``serve``.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, TensorDataset

import art_classwise as acw
from art_classwise import InputError
from art_classwise.errors import DivergenceError
from art_classwise.trainers import policies, trained_weights, training_history
from art_classwise.trainers.engine.checkpoint import finished_epochs

BAT, MART, STANDARD, TRADES = (
    acw.AdversarialTrainerBATPyTorch,
    acw.AdversarialTrainerMARTPyTorch,
    acw.AdversarialTrainerStandardPyTorch,
    acw.AdversarialTrainerTRADESPyTorch,
)
EPOCHS, BATCH, BATCHES = 4, 32, 3  # of 96 examples
KEPT = ["training.previous.pt", "training.pt"]
EVERYTHING = {
    "ema_decay": 0.9,
    "awp_gamma": 0.01,
    "awp_warmup": 1,
    "gradient_clip": 0.5,
    "crop_padding": 1,
    "flip": True,
}

# Of itself: torch 2.6's SequentialLR calls step(0).
pytestmark = pytest.mark.filterwarnings("ignore:The epoch parameter in .scheduler.step:UserWarning")


@functools.cache
def train_set():
    return acw.load_dataset("digits", "train").first(BATCH * BATCHES)


@functools.cache
def validation():
    some = acw.load_dataset("digits", "test").first(40)
    return some.x, some.y


def network(width=4):
    """Convolution, batch norm and dropout: buffers and random numbers matter."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(9 * width, 10),
    )


def sgd(parameters, **options):
    return SGD(parameters, **{"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3} | options)


def adamw(parameters):
    return AdamW(parameters, lr=0.01)


def make(optimizer=sgd, scheduler=None, module=network, trainer=TRADES, parameters=nn.Module.parameters, **options):
    """A fresh trainer, with its fresh scheduler, if any."""
    model = module()
    made = optimizer(parameters(model))
    classifier = acw.as_classifier(model, (1, 8, 8), 10, optimizer=made, device="cpu")
    trainer = trainer(classifier, **{"eps": 0.1, "max_iter": 1, "verbose": False} | options)
    return trainer, None if scheduler is None else scheduler(made)


def fit(made, folder=None, *, resume=False, **options):
    trainer, scheduler = made
    data = train_set()
    options = {"x": data.x, "y": data.y, "batch_size": BATCH, "nb_epochs": EPOCHS} | options
    return trainer.fit(**options, scheduler=scheduler, checkpoint_dir=folder, resume=resume)


def weights(made):
    trainer, _ = made
    return {name: value.clone() for name, value in trainer.get_classifier().model.state_dict().items()}


def saved(folder):
    return torch.load(Path(folder) / "training.pt", weights_only=True)


def difference(a, b, where=""):
    """Where two nested values differ by a bit, apart from how long they took; None if nowhere."""
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        a, b = ({**table.to_dict("list"), **table.attrs} for table in (a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{where}: {a.keys() ^ b.keys()}"
        return next(filter(None, (difference(a[k], b[k], f"{where}.{k}") for k in a if k != "images_per_second")), None)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"{where}: {len(a)} or {len(b)} long"
        found = (difference(p, q, f"{where}[{i}]") for i, (p, q) in enumerate(zip(a, b, strict=True)))
        return next(filter(None, found), None)
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    else:
        same = type(a) is type(b) and (a == b or (a != a and b != b))
    return None if same else f"{where}: {a} or {b}"


class Stopped(KeyboardInterrupt):
    pass


def stop_before(made, epoch, batch, n_batches=BATCHES):
    """Interrupt the training at the step of a batch, counted from 0 as epochs are; once."""
    trainer, _ = made
    steps = 0

    def hook(optimizer, args, options):
        nonlocal steps
        steps += 1
        if steps == epoch * n_batches + batch + 1:
            handle.remove()
            raise Stopped

    handle = trainer.get_classifier().optimizer.register_step_pre_hook(hook)
    return made


def forbid_training(made):
    def hook(module, _):
        assert not module.training

    made[0].get_classifier().model.register_forward_pre_hook(hook)
    return made


# Killed processes


def everything():
    options = EVERYTHING | {"max_iter": 2, "label_smoothing": 0.1}
    return make(scheduler=lambda o: schedules.OneCycleLR(o, 0.2, total_steps=LONG * BATCHES), **options)


LONG = 8


def train(folder):
    """Train with everything on, going on from what the folder holds; return all that must be the same.

    With wrong labels to validate on the first epochs look best, so what is kept is long past in the end.
    """
    made = everything()
    x, y = validation()
    options = {"scheduler_interval": "step", "keep": "robust+worst", "validation_data": (x, (y + 1) % 10)}
    history = fit(made, folder, resume=True, nb_epochs=LONG, **options)
    return {"weights": weights(made), "history": {**history.to_dict("list"), **history.attrs}}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(moment, epoch=0):
    """Have this process kill itself at a moment of writing.

    Args:
        moment: "half", "written" or "renamed": the checkpoint of the epoch is so far; "probing": there is a file
            to see whether the folder can be written.
        epoch: Counted from 1.
    """
    real_sync, real_replace = os.fsync, Path.replace

    def sync(file):
        real_sync(file)
        aside = Path(os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"))
        if moment in ("half", "written") and torch.load(aside, weights_only=True)["epoch"] == epoch:
            if moment == "half":
                os.truncate(aside, aside.stat().st_size // 2)
            die()

    def replace(self, target):
        moved = real_replace(self, target)
        if moment == "renamed" and torch.load(target, weights_only=True)["epoch"] == epoch:
            die()
        return moved

    def made(make):
        return lambda **options: die(make(**options))

    os.fsync, Path.replace = sync, replace
    if moment == "probing":
        for name in ("NamedTemporaryFile", "TemporaryFile", "mkstemp"):
            setattr(tempfile, name, made(getattr(tempfile, name)))


def fill_disk_before(epoch):
    """Let files grow no longer than half a checkpoint from the given epoch on: what comes after it meets an error."""
    import resource

    real_save = torch.save

    def save(content, file):
        if content["epoch"] >= epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        try:
            real_save(content, file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    torch.save = save


def serve():
    """For each line of input train in a process of its own and print its number; after one more, how it ended."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        train(folder)  # what is imported on the way is imported once
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for seed in (random.seed, np.random.seed, torch.seed):  # from the operating system
                    seed()
                if "kill" in job:
                    kill_at(*job["kill"])
                save = torch.save
                if "fill" in job:
                    fill_disk_before(job["fill"])
                try:
                    result = train(job["folder"])
                except InputError as error:
                    result = {"error": str(error)}
                save(result, job["result"])
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)
        sys.stdin.readline()  # until then the number is no other process's, even if this one has ended
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Server:
    """Starts trainings in other processes, one at a time."""

    def __init__(self, folder):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._result = folder / "result.pt"
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, folder, **job):
        """Return the number of the process that trains now."""
        self._result.unlink(missing_ok=True)
        self._write(json.dumps({"folder": str(folder), "result": str(self._result), **job}))
        return int(self._process.stdout.readline())

    def end(self):
        """Return how it ended, and with what."""
        self._write("")
        code = int(self._process.stdout.readline())
        return code, torch.load(self._result, weights_only=True) if code == 0 else None

    def _write(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def run(self, folder, **job):
        self.start(folder, **job)
        return self.end()

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not sys.platform.startswith("linux"):
        pytest.skip("needs fork and /proc")
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the training ends with, its checkpoint, and the time of an epoch: in this process, which nobody kills."""
    train(tmp_path_factory.mktemp("first"))  # imports more
    folder = tmp_path_factory.mktemp("uninterrupted")
    began = time.perf_counter()
    result = train(folder)
    return result, saved(folder), (time.perf_counter() - began) / LONG


def ended(process):
    """Whether it has, and only waits for its parent to hear of it."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def aside(folder):
    """The files that are being written, or were."""
    return [name for name in os.listdir(folder) if name.startswith(".training.pt.") and name.endswith(".tmp")]


def check_end(folder, result, uninterrupted):
    expected, checkpoint, _ = uninterrupted
    assert difference(result, expected) is None
    assert difference(saved(folder), checkpoint) is None
    assert sorted(os.listdir(folder)) == KEPT


def killed_at_random(server, folder, epoch_time):
    """Start and kill until it ends; return when it was killed, the epoch it had come to, and the end."""
    moments = []
    while True:
        process = server.start(folder)
        if len(moments) < 12:  # else it may never end
            delay = random.SystemRandom().uniform(0, 3 * epoch_time)
            time.sleep(delay)
            os.kill(process, signal.SIGKILL)
            moments.append((delay, saved(folder)["epoch"] if (folder / "training.pt").exists() else 0))
        code, result = server.end()
        if code != -signal.SIGKILL:
            assert code == 0
            return moments, result


def test_killed_at_random_moments_it_ends_with_the_same_bits(server, uninterrupted, tmp_path):
    for number in range(5):  # once is enough; on a busy machine all kills may come too early, or too late
        folder = tmp_path / str(number)
        folder.mkdir()
        moments, result = killed_at_random(server, folder, uninterrupted[2])
        print("killed after (seconds, at epoch):", moments)
        check_end(folder, result, uninterrupted)
        if any(0 < epoch < LONG for _, epoch in moments):
            return
    pytest.fail(f"No kill came in the middle: an epoch takes {uninterrupted[2]} seconds here.")


def test_killed_while_it_writes_it_ends_with_the_same_bits(server, uninterrupted, tmp_path):
    """First checkpoint or not, half written, whole or just renamed: what is left is the last whole one."""
    kills = [("half", 1), ("written", 1), ("renamed", 1), ("half", 3), ("written", 4), ("renamed", 4), ("half", LONG)]
    whole = 0
    for moment, epoch in kills:
        code, _ = server.run(tmp_path, kill=[moment, epoch])
        assert code == -signal.SIGKILL, (moment, epoch)
        whole = epoch if moment == "renamed" else epoch - 1
        if whole:
            assert saved(tmp_path)["epoch"] == whole
        assert len(aside(tmp_path)) == (moment != "renamed")
    code, result = server.run(tmp_path)
    assert code == 0
    check_end(tmp_path, result, uninterrupted)


def test_killed_as_soon_as_a_file_is_seen_beside_the_checkpoint(server, uninterrupted, tmp_path):
    """By another process, so at a moment that the code itself has no part in."""
    left = 0
    for _ in range(LONG):
        process = server.start(tmp_path)
        time.sleep(random.SystemRandom().uniform(0, 3 * uninterrupted[2]))  # not always the first
        while not ended(process) and not aside(tmp_path):
            pass
        os.kill(process, signal.SIGKILL)
        server.end()
        left += len(aside(tmp_path))
    print("killed while there was such a file:", left)
    code, result = server.run(tmp_path)
    assert code == 0
    check_end(tmp_path, result, uninterrupted)


def test_killed_while_it_sees_whether_the_folder_can_be_written_it_leaves_nothing(server, uninterrupted, tmp_path):
    code, _ = server.run(tmp_path, kill=["probing"])
    assert code == -signal.SIGKILL
    code, result = server.run(tmp_path)
    assert code == 0
    check_end(tmp_path, result, uninterrupted)


def test_a_full_disk_leaves_the_checkpoint_of_the_epoch_before(server, uninterrupted, tmp_path):
    code, nothing = server.run(tmp_path, fill=0)
    assert code == 0
    assert "after epoch 0 can't be written" in nothing["error"]
    assert "There was none before" in nothing["error"]
    assert list(tmp_path.iterdir()) == []
    code, _ = server.run(tmp_path, kill=["renamed", 2])
    before = (tmp_path / "training.pt").read_bytes()
    code, result = server.run(tmp_path, fill=3)
    assert code == 0
    assert str(tmp_path / "training.pt") in result["error"]
    assert "after epoch 3 can't be written" in result["error"]
    assert "The one of epoch 2 is intact" in result["error"]
    assert "\n" not in result["error"]
    assert (tmp_path / "training.pt").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == KEPT
    # What the system says of it, and not where in torch's code it was noticed.
    assert "File too large" in result["error"]
    assert ".cc:" not in result["error"]
    code, result = server.run(tmp_path)
    assert code == 0
    check_end(tmp_path, result, uninterrupted)


# Interrupted in this process, and gone on with in another's stead: a fresh network, optimizer and scheduler


class Falling:
    """A scheduler that has only step()."""

    def __init__(self, optimizer):
        self.optimizer, self.done = optimizer, 0

    def step(self):
        self.done += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1 / (1 + self.done)


class Halving(Falling):
    """One whose state is the learning rate itself."""

    def step(self):
        for group in self.optimizer.param_groups:
            group["lr"] /= 2


class Watching(Falling):
    """One that is told how the training goes."""

    def step(self, metrics):
        for group in self.optimizer.param_groups:
            group["lr"] = 0.05 * metrics


class WithState(Falling):
    """One that can be stored."""

    def state_dict(self):
        return {"done": self.done, "table": torch.arange(4.0)}

    def load_state_dict(self, state):
        assert torch.equal(state["table"], torch.arange(4.0))
        self.done = state["done"]


class OnlyTells(Falling):
    """One that tells its state, but takes none."""

    def state_dict(self):
        return {"done": self.done}


class Factor:
    """What LambdaLR stores, unlike a function."""

    def __init__(self, base):
        self.base = base

    def __call__(self, epoch):
        return self.base**epoch


class Untold(Factor):
    """What it would store, but a file can't hold safely."""

    def __init__(self, base):
        super().__init__(base)
        self.function = abs


def plateau(optimizer, mode="min"):
    """Lowers the rate after every epoch: none is better than the first by so much."""
    return schedules.ReduceLROnPlateau(optimizer, mode, patience=0, threshold=100.0, threshold_mode="abs")


def warm(second):
    def chain(optimizer):
        return schedules.SequentialLR(optimizer, [schedules.LinearLR(optimizer, 0.1, 1.0, 2), second(optimizer)], [2])

    return chain


SCHEDULES = {
    "none": (None, "epoch"),
    "steps": (lambda o: schedules.MultiStepLR(o, [1, 3]), "epoch"),
    "cosine": (lambda o: schedules.CosineAnnealingLR(o, EPOCHS), "epoch"),
    "one cycle": (lambda o: schedules.OneCycleLR(o, 0.2, total_steps=EPOCHS * BATCHES), "step"),
    "restarts": (lambda o: schedules.CosineAnnealingWarmRestarts(o, 2, 2), "step"),
    "warm-up, cosine": (warm(lambda o: schedules.CosineAnnealingLR(o, 2)), "epoch"),
    "warm-up, steps": (warm(lambda o: schedules.MultiStepLR(o, [1])), "epoch"),
    "function": (lambda o: schedules.LambdaLR(o, lambda epoch: 0.7**epoch), "epoch"),
    "function, by step": (lambda o: schedules.LambdaLR(o, lambda epoch: 0.9**epoch), "step"),
    "callable": (lambda o: schedules.LambdaLR(o, Factor(0.7)), "epoch"),
    "callable that can't be stored": (lambda o: schedules.LambdaLR(o, Untold(0.9)), "step"),
    "plateau of the loss": (plateau, "epoch"),
    "plateau of robust accuracy": (lambda o: plateau(o, "max"), "epoch"),
    "only step": (Falling, "epoch"),
    "only step, by step": (Falling, "step"),
    "halving": (Halving, "epoch"),
    "watching": (Watching, "epoch"),
    "with a tensor in its state": (WithState, "step"),
    "with a state it can't take": (OnlyTells, "epoch"),
}


def check_resumed(folder, again, expected, **options):
    """Go on with what was interrupted, and compare with the same one uninterrupted, its file included."""
    history = fit(expected, folder / "whole", **options)
    resumed = fit(again, folder / "parts", resume=True, **options)
    assert difference(resumed, history) is None
    assert difference(weights(again), weights(expected)) is None
    assert difference(saved(folder / "parts"), saved(folder / "whole")) is None


def interrupt(made, folder, *, epoch=2, batch=1, **options):
    with pytest.raises(Stopped):
        fit(stop_before(made, epoch, batch), folder / "parts", **options)
    return saved(folder / "parts")["epoch"]


IN_TURN = [(name, (sgd, adamw)[i % 2]) for i, name in enumerate(SCHEDULES)]


@pytest.mark.parametrize(("name", "optimizer"), [*IN_TURN, ("none", adamw), ("one cycle", sgd)])
def test_a_fresh_optimizer_and_scheduler_go_on_where_the_others_stopped(name, optimizer, tmp_path):
    schedule, interval = SCHEDULES[name]
    made = functools.partial(make, optimizer, schedule)
    for epoch in (1, 3):
        folder = tmp_path / str(epoch)
        assert interrupt(made(), folder, epoch=epoch, scheduler_interval=interval) == epoch
        check_resumed(folder, made(), made(), scheduler_interval=interval)


STORED = ("none", "steps", "cosine", "one cycle", "restarts", "warm-up, cosine", "function", "callable")


@pytest.mark.parametrize("name", [*STORED, "plateau of the loss", "plateau of robust accuracy"])
def test_the_same_objects_go_on_after_an_interruption(name, tmp_path):
    """As in a notebook: they are elsewhere by now, but that is no other recipe."""
    schedule, interval = SCHEDULES[name]
    for epoch in (0, 2):  # in the first epoch, too: the state from before it is kept
        made, folder = make(sgd, schedule), tmp_path / str(epoch)
        assert interrupt(made, folder, epoch=epoch, scheduler_interval=interval) == epoch
        check_resumed(folder, made, make(sgd, schedule), scheduler_interval=interval)


def test_what_has_not_been_trained_is_no_loss(tmp_path):
    """Interrupted in its first epoch, another training may take the folder without being asked to resume."""
    interrupt(make(), tmp_path, epoch=0)
    with pytest.raises(InputError, match="was .*, but is"):
        fit(make(awp_gamma=0.01), tmp_path / "parts", resume=True)
    fit(make(awp_gamma=0.01), tmp_path / "parts")
    assert saved(tmp_path / "parts")["recipe"]["awp_gamma"] == 0.01


@pytest.mark.parametrize("name", ["only step", "only step, by step"])
def test_the_same_scheduler_is_refused_where_nobody_can_put_it_back(name, tmp_path):
    """It is ahead of the checkpoint, and would be taken further still; the moved learning rate gives it away."""
    schedule, interval = SCHEDULES[name]
    made = make(sgd, schedule)
    interrupt(made, tmp_path, scheduler_interval=interval)
    done = made[1].done
    with pytest.raises(InputError, match=r"lr was 0\.1, but is"):
        fit(made, tmp_path / "parts", resume=True, scheduler_interval=interval)
    assert made[1].done == done
    check_resumed(tmp_path, make(sgd, schedule), make(sgd, schedule), scheduler_interval=interval)


OPTIMIZERS = {
    "adam": lambda p: Adam(p, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p),
    "a tensor for a rate": lambda p: Adam(p, lr=torch.tensor(0.01)),
    "numpy's numbers": lambda p: sgd(p, lr=np.float64(0.1), momentum=np.float32(0.5), weight_decay=np.float64(1e-3)),
    "two groups": lambda p: apart(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_other_optimizers_go_on_as_well(name, tmp_path):
    made = functools.partial(make, OPTIMIZERS[name])
    interrupt(made(), tmp_path)
    check_resumed(tmp_path, made(), made())


@pytest.mark.parametrize(
    "options",
    [
        {"trainer": MART, "exact": True},
        {"trainer": STANDARD},
        {"trainer": BAT, "exact": True},
        {"passes": "cac|c", "attack_mode": "train", "awp_gamma": 0.01},
        {"precision": "bf16", "ema_decay": 0.9, "gradient_clip": 0.1},  # laid out channels last
        {"ema_decay": np.float64(0.9), "gradient_clip": np.float32(0.5), "label_smoothing": np.float64(0.1)},
        {"eps": np.float64(0.1), "eps_step": np.float32(0.05), "max_iter": np.int64(1), "seed": np.int64(7)},
    ],
)
def test_other_options_go_on_as_well(options, tmp_path):
    made = functools.partial(make, **options)
    chosen = {"keep": "robust", "validation_data": validation()}
    interrupt(made(), tmp_path, **chosen)
    check_resumed(tmp_path, made(), made(), **chosen)


def under_attack(attack, trainer=TRADES, optimizer=sgd, **parameters):
    """A trainer with an attack of ART's in place of the built-in one."""
    made, _ = make(optimizer)
    classifier = made.get_classifier()
    attack = attack(classifier, **{"eps": 0.1} | parameters)
    return trainer(classifier, attack=attack, verbose=False), None


def test_an_attack_of_art_goes_on_as_well(tmp_path):
    def made():
        options = {"eps_step": 0.05, "max_iter": 2, "num_random_init": 1, "verbose": False}
        return under_attack(ProjectedGradientDescent, **options)

    interrupt(made(), tmp_path)
    check_resumed(tmp_path, made(), made())


class Lazy:
    """Images that are read as needed."""

    def __init__(self, x):
        self._x, self.shape = x, x.shape

    def __len__(self):
        return len(self._x)

    def __getitem__(self, rows):
        return self._x[rows]


def test_images_read_as_needed_go_on_as_well(tmp_path):
    x = Lazy(train_set().x)
    interrupt(make(**EVERYTHING), tmp_path, epoch=1, batch=2, x=x)
    check_resumed(tmp_path, make(**EVERYTHING), make(**EVERYTHING), x=x)


def test_interrupted_by_its_scheduler_and_again_and_again(tmp_path, monkeypatch):
    """The last step of an epoch is before its checkpoint: that epoch is trained once more."""
    schedule, interval = SCHEDULES["one cycle"]
    real, steps = schedules.OneCycleLR.step, []
    made = functools.partial(make, sgd, schedule, ema_decay=0.9)
    options = {"scheduler_interval": interval}

    def step(self, epoch=None):
        steps.append(self)
        if len(steps) == 1 + 2 * BATCHES:  # the first is taken when the scheduler is made
            raise Stopped
        return real(self, epoch)

    for resume in (False, True):
        steps.clear()
        with monkeypatch.context() as patched:
            patched.setattr(schedules.OneCycleLR, "step", step)
            with pytest.raises(Stopped):
                fit(made(), tmp_path / "parts", resume=resume, **options)
        assert saved(tmp_path / "parts")["epoch"] == 1 + resume
    check_resumed(tmp_path, made(), made(), **options)


def test_interrupted_while_it_writes_leaves_the_file_before_and_nothing_aside(tmp_path, monkeypatch):
    real = torch.save

    def save(content, file):
        real(content, file)
        if content["epoch"] == 3:
            raise Stopped

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(Stopped):
        fit(make(), tmp_path / "parts")
    monkeypatch.undo()
    assert saved(tmp_path / "parts")["epoch"] == 2
    assert sorted(os.listdir(tmp_path / "parts")) == KEPT
    check_resumed(tmp_path, make(), make())


def numpy_generator(batch_size=BATCH, drop_remainder=True):
    one_hot = np.eye(10, dtype=np.float32)[train_set().y]
    return NumpyDataGenerator(
        train_set().x, one_hot, batch_size=batch_size, shuffle=True, drop_remainder=drop_remainder
    )


def torch_generator(drop_last):
    one_hot = np.eye(10, dtype=np.float32)[train_set().y]
    pairs = TensorDataset(torch.from_numpy(train_set().x), torch.from_numpy(one_hot))
    return PyTorchDataGenerator(DataLoader(pairs, 40, shuffle=True, drop_last=drop_last), len(pairs), 40)


@pytest.mark.parametrize("attacked_by", [None, ProjectedGradientDescent])
@pytest.mark.parametrize(
    "generator",
    [
        numpy_generator,
        functools.partial(numpy_generator, 40, drop_remainder=False),
        # These begin anew, and shuffle, within an epoch of training, after attack and dropout have drawn.
        functools.partial(numpy_generator, 40),
        functools.partial(torch_generator, drop_last=True),
        functools.partial(torch_generator, drop_last=False),
    ],
)
def test_a_generator_goes_on_where_it_stopped(generator, attacked_by, tmp_path):
    def made():
        if attacked_by is None:
            return make()
        options = {"eps_step": 0.05, "max_iter": 1, "num_random_init": 1, "verbose": False}
        return under_attack(attacked_by, **options)

    def run(made, folder, resume=False):
        return made[0].fit_generator(generator(), nb_epochs=EPOCHS, checkpoint_dir=tmp_path / folder, resume=resume)

    whole, parts = made(), made()
    history = run(whole, "whole")
    for resume in (False, True):  # in the second of four epochs, and from there in the third
        with pytest.raises(Stopped):
            run(stop_before(made(), 1, 1), "parts", resume)
    assert saved(tmp_path / "parts")["epoch"] == 2
    resumed = run(parts, "parts", True)
    assert difference(resumed, history) is None
    assert difference(weights(parts), weights(whole)) is None
    assert difference(saved(tmp_path / "parts"), saved(tmp_path / "whole")) is None


# What is resumed, what is refused


def test_resume_starts_anew_where_there_is_nothing(tmp_path):
    plain, anew = make(), make()
    history = fit(plain)
    assert difference(fit(anew, tmp_path / "a" / "b", resume=True), history) is None
    assert difference(weights(anew), weights(plain)) is None
    assert history.attrs["kept_epoch"] == EPOCHS


def test_a_finished_training_is_returned_at_once(tmp_path):
    first, again = make(**EVERYTHING), make(**EVERYTHING)
    options = {"keep": "robust", "validation_data": validation()}
    history = fit(first, tmp_path, **options)
    before = (tmp_path / "training.pt").read_bytes()
    returned = fit(forbid_training(again), tmp_path, resume=True, **options)
    pd.testing.assert_frame_equal(returned, history, check_exact=True)  # the time it took included
    assert returned.attrs == history.attrs
    assert difference(weights(again), weights(first)) is None
    assert (tmp_path / "training.pt").read_bytes() == before


def test_without_resume_a_training_that_is_there_is_refused(tmp_path):
    fit(make(), tmp_path, nb_epochs=2)
    before, made = (tmp_path / "training.pt").read_bytes(), make()
    fresh = weights(made)
    for options in ({}, {"batch_size": 16}):
        with pytest.raises(InputError, match=r"training\.pt holds a training after epoch 2: .*resume=True.*another"):
            fit(forbid_training(made), tmp_path, nb_epochs=2, **options)
    assert (tmp_path / "training.pt").read_bytes() == before
    assert difference(weights(made), fresh) is None
    with pytest.raises(InputError, match="`resume=True` needs a `checkpoint_dir`"):
        fit(made, resume=True)


def cosine(optimizer, epochs=EPOCHS):
    return schedules.CosineAnnealingLR(optimizer, epochs)


def weighted(parameters, **options):
    return AdamW(parameters, **{"lr": 0.01} | options)


def frozen():
    module = network()
    module[0].requires_grad_(False)
    return module


def half(module):
    return module[5].parameters()


def apart(parameters):
    first, *others = parameters
    return sgd([{"params": first, "lr": 0.01}, {"params": others}])


other_x = train_set().x[::-1].copy()
other_y = (train_set().y + 1) % 10
CHANGES = [  # of the trainer, of fit; how it was and is, in the message
    ({"eps": 0.2, "eps_step": 0.025}, {}, r"threat was .*0\.1.*, but is .*0\.2"),
    ({"norm": 2, "eps_step": 0.025}, {}, r"threat was .*Linf.*, but is .*L2"),
    ({"eps_step": 0.05}, {}, r"eps_step was 0\.025, but is 0\.05"),
    ({"max_iter": 2}, {}, "max_iter was 1, but is 2"),
    ({"beta": 5.0}, {}, r"beta was 6\.0, but is 5\.0"),
    ({"seed": 1}, {}, "seed was 0, but is 1"),
    ({"crop_padding": 1}, {}, "crop_padding was 0, but is 1"),
    ({"flip": True}, {}, "flip was False, but is True"),
    ({"label_smoothing": 0.1}, {}, r"label_smoothing was 0\.0, but is 0\.1"),
    ({"gradient_clip": 1.0}, {}, r"gradient_clip was None, but is 1\.0"),
    ({"ema_decay": 0.9}, {}, r"ema_decay was None, but is 0\.9"),
    ({"awp_gamma": 0.01}, {}, r"awp_gamma was 0\.0, but is 0\.01"),
    ({"awp_warmup": 1}, {}, "awp_warmup was 0, but is 1"),
    ({"passes": "cac"}, {}, "passes was None, but is 'cac'"),
    ({"attack_mode": "train"}, {}, "attack_mode was None, but is 'train'"),
    ({"precision": "bf16"}, {}, "precision was 'auto', but is 'bf16'"),
    ({"trainer": STANDARD}, {}, "trainer was '.*TRADES.*', but is '.*Standard.*'"),
    ({"trainer": MART, "beta": 6.0}, {}, "trainer was '.*TRADES.*', but is '.*MART.*'"),
    ({"module": lambda: network(5)}, {}, r"0\.weight was \[4, 1, 3, 3\], but is \[5, 1, 3, 3\]"),
    ({"module": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))}, {}, r"weight was .*, but is"),
    ({"module": frozen}, {}, "was .*, but is"),
    ({"optimizer": weighted}, {}, "optimizer.* was 'SGD', but is 'AdamW'"),
    ({"optimizer": functools.partial(sgd, lr=0.2)}, {}, r"lr was 0\.1, but is 0\.2"),
    ({"optimizer": functools.partial(sgd, momentum=0.8)}, {}, r"momentum was 0\.9, but is 0\.8"),
    ({"optimizer": functools.partial(sgd, nesterov=False)}, {}, "nesterov was True, but is False"),
    ({"optimizer": functools.partial(sgd, weight_decay=0.0)}, {}, r"weight_decay was 0\.001, but is 0\.0"),
    ({"optimizer": apart}, {}, r"optimizer.* was .*, but is .*"),
    ({"parameters": half}, {}, "optimizer.* was .*, but is .*"),
    ({"scheduler": None}, {}, "scheduler was .*Cosine.*, but is None"),
    ({"scheduler": lambda o: cosine(o, 5)}, {}, "T_max was 4, but is 5"),
    ({"scheduler": lambda o: schedules.StepLR(o, 4)}, {}, "scheduler.* was 'CosineAnnealingLR', but is 'StepLR'"),
    ({"scheduler": Falling}, {}, "scheduler.* was 'CosineAnnealingLR', but is 'Falling'"),
    ({}, {"scheduler_interval": "step"}, "scheduler_interval was 'epoch', but is 'step'"),
    ({}, {"batch_size": 16}, "batch_size was 32, but is 16"),
    ({}, {"nb_epochs": 3}, "nb_epochs was 2, but is 3"),
    ({}, {"keep": "robust"}, "keep was 'last', but is 'robust'"),
    ({}, {"x": other_x}, "data.* was '.*', but is '.*'"),
    ({}, {"y": other_y}, "data.* was '.*', but is '.*'"),
    ({}, {"x": other_x[:90], "y": other_y[:90]}, "n was 96, but is 90"),
    ({}, {"validation_data": None}, r"validation was '.*', but is None"),
    ({}, {"validation_data": (other_x[:40], other_y[:40])}, r"validation was '.*', but is '.*'"),
]


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory):
    """The folder of a training of two epochs, of TRADES, SGD and a cosine."""
    folder = tmp_path_factory.mktemp("trained")
    fit(make(scheduler=cosine), folder, nb_epochs=2, validation_data=validation())
    return folder


def check_refused(made, folder, says, **options):
    before, fresh = (folder / "training.pt").read_bytes(), weights(made)
    with pytest.raises(InputError, match=f"another recipe and can't be resumed.*{says}"):
        fit(forbid_training(made), folder, resume=True, **options)
    assert (folder / "training.pt").read_bytes() == before
    assert difference(weights(made), fresh) is None


@pytest.mark.parametrize(("changed", "how", "says"), CHANGES)
def test_another_recipe_is_refused_and_the_difference_named(changed, how, says, trained_folder):
    made = make(**{"scheduler": cosine} | changed)
    check_refused(made, trained_folder, says, **{"nb_epochs": 2, "validation_data": validation()} | how)


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        (weighted, functools.partial(weighted, betas=(0.8, 0.999)), r"betas.* was .*0\.9.*, but is .*0\.8"),
        (weighted, functools.partial(weighted, betas=(0.9, 0.99)), r"betas.* was .*0\.999.*, but is .*0\.99"),
        (weighted, functools.partial(weighted, eps=1e-6), "eps was 1e-08, but is 1e-06"),
        (weighted, functools.partial(weighted, amsgrad=True), "amsgrad was False, but is True"),
        (weighted, functools.partial(weighted, lr=torch.tensor(0.5)), r"lr was 0\.01, but is .*0\.5"),
    ],
)
def test_another_setting_of_adamw_is_refused(then, now, says, tmp_path):
    fit(make(then), tmp_path, nb_epochs=1)
    check_refused(make(now), tmp_path, says, nb_epochs=1)


def test_another_schedule_is_refused(tmp_path):
    for number, (then, now, says) in enumerate(
        [
            (
                lambda o: schedules.OneCycleLR(o, 0.2, total_steps=9),
                lambda o: schedules.OneCycleLR(o, 0.3, total_steps=9),
                r"max_lr.* was .*0\.2.*, but is .*0\.3",
            ),
            (
                lambda o: schedules.OneCycleLR(o, 0.2, total_steps=9),
                lambda o: schedules.OneCycleLR(o, 0.2, total_steps=12),
                "total_steps was 9, but is 12",
            ),
            (
                lambda o: schedules.MultiStepLR(o, [1, 3]),
                lambda o: schedules.MultiStepLR(o, [1, 2]),
                r"milestones.* was .*, but is",
            ),
            (
                warm(lambda o: schedules.CosineAnnealingLR(o, 2)),
                warm(lambda o: schedules.CosineAnnealingLR(o, 3)),
                r"T_max.*2.*, but is .*T_max.*3",
            ),
            (
                lambda o: schedules.LambdaLR(o, Factor(0.7)),
                lambda o: schedules.LambdaLR(o, Factor(0.8)),
                r"base.*0\.7.*, but is .*0\.8",
            ),
            (plateau, lambda o: plateau(o, "max"), "mode was 'min', but is 'max'"),
        ]
    ):
        folder = tmp_path / str(number)
        fit(make(sgd, then), folder, nb_epochs=1)
        check_refused(make(sgd, now), folder, says, nb_epochs=1)


BEFORE_THERE_WERE_MORE_OPTIONS = {
    *("trainer", "beta", "attack", "crop_padding", "flip", "two_passes", "label_smoothing", "seed", "gradient_clip"),
    *("ema_decay", "awp_gamma", "awp_warmup", "precision", "compile", "class_policy", "excluded", "nb_epochs", "keep"),
    *("data", "optimizer", "scheduler", "scheduler_interval", "classifier"),
}
"""What files of trainings told of one before there were `passes`, `attack_mode` and BAT's `exact`."""


@pytest.mark.parametrize(
    ("options", "policy", "told"),
    [
        ({"trainer": TRADES}, None, None),
        ({"trainer": BAT}, None, None),
        ({}, policies.FAAL(), {"name", "radius"}),
        ({}, policies.FRL(), {"name", "alpha1", "alpha2", "tolerance", "limit"}),
    ],
)
def test_a_training_from_before_an_option_was_added_goes_on_with_its_default(options, policy, told, tmp_path):
    """At the default the option isn't told of: the file is what it was before, and what it was before is resumed."""
    how = {"validation_data": validation()}
    made = make(**options, class_policy=policy)
    interrupt(made, tmp_path, epoch=2, **how)
    recipe = saved(tmp_path / "parts")["recipe"]
    assert recipe.keys() == BEFORE_THERE_WERE_MORE_OPTIONS
    assert told == (None if policy is None else recipe["class_policy"].keys())
    again = make(**options, class_policy=policy)
    assert len(fit(again, tmp_path / "parts", resume=True, **how)) == EPOCHS


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        ({"passes": "cac"}, {"passes": "ca"}, "passes was 'cac', but is 'ca'"),
        ({"passes": "cac"}, {}, "passes was 'cac', but is None"),
        ({"trainer": BAT, "exact": True}, {"trainer": BAT}, "exact was True, but is None"),
        ({"class_policy": policies.FAAL()}, {"class_policy": policies.FAAL(exact=True)}, "exact was None, but is True"),
    ],
)
def test_an_added_option_must_be_the_same_as_well(then, now, says, tmp_path):
    fit(make(**then), tmp_path, nb_epochs=1)
    check_refused(make(**now), tmp_path, says, nb_epochs=1)
    fit(forbid_training(make(**then)), tmp_path, nb_epochs=1, resume=True)


@pytest.mark.parametrize(
    ("switch", "value"),
    [("boosted", False), ("on", "clean"), ("kl", False), ("weighted", False), ("attacked", "correct"), ("exact", True)],
)
def test_another_switch_of_mart_is_refused(switch, value, tmp_path):
    fit(make(trainer=MART), tmp_path, nb_epochs=1)
    check_refused(make(trainer=MART, **{switch: value}), tmp_path, f"{switch} was .*, but is {value!r}", nb_epochs=1)


def test_another_attack_is_refused(tmp_path):
    fit(make(), tmp_path / "own", nb_epochs=1)
    fit(under_attack(FastGradientMethod), tmp_path / "theirs", nb_epochs=1)
    check_refused(under_attack(FastGradientMethod), tmp_path / "own", "attack.*, but is .*Fast", nb_epochs=1)
    check_refused(make(), tmp_path / "theirs", "attack.* was .*Fast.*, but is", nb_epochs=1)
    other = under_attack(ProjectedGradientDescent, eps_step=0.1, max_iter=1, verbose=False)
    check_refused(other, tmp_path / "theirs", "attack.* was 'Fast.*, but is 'Projected", nb_epochs=1)
    other = under_attack(FastGradientMethod, eps=0.25)
    check_refused(other, tmp_path / "theirs", r"eps was 0\.1, but is 0\.25", nb_epochs=1)
    fit(forbid_training(under_attack(FastGradientMethod)), tmp_path / "theirs", nb_epochs=1, resume=True)


@pytest.mark.parametrize("changed", [{"clip_values": (0, 2)}, {"preprocessing": (0.5, 0.25)}])
def test_another_range_or_standardisation_is_refused(changed, tmp_path):
    """They are the classifier's, and change what is attacked and learnt."""

    def made(**changed):
        module = network()
        options = {"clip_values": (0, 1), "device_type": "cpu", "optimizer": sgd(module.parameters())} | changed
        classifier = PyTorchClassifier(module, nn.CrossEntropyLoss(), (1, 8, 8), 10, **options)
        return STANDARD(classifier, eps=0.1, max_iter=1, verbose=False), None

    fit(made(), tmp_path, nb_epochs=1)
    fit(forbid_training(made()), tmp_path, nb_epochs=1, resume=True)
    check_refused(made(**changed), tmp_path, "was .*, but is", nb_epochs=1)


@pytest.mark.parametrize(
    ("other", "how"),
    [
        ({}, {}),
        ({"eps": np.float64(0.1), "norm": "inf"}, {}),
        ({"norm": np.inf, "eps_step": 0.025, "beta": 6}, {}),
        ({"max_iter": np.int64(1), "seed": np.int64(0), "label_smoothing": 0, "awp_gamma": 0}, {}),
        ({"num_workers": 1, "verbose": True}, {}),
        ({"optimizer": functools.partial(sgd, lr=np.float64(0.1))}, {}),
        ({}, {"y": np.eye(10)[train_set().y]}),
        ({}, {"x": train_set().x.astype(np.float64), "y": train_set().y.astype(np.int32)}),
        ({}, {"x": Lazy(train_set().x)}),
        ({}, {"batch_size": np.int64(BATCH), "nb_epochs": np.int64(2)}),
        ({}, {"validation_data": list(validation())}),
    ],
)
def test_an_equal_recipe_is_not_refused(other, how, trained_folder):
    made = forbid_training(make(**{"scheduler": cosine} | other))
    history = fit(made, trained_folder, resume=True, **{"nb_epochs": 2, "validation_data": validation()} | how)
    assert len(history) == 2


# Files that aren't what they should be


def check_unreadable(folder, says):
    path = folder / "training.pt"
    before, made = path.read_bytes() if path.is_file() else None, make(scheduler=cosine)
    fresh = weights(made)
    options = {"nb_epochs": 2, "validation_data": validation()}  # as of trained_folder
    for call in (
        lambda: fit(made, folder, resume=True, **options),
        lambda: fit(made, folder, **options),
        lambda: trained_weights(folder),
    ):
        with pytest.raises(InputError, match=says) as caught:
            call()
        assert "training.pt" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before
    assert difference(weights(made), fresh) is None


def test_files_that_are_no_training_are_named_and_left(bad_weights, tmp_path):
    (tmp_path / "run").mkdir()
    for path, says in bad_weights:
        if path.exists():
            shutil.copy(path, tmp_path / "run" / "training.pt")
            check_unreadable(
                tmp_path / "run", "does not hold the state of a training" if path.name == "legacy.pt" else says
            )
    (tmp_path / "run" / "training.pt").unlink()
    (tmp_path / "run" / "training.pt").mkdir()
    check_unreadable(tmp_path / "run", "is not a file")


def damaged_pickle(path):
    """A whole archive, whose description of what it holds isn't."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, b"\x80\x02a." if name.endswith("data.pkl") else part)


def damaged_directory(path):
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x06\x07") + 16] = 2  # of so many disks
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_cut_checkpoint_is_named_and_left(share, trained_folder, tmp_path):
    whole = (trained_folder / "training.pt").read_bytes()
    (tmp_path / "training.pt").write_bytes(whole[: int(share * len(whole))])
    check_unreadable(tmp_path, "cut short|damaged")


@pytest.mark.parametrize("damage", [damaged_pickle, damaged_directory])
def test_a_damaged_checkpoint_is_named_and_left(damage, trained_folder, tmp_path):
    shutil.copy(trained_folder / "training.pt", tmp_path)
    damage(tmp_path / "training.pt")
    check_unreadable(tmp_path, "cut short|damaged")


@pytest.mark.parametrize("damage", [damaged_pickle, damaged_directory, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("at", [1, 3])
def test_a_damaged_checkpoint_goes_on_from_the_one_before(damage, at, tmp_path):
    fit(make(), tmp_path / "whole")
    parts = tmp_path / "parts"
    with pytest.raises(Stopped):
        fit(stop_before(make(), at, 1), parts)
    damage(parts / "training.pt")
    with pytest.warns(UserWarning, match=rf"training.pt.* The state before it, after epoch {at - 1}, is taken from"):
        fit(make(), parts, resume=True)
    assert difference(saved(parts), saved(tmp_path / "whole")) is None
    previous = torch.load(parts / "training.previous.pt", weights_only=True)
    assert previous["epoch"] == EPOCHS - 1
    damage(parts / "training.pt")
    for read in (training_history, finished_epochs):
        with pytest.warns(UserWarning, match=rf"after epoch {EPOCHS - 1}"):
            done = read(parts)
        assert (done if isinstance(done, int) else len(done)) == EPOCHS - 1
    damage(parts / "training.previous.pt")
    with pytest.raises(InputError, match="training.pt"):
        trained_weights(parts)


def test_a_training_of_another_recipe_before_is_not_gone_on_with(trained_folder, tmp_path):
    shutil.copy(trained_folder / "training.pt", tmp_path / "training.previous.pt")
    fit(make(), tmp_path, resume=True)  # there is no training.pt: it begins anew, and the other is replaced
    assert torch.load(tmp_path / "training.previous.pt", weights_only=True)["epoch"] == EPOCHS - 1
    torch.save(saved(tmp_path) | {"recipe": {}}, tmp_path / "training.previous.pt")
    (tmp_path / "training.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="is empty"), pytest.raises(InputError, match="is of another recipe"):
        fit(make(), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("version", 99, "of version 99; this release reads version"),
        ("version", None, "of version None"),
        ("format", "other", "does not hold the state of a training"),
        *((name, None, "damaged|does not hold the state") for name in ("recipe", "epoch", "weights", "optimizer")),
    ],
)
def test_a_checkpoint_of_another_version_or_incomplete_is_named_and_left(name, value, says, trained_folder, tmp_path):
    content = saved(trained_folder)
    if value is None:
        del content[name]
    else:
        content[name] = value
    torch.save(content, tmp_path / "training.pt")
    check_unreadable(tmp_path, says)


WRONG = {
    "recipe": [3, None],
    "epoch": [-1, "1", EPOCHS + 1],
    "weights": [None, [], {1: torch.zeros(1)}],
    "averages": [3, {1: torch.zeros(1)}],
    "n_averaged": [-1, None, 1],  # without averages
    "optimizer": [None, []],
    "history": [None, {}, [], [{"epoch": "1"}]],
    "kept_score": ["0.5"],
    "kept_epoch": [1, "1"],  # without its weights
    "kept_weights": [{}, 3],
    "policy": [3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_checkpoint_with_a_wrong_value_is_named_and_left(name, value, trained_folder, tmp_path):
    torch.save(saved(trained_folder) | {name: value}, tmp_path / "training.pt")
    check_unreadable(tmp_path, "training.pt is damaged: ")


def test_every_value_of_a_checkpoint_is_checked(trained_folder):
    assert {*WRONG, "scheduler", "format", "version"} == set(saved(trained_folder))  # what a scheduler keeps is its own


def test_a_folder_that_can_not_be_written_is_named_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file.* can't be written"):
        fit(forbid_training(make()), tmp_path / "file")


def test_the_file_loads_safely_and_holds_what_it_says(tmp_path):
    made = make(scheduler=cosine, ema_decay=0.9)
    history = fit(made, tmp_path)
    content = saved(tmp_path)
    assert content["epoch"] == EPOCHS
    assert history.attrs["kept_epoch"] == EPOCHS
    again = pd.DataFrame(content["history"]).astype({"epoch": int})
    pd.testing.assert_frame_equal(again, history, check_exact=True)
    assert content["recipe"]["beta"] == 6.0
    assert difference(content["averages"], weights(made)) is None
    assert content["scheduler"]["last_epoch"] == EPOCHS
    assert len(content["optimizer"]["state"]) == len(list(network().parameters()))


# The weights in a training's folder


@pytest.mark.parametrize("keep", ["last", "robust", "robust+worst"])
@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_trained_weights_are_those_of_the_epoch_they_name(ema_decay, keep, tmp_path):
    """With wrong labels to validate on the first epochs look best; a shorter training ends with their weights."""
    x, y = validation()
    options = {"keep": keep, "validation_data": (x, (y + 1) % 10)}
    made = make(ema_decay=ema_decay)
    history = fit(made, tmp_path / "long", **options)
    kept = history.attrs["kept_epoch"]
    assert (kept < EPOCHS) == (keep != "last")
    if keep != "last":
        score = history["val_robust"] + (history["val_worst"] if keep == "robust+worst" else 0)
        assert kept == score.idxmax() + 1  # the first of the best
    fit(make(ema_decay=ema_decay), tmp_path / "short", nb_epochs=kept)
    assert difference(trained_weights(tmp_path / "long", "kept"), trained_weights(tmp_path / "short", "last")) is None
    assert difference(trained_weights(tmp_path / "long"), weights(made)) is None
    fit(make(ema_decay=ema_decay), tmp_path / "plain")
    assert difference(trained_weights(tmp_path / "long", "last"), trained_weights(tmp_path / "plain", "last")) is None
    content = saved(tmp_path / "long")
    is_raw = difference(trained_weights(tmp_path / "long", "last"), content["weights"]) is None
    assert is_raw == (ema_decay is None)
    module = network()
    module.load_state_dict(trained_weights(tmp_path / "long", "kept"))
    assert torch.equal(module.eval()(torch.from_numpy(x)), made[0].get_classifier().model.eval()(torch.from_numpy(x)))


def test_trained_weights_of_a_training_that_runs(tmp_path):
    options = {"keep": "robust", "validation_data": validation()}
    interrupt(make(ema_decay=0.9), tmp_path, epoch=1, batch=0, **options)
    short = make(ema_decay=0.9)
    fit(short, nb_epochs=1)
    for which in ("last", "kept"):
        assert difference(trained_weights(tmp_path / "parts", which), weights(short)) is None


def test_trained_weights_refuses_what_it_does_not_know(trained_folder, tmp_path):
    with pytest.raises(InputError, match='`which` must be "last" or "kept", but got \'best\''):
        trained_weights(trained_folder, "best")
    with pytest.raises(InputError, match=r"There is no file .*training\.pt"):
        trained_weights(tmp_path)
    with pytest.raises(InputError, match=r"There is no file .*training\.pt"):
        trained_weights(tmp_path / "nowhere")


# Divergence


def poison(made, n_passes, where="loss"):
    """Make NaN of the loss, or else of the gradient alone, in a forward pass in train mode, counted from 1."""
    passes = 0

    def hook(module, inputs, logits):
        nonlocal passes
        passes += module.training
        if module.training and passes == n_passes:
            if where == "loss":
                return logits * torch.nan
            logits.register_hook(lambda gradient: gradient * torch.nan)
        return None

    made[0].get_classifier().model.register_forward_hook(hook)
    return made


def check_diverged(folder, made, whole, epoch, says, **options):
    """It stops with the words and the state of the epoch before, from which it then goes on to the end."""
    model = made[0].get_classifier().model
    model.eval()
    model[1].train()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = gradient = torch.ones_like(model[5].weight)
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    fresh = weights(made)
    with pytest.raises(DivergenceError, match=says):
        fit(made, folder / "parts", **options)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert model[5].weight.grad is gradient
    assert torch.equal(gradient, torch.ones_like(gradient))
    if epoch == 1:
        assert saved(folder / "parts")["epoch"] == 0
        assert difference(weights(made), fresh) is None
    else:
        assert saved(folder / "parts")["epoch"] == epoch - 1
        last = trained_weights(folder / "parts", "last")
        assert difference(last, weights(made)) is None
        assert all(value.isfinite().all() for value in last.values())
    again = whole()
    again[0].get_classifier().model[0].bias.requires_grad_(False)
    reference = whole()
    reference[0].get_classifier().model[0].bias.requires_grad_(False)
    check_resumed(folder, again, reference, **options)


@pytest.mark.parametrize(("trainer", "epoch", "batch"), [(STANDARD, 1, 1), (MART, 2, 3), (STANDARD, 4, 2)])
def test_a_loss_that_is_nan_stops_and_names_epoch_and_batch(trainer, epoch, batch, tmp_path):
    whole = functools.partial(make, trainer=trainer)
    made = poison(whole(), (epoch - 1) * BATCHES + batch)
    says = f"^The loss was NaN or infinite in epoch {epoch}, batch {batch}: lower the learning rate"
    check_diverged(tmp_path, made, whole, epoch, says)


@pytest.mark.parametrize("batch", [1, 50, 51, 77, 95])
def test_the_first_bad_batch_of_many_is_named(batch, tmp_path):
    """All that follow are NaN as well. The last of the 96 examples is no batch of its own."""
    made = poison(make(lambda p: SGD(p, lr=1e-3)), batch)
    with pytest.raises(DivergenceError, match=f"in epoch 1, batch {batch}: .* it came with again"):
        fit(made, tmp_path, batch_size=1, nb_epochs=1)


def test_divergence_with_everything_on(tmp_path):
    def whole():
        return make(scheduler=lambda o: schedules.OneCycleLR(o, 0.2, total_steps=EPOCHS * BATCHES), **EVERYTHING)

    made = poison(whole(), BATCHES + 2 * BATCHES + 3)  # two passes per batch after the first epoch
    options = {"scheduler_interval": "step", "keep": "robust", "validation_data": validation()}
    check_diverged(tmp_path, made, whole, 3, "in epoch 3, batch 2: ", **options)


def test_a_weight_that_is_nan_after_the_very_last_step_stops(tmp_path):
    made = poison(make(), EPOCHS * BATCHES, where="gradient")
    check_diverged(tmp_path, made, make, EPOCHS, f"^A weight became NaN or infinite in epoch {EPOCHS}")


def test_divergence_on_a_generator_is_named_as_well(tmp_path):
    made = poison(make(), BATCHES + 2)
    with pytest.raises(DivergenceError, match="in epoch 2, batch 2"):
        made[0].fit_generator(numpy_generator(), nb_epochs=3, checkpoint_dir=tmp_path)
    assert saved(tmp_path)["epoch"] == 1
    assert difference(weights(made), trained_weights(tmp_path)) is None


def test_after_divergence_the_classifier_can_be_trained_as_advised(tmp_path):
    """The optimizer is the classifier's: its momentum must not carry the NaN on."""
    made = poison(make(), BATCHES + 2)
    with pytest.raises(DivergenceError):
        fit(made)
    clipped = TRADES(made[0].get_classifier(), eps=0.1, max_iter=1, gradient_clip=1.0, verbose=False)
    assert np.isfinite(fit((clipped, None))["loss"]).all()


if __name__ == "__main__":
    serve()
