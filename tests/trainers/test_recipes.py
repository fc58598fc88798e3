from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import trainers
from art_classwise.cli._completion import RECIPES
from art_classwise.trainers.recipes import PUBLISHED as TABLE
from art_classwise.trainers.recipes import fast_recipe, paper_recipe, plain_recipe, published_recipes

TRAINERS = {"standard": "Standard", "trades": "TRADES", "mart": "MART"}


def rates(recipe, n_examples):
    """The learning rate of each step of each epoch, as the training loop drives a scheduler."""
    optimizer = recipe.optimizer(nn.Linear(1, 1))
    scheduler, interval = recipe.scheduler(optimizer, n_examples)
    by_epoch = []
    for _ in range(recipe.epochs):
        by_epoch.append([])
        for _ in range(math.ceil(n_examples / recipe.batch_size)):
            by_epoch[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if interval == "step":
                scheduler.step()
        if interval == "epoch":
            scheduler.step()
    return by_epoch


def falling(*stages):
    """Stages (rate, number of epochs) -> the rate of each epoch."""
    return [rate for rate, epochs in stages for _ in range(epochs)]


# As published: the rate of each epoch; batch, momentum, weight decay; eps, step, steps; beta; padding, flip; exact.
PUBLISHED = {
    ("mart", "resnet18", "cifar10"): (
        falling((0.01, 74), (1e-3, 15), (1e-4, 10), (1e-5, 21)),
        (128, 0.9, 3.5e-3),
        (0.031, 0.007, 10),
        5.0,
        (4, True),
        True,
    ),
    ("mart", "wrn-34-10", "cifar10"): (
        falling((0.1, 74), (0.01, 15), (1e-3, 1)),
        (128, 0.9, 7e-4),
        (0.031, 0.007, 10),
        6.0,
        (4, True),
        True,
    ),
    ("mart", "mnist-cnn", "mnist"): (
        falling((0.01, 19), (1e-3, 20), (1e-4, 11)),
        (128, 0.9, 0.0),
        (0.3, 0.01, 40),
        5.0,
        (0, False),
        True,
    ),
    ("trades", "wrn-34-10", "cifar10"): (
        falling((0.1, 74), (0.01, 2)),
        (128, 0.9, 2e-4),
        (0.031, 0.007, 10),
        6.0,
        (4, True),
        False,
    ),
    ("trades", "mnist-cnn", "mnist"): (
        falling((0.01, 54), (1e-3, 20), (1e-4, 15), (1e-5, 11)),
        (128, 0.9, 0.0),
        (0.3, 0.01, 40),
        1.0,
        (0, False),
        False,
    ),
    ("standard", "resnet18", "cifar10"): (
        falling((0.1, 100), (0.01, 50), (1e-3, 50)),
        (128, 0.9, 5e-4),
        (8 / 255, 2 / 255, 10),
        None,
        (4, True),
        False,
    ),
}
PUBLISHED["standard", "preactresnet18", "cifar10"] = PUBLISHED["standard", "resnet18", "cifar10"]


@pytest.mark.parametrize("of", PUBLISHED, ids="-".join)
def test_paper_recipes_are_the_published_ones(of):
    learning_rates, (batch, momentum, weight_decay), (eps, step, steps), beta, augmentation, exact = PUBLISHED[of]
    recipe = paper_recipe(*of)
    assert [rate for epoch in rates(recipe, 2 * batch) for rate in epoch[:1]] == pytest.approx(learning_rates)
    assert all(len(set(epoch)) == 1 for epoch in rates(recipe, 2 * batch))
    group = recipe.optimizer(nn.Linear(1, 1)).param_groups[0]
    assert (recipe.batch_size, group["momentum"], group["weight_decay"]) == (batch, momentum, weight_decay)
    assert group["nesterov"] is False
    options = recipe.trainer_options()
    assert (options["norm"], options["eps"], options["eps_step"], options["max_iter"]) == (math.inf, eps, step, steps)
    assert options.get("beta") == beta
    assert (options["crop_padding"], options["flip"]) == augmentation
    assert options.get("exact", False) is exact
    assert options["two_passes"] is (of[0] != "standard")
    assert options["passes"] == ("cac" if of[0] == "trades" else None)
    assert options["precision"] == "fp32"
    assert options["compile"] is False


def test_trades_steps_in_l2_are_its_authors():
    recipe = paper_recipe("trades", "wrn-34-10", "cifar10").override(threat="L2:0.5")
    for of, step in ((recipe, 0.1), (recipe.override(steps=20), 0.05), (recipe.override(eps_step=0.2), 0.2)):
        assert of.trainer_options()["eps_step"] == pytest.approx(step)
        assert of.as_dict()["eps_step"] == pytest.approx(step)
    for other in (recipe.override(threat="L1:1"), paper_recipe("mart", "resnet18", "cifar10").override(threat="L2:1")):
        assert other.trainer_options()["eps_step"] is None  # a quarter of the radius, as everywhere
        assert other.as_dict()["eps_step"] == pytest.approx(1 / 4)


def test_madrys_wide_network_decays_by_steps():
    """80,000 steps of 128 examples, a tenth of the rate after 40,000 and again after 60,000."""
    recipe = paper_recipe("standard", "wrn-34-10", "cifar10")
    by_step = [rate for epoch in rates(recipe, 50_000) for rate in epoch]
    assert 80_000 <= len(by_step) < 80_000 + 50_000 / 128
    assert by_step[:80_000] == pytest.approx(falling((0.1, 40_000), (0.01, 20_000), (1e-3, 20_000)))
    assert (recipe.steps, recipe.eps_step, recipe.weight_decay) == (7, 2 / 255, 2e-4)


def test_what_is_second_hand_says_so():
    assert paper_recipe("mart", "mnist-cnn", "mnist").source.startswith("second-hand")
    for of in PUBLISHED:
        if of != ("mart", "mnist-cnn", "mnist"):
            assert "second-hand" not in paper_recipe(*of).source
            assert " et al., " in paper_recipe(*of).source or "Rice" in paper_recipe(*of).source


@pytest.mark.parametrize("n_examples", [1000, 1024])
def test_fast_is_one_cycle(n_examples):
    recipe = fast_recipe("mart", "cifar10")
    by_epoch = rates(recipe, n_examples)
    by_step = [rate for epoch in by_epoch for rate in epoch]
    assert len(by_epoch) == 30
    assert len(by_step) == 30 * 8
    peak = by_step.index(max(by_step))
    assert by_step[peak] == pytest.approx(0.2)
    assert peak == 72 - 1  # three tenths of 240 steps
    assert by_step[0] == pytest.approx(0.2 / 25)
    assert by_step[-1] < 1e-5
    assert by_step[: peak + 1] == sorted(by_step[: peak + 1])
    assert by_step[peak:] == sorted(by_step[peak:], reverse=True)
    group = recipe.optimizer(nn.Linear(1, 1)).param_groups[0]
    assert (group["nesterov"], group["momentum"], group["weight_decay"]) == (True, 0.9, 5e-4)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
@pytest.mark.parametrize("n_examples", [1, 100, 300])
def test_a_cycle_may_be_short(epochs, n_examples):
    by_step = [rate for epoch in rates(fast_recipe("standard", "digits", epochs=epochs), n_examples) for rate in epoch]
    assert min(by_step) > 0
    assert max(by_step) <= 0.05


@pytest.mark.parametrize(
    ("dataset", "threat", "augmentation", "lr"),
    [
        ("cifar10", "Linf:8/255", (4, True), 0.2),
        ("cifar100", "Linf:8/255", (4, True), 0.2),
        ("svhn", "Linf:8/255", (4, False), 0.2),
        ("stl10", "Linf:8/255", (12, True), 0.2),
        ("mnist", "Linf:0.3", (0, False), 0.05),
        ("digits", "Linf:0.1", (0, False), 0.05),
    ],
)
def test_fast_suits_the_data(dataset, threat, augmentation, lr):
    recipe = fast_recipe("standard", dataset)
    assert str(recipe.threat) == threat
    assert (recipe.crop_padding, recipe.flip) == augmentation
    assert recipe.lr == lr
    assert recipe.precision == "auto"


@pytest.mark.parametrize(
    ("written", "name"), [("MNIST", "mnist"), ("CIFAR10", "cifar10"), ("Cifar-10", "cifar10"), ("ImageNet", "imagenet")]
)
def test_data_sets_are_known_however_they_are_written(written, name):
    """As load_dataset knows them: else a recipe would be that of one's own data, without a word."""
    assert plain_recipe("mart", written) == plain_recipe("mart", name)
    assert fast_recipe("mart", written) == fast_recipe("mart", name)
    assert fast_recipe("mart", written, threat="L2:1") == fast_recipe("mart", name, threat="L2:1")
    for (method, architecture, dataset, recipe), published in TABLE.items():
        if dataset == name:
            for variant in (recipe, recipe.upper(), recipe.partition(":")[2]):
                assert paper_recipe(method, architecture, written, variant) == published


def test_fast_suits_the_architecture():
    assert fast_recipe("mart", "own", architecture="digits-cnn", threat="L2:1").lr == 0.05
    assert fast_recipe("mart", "mnist", architecture="resnet18").lr == 0.2


def test_fast_compiles_on_cuda_alone():
    recipe = fast_recipe("trades", "cifar10")
    assert recipe.trainer_options(nn.Linear(1, 1))["compile"] is False
    on_cuda = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(is_cuda=True)]))
    assert recipe.trainer_options(on_cuda)["compile"] is True
    assert recipe.override(compile=False).trainer_options(on_cuda)["compile"] is False
    assert recipe.override(compile=True).trainer_options(nn.Linear(1, 1))["compile"] is True
    assert recipe.trainer_options()["compile"] is torch.cuda.is_available()


def test_plain_is_a_cosine_from_0_05():
    recipe = plain_recipe("standard").override(epochs=4)
    assert [epoch[0] for epoch in rates(recipe, 10)] == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    )
    assert plain_recipe("mart").beta == 5
    assert plain_recipe("trades").beta == 6
    assert plain_recipe("standard").beta is None


def test_override():
    recipe = paper_recipe("mart", "resnet18", "cifar10")
    assert recipe.override(epochs=None, beta=None) == recipe
    assert recipe.override(threat=acw.ThreatModel("Linf", 0.031)) == recipe
    other = recipe.override(threat=acw.ThreatModel("L2", 0.5), epochs=3, beta=0.0)
    assert (other.eps_step, other.epochs, other.beta, other.lr) == (None, 3, 0.0, 0.01)
    assert recipe.override(threat=acw.ThreatModel("L2", 0.5), eps_step=0.2).eps_step == 0.2
    assert recipe.epochs == 120
    assert (recipe.changed, other.changed) == ((), ("threat", "epochs", "beta", "eps_step"))
    assert other.provenance.endswith("(verified; changed: threat, epochs, beta, eps_step)")
    assert other.override(epochs=4, lr=0.1).as_dict()["changed"] == ["threat", "epochs", "beta", "eps_step", "lr"]
    assert recipe.override(compile=True, batch_size=128).changed == ()
    assert plain_recipe("mart").override(epochs=3).changed == ()


@pytest.mark.parametrize(
    "recipe",
    [paper_recipe(*of) for of in PUBLISHED] + [fast_recipe("mart", "digits"), plain_recipe("standard")],
    ids=lambda r: f"{r.method}-{r.name}",
)
def test_schedules_survive_a_file(recipe):
    """Resumed after a third of the epochs, the rates are those of an uninterrupted training."""
    n_examples, done = 3 * recipe.batch_size, recipe.epochs // 3

    def run(from_state):
        optimizer = recipe.optimizer(nn.Linear(1, 1))
        scheduler, interval = recipe.scheduler(optimizer, n_examples)
        if from_state is not None:
            optimizer.load_state_dict(from_state["optimizer"])
            scheduler.load_state_dict(from_state["scheduler"])
        seen = []
        for epoch in range(0 if from_state is None else done, recipe.epochs):
            if epoch == done and from_state is None:
                file = io.BytesIO()
                torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
                file.seek(0)
                saved.update(torch.load(file, weights_only=True))
            for _ in range(3):
                seen.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                if interval == "step":
                    scheduler.step()
            if interval == "epoch":
                scheduler.step()
        return seen

    saved: dict = {}
    whole = run(None)
    assert run(saved) == whole[3 * done :]
    if recipe.schedule == "decay":  # so that a training can't be resumed with another rule unnoticed
        assert recipe.decay in saved["scheduler"]["lr_lambdas"][0].values()


def test_as_dict_is_plain_and_complete():
    recipe = paper_recipe("mart", "resnet18", "cifar10")
    said = recipe.as_dict()
    assert json.loads(json.dumps(said)) == said
    assert said["recipe"] == "paper"
    assert said["threat"] == "Linf:0.031"
    assert said["decay"] == [[75, 0.1], [90, 0.01], [100, 0.001]]
    later = {
        *("attack_mode", "friendly_tau", "class_balanced", "label_smoothing", "gradient_clip", "ema_decay"),
        *(
            "awp_gamma",
            "awp_warmup",
            "rise",
            "unverified",
            "changed",
            "class_policy",
            "validation",
            "keep",
            "fine_tunes",
        ),
    }
    assert set(said) - {"recipe"} == set(vars(recipe)) - {"name"} - later  # as checkpoints of before have them
    assert said["verified"] is True
    assert not {"verified", *later} & set(plain_recipe("standard").as_dict())
    wat = paper_recipe("trades", "resnet18", "cifar10", "wat")
    assert json.loads(json.dumps(wat.as_dict())) == wat.as_dict()
    assert {name: wat.as_dict()[name] for name in ("recipe", "class_policy", "validation", "keep", "verified")} == {
        "recipe": "paper:wat",
        "class_policy": "wat:eta=0.1",
        "validation": 0.02,
        "keep": "robust+worst",
        "verified": False,
    }
    assert plain_recipe("standard").as_dict()["eps_step"] == pytest.approx(2 / 255)


@pytest.mark.parametrize(
    "recipe",
    [
        *(paper_recipe(*of) for of in PUBLISHED),
        *(make(m, "digits") for make in (fast_recipe, lambda m, _: plain_recipe(m)) for m in TRAINERS),
    ],
    ids=lambda r: f"{r.method}-{r.name}",
)
def test_trainers_take_the_options(recipe, network, images, labels):
    """One epoch of each on the smallest of networks."""
    recipe = recipe.override(epochs=1, steps=1)
    optimizer = recipe.optimizer(network)
    classifier = acw.as_classifier(network, (3, 6, 6), 4, optimizer=optimizer, device="cpu")
    scheduler, interval = recipe.scheduler(optimizer, len(images))
    make = getattr(trainers, f"AdversarialTrainer{TRAINERS[recipe.method]}PyTorch")
    trainer = make(classifier, **recipe.trainer_options(network), verbose=False)
    history = trainer.fit(
        images,
        labels,
        batch_size=recipe.batch_size,
        nb_epochs=recipe.epochs,
        scheduler=scheduler,
        scheduler_interval=interval,
    )
    assert len(history) == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: paper_recipe("mart", "preactresnet18", "cifar10"), "only for resnet18 on cifar10, wrn-34-10 on"),
        (lambda: paper_recipe("mart", "resnet18", "cifar100"), "`recipe='fast'`"),
        (lambda: paper_recipe("trades", "digits-cnn", "digits"), "no published recipe of trades for digits-cnn"),
        (lambda: paper_recipe("mrt", "resnet18", "cifar10"), "Unknown method 'mrt'. Did you mean mart"),
        (lambda: plain_recipe("tradse"), "Did you mean trades"),
        (lambda: fast_recipe("at", "digits"), "Unknown method 'at'"),
        (lambda: fast_recipe("mart", "own"), "Give a threat model"),
        (lambda: fast_recipe("mart", "digits", threat="Linf:x"), "radius must be a number"),
        (lambda: fast_recipe("mart", "digits", epochs=0), "`epochs` must be a whole number of at least 1"),
        (lambda: plain_recipe("standard").override(beta=1.0), "standard has none"),
        (lambda: plain_recipe("mart").override(lr=math.nan), "`lr` must be a finite number above 0"),
        (lambda: plain_recipe("mart").override(lr=0.0), "`lr` must be"),
        (lambda: plain_recipe("mart").override(batch_size=0), "`batch_size` must be"),
        (lambda: plain_recipe("mart").override(steps=0), "`steps` must be"),
        (lambda: paper_recipe("mart", "resnet18", "cifar10", "dafa"), "of mart with dafa, only paper, paper:awp."),
        (lambda: paper_recipe("trades", "wrn-34-10", "cifar10", "dafa"), "only for resnet18 on cifar10, resnet18 on"),
        (
            lambda: paper_recipe("natural", "resnet18", "cifar10"),
            "No recipe of the method 'natural' is published: take the quick one",
        ),
        (lambda: plain_recipe("mart").override(class_policy="dafa:lam=1"), "Unknown parameter of dafa 'lam'"),
        (lambda: plain_recipe("mart").override(ema_decay=1.5), "`ema_decay` must be"),
        (lambda: plain_recipe("mart").override(awp_gamma=-1.0), "`awp_gamma` must be"),
        (lambda: plain_recipe("mart").override(validation=1.0), "`validation` must be"),
        (lambda: plain_recipe("mart").override(keep="best"), "Unknown rule to keep weights by 'best'"),
        (lambda: plain_recipe("mart").override(attack_mode="both"), "Unknown attack_mode 'both'"),
        (lambda: plain_recipe("mart").override(epoch=3), "Unknown attribute of a recipe 'epoch'. Did you mean epochs"),
        (lambda: paper_recipe("mart", "resnet18", "cifar10").override(nb_epochs=3), "Did you mean epochs"),
        (lambda: plain_recipe("mart").override(schedule="onecycle"), "Unknown schedule 'onecycle'. Did you mean one-"),
        (lambda: plain_recipe("mart").override(decay_unit="steps"), "Unknown decay_unit 'steps'. Did you mean step"),
        (lambda: plain_recipe("mart").override(momentum=1.0), "`momentum` must be a number from 0 to below 1"),
        (lambda: plain_recipe("mart").override(weight_decay=-1e-4), "`weight_decay` must be a number of at least 0"),
        (lambda: plain_recipe("mart").override(nesterov=True, momentum=0.0), "`nesterov` needs `momentum` above 0"),
        (lambda: plain_recipe("mart").override(nesterov="yes"), "`nesterov` must be True or False"),
        (lambda: plain_recipe("mart").override(exact=1), "`exact` must be True or False"),
        (lambda: plain_recipe("mart").override(beta=-1.0), "`beta` must be a number of at least 0"),
        (lambda: plain_recipe("mart").override(eps_step=0.0), "`eps_step` must be a finite number above 0"),
        (lambda: plain_recipe("mart").override(crop_padding=-4), "`crop_padding` must be"),
        (lambda: plain_recipe("mart").override(flip="no"), "`flip` must be True or False"),
        (lambda: plain_recipe("mart").override(two_passes="no"), "`two_passes` must be True or False"),
        (lambda: plain_recipe("mart").override(precision="fp16"), "precision"),
        (lambda: plain_recipe("mart").override(decay=5), r"`decay` must be pairs (first, factor)"),
        (lambda: plain_recipe("mart").override(decay=((0, 0.1),)), "`decay` must begin at 1 or later"),
        (lambda: plain_recipe("mart").override(decay=((20, 0.1), (10, 0.01))), "never fall back"),
        (lambda: plain_recipe("mart").override(decay=((20, "x"),)), "`decay` must be pairs"),
        (lambda: plain_recipe("mart").override(decay=((2.5, 0.1),)), "`decay` must be pairs"),
        (lambda: plain_recipe("mart").override(class_policy="dafer"), "Unknown class policy 'dafer'"),
        (lambda: plain_recipe("mart").override(class_policy="dafa + trxi"), "Unknown class policy 'trxi'"),
        (lambda: plain_recipe("mart").override(class_policy=acw.policies.TRIX()), "is written as on a command line"),
    ],
)
def test_errors_say_what_to_do(call, says):
    with pytest.raises(acw.InputError) as error:
        call()
    assert says in str(error.value)


def test_the_semi_supervised_recipe_passes_half_as_often_over_the_labels():
    """200 epochs of 50,000 examples in batches of 256, half of them labelled: 128 of the 50,000 labels in a step."""
    recipe = paper_recipe("mart", "wrn-28-10", "cifar10")
    assert (recipe.beta, recipe.weight_decay, recipe.nesterov, recipe.unlabeled_fraction) == (6.0, 5e-4, True, 0.5)
    assert (recipe.threat.eps, recipe.eps_step, recipe.steps) == (0.031, 0.007, 10)
    per_step = round(recipe.batch_size * (1 - recipe.unlabeled_fraction))
    examples = recipe.epochs * math.ceil(50_000 / per_step) * recipe.batch_size
    assert examples == pytest.approx(200 * 50_000, rel=0.01)
    rates_ = [epoch[0] for epoch in rates(recipe, recipe.batch_size)]
    assert rates_ == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 100)) for k in range(100)])
    assert "as others tell it" in recipe.source


def test_a_step_schedule_knows_that_part_of_a_batch_is_unlabelled():
    recipe = fast_recipe("mart", "digits").override(epochs=4, batch_size=64)
    schedule, interval = recipe.scheduler(recipe.optimizer(nn.Linear(1, 1)), 100, batch_size=48)
    assert (interval, schedule.total_steps) == ("step", 4 * math.ceil(100 / 48))


def test_of_decays_at_the_same_epoch_the_last_one_holds():
    """So they fall together where a schedule is shortened in proportion."""
    recipe = plain_recipe("mart").override(schedule="decay", decay=((2, 0.1), (2, 0.01)), lr=1.0, epochs=3)
    assert [epoch[0] for epoch in rates(recipe, 10)] == pytest.approx([1.0, 0.01, 0.01])


def test_a_threat_model_may_be_text():
    assert plain_recipe("mart").override(threat="L2:0.5").threat == acw.ThreatModel("L2", 0.5)


# What is published of what is added to a method: the options that its trainer gets, the learning rate of each epoch,
# policy, and share to validate on.
EPOCHS_200 = falling((0.1, 100), (0.01, 50), (1e-3, 50))
VARIANTS = {
    ("standard", "preactresnet18", "awp"): ({"awp_gamma": 0.01, "attack_mode": "train", "passes": "a|c"}, EPOCHS_200),
    ("trades", "wrn-34-10", "awp"): ({"awp_gamma": 0.005, "awp_warmup": 9, "passes": "acc", "beta": 6}, EPOCHS_200),
    ("mart", "resnet18", "awp"): ({"awp_gamma": 0.005, "exact": True, "beta": 5.0}, None),
    ("mart", "wrn-34-10", "awp"): ({"awp_gamma": 0.005, "exact": True, "beta": 6.0}, None),
    ("standard", "preactresnet18", "cfa"): ({"attack_mode": "train", "passes": "a|c"}, EPOCHS_200),
    ("trades", "preactresnet18", "cfa"): ({"passes": "cac|c", "beta": 6.0}, EPOCHS_200),
    ("standard", "preactresnet18", "cfa-fat"): ({"friendly_tau": 0}, EPOCHS_200),
    ("trades", "resnet18", "dafa"): ({"passes": "ac", "beta": 6.0}, falling((0.1, 99), (0.01, 5), (1e-3, 6))),
    ("trades", "preactresnet18", "frl"): ({"passes": "cac", "beta": 1.5}, falling((1e-3, 40))),
    ("trades", "resnet18", "wat"): ({"passes": "ca"}, falling((0.1, 74), (0.01, 15), (1e-3, 10), (1e-4, 1))),
    ("standard", "wrn-34-10", "faal"): ({"passes": "ac"}, [0.01, 0.001]),
    ("trades", "preactresnet18", "faal"): ({"passes": "ac", "beta": 6.0}, [0.01, 0.001]),
    ("trades", "wrn-34-10", "faal-awp"): ({"passes": "acc", "awp_gamma": 0.005}, [0.01, 0.001]),
    ("standard", "preactresnet18", "cfol"): (
        {"class_balanced": True, "eps": 0.031, "eps_step": 0.00797, "max_iter": 7},
        falling((0.1, 50), (0.01, 50), (1e-3, 50)),
    ),
    ("standard", "resnet18", "fat"): (
        {"friendly_tau": 0, "eps": 0.031, "eps_step": 0.007},
        falling((0.01, 60), (1e-3, 30), (1e-4, 20), (1e-5, 10)),
    ),
}
POLICIES = {
    ("standard", "cfa"): acw.policies.CFA(lambda1=0.5),
    ("trades", "cfa"): acw.policies.CFA(lambda1=0.3, lambda2=0.5),
    ("standard", "cfa-fat"): acw.policies.CFA(lambda1=0.5),
    ("trades", "dafa"): acw.policies.DAFA(lamb=1.0, warmup=70),
    ("trades", "frl"): acw.policies.FRL(alpha1=0.05, alpha2=0.2, tolerance=0.07, normalize=True),
    ("trades", "wat"): acw.policies.WAT(eta=0.1),
    ("standard", "faal"): acw.policies.FAAL(radius=0.5, exact=True),
    ("trades", "faal"): acw.policies.FAAL(radius=0.5, exact=True),
    ("trades", "faal-awp"): acw.policies.FAAL(radius=0.5, exact=True),
    ("standard", "cfol"): acw.policies.CFOL(eta=5e-6, gamma=0.5),
}
VALIDATION = {"cfa": 0.02, "cfa-fat": 0.02, "frl": 0.06, "wat": 0.02, "cfol": 0.2}


@pytest.mark.parametrize("of", VARIANTS, ids="-".join)
def test_variants_are_the_published_ones(of):
    method, architecture, variant = of
    expected, learning_rates = VARIANTS[of]
    recipe = paper_recipe(method, architecture, "cifar10", variant)
    options = recipe.trainer_options()
    assert {name: options.get(name) for name in expected} == expected
    assert options.get("class_policy") == POLICIES.get((method, variant))
    assert (recipe.validation, recipe.precision) == (VALIDATION.get(variant, 0.0), "fp32")
    assert recipe.fine_tunes is (variant in ("frl", "faal", "faal-awp"))
    assert options["eps"] in (0.031, 8 / 255)
    if learning_rates is None:  # as without what is added
        learning_rates = [epoch[0] for epoch in rates(paper_recipe(method, architecture, "cifar10"), 128)]
    assert [epoch[0] for epoch in rates(recipe, 128)] == pytest.approx(learning_rates)


def test_methods_of_their_own_are_the_published_ones():
    bat = paper_recipe("bat", "resnet18", "cifar10")
    assert [epoch[0] for epoch in rates(bat, 128)] == pytest.approx(
        falling((0.1, 74), (0.01, 15), (1e-3, 10), (1e-4, 101))
    )
    assert (bat.beta, bat.exact, bat.weight_decay) == (6.0, True, 2e-4)
    trades, wide = (paper_recipe("trades", name, "cifar10") for name in ("resnet18", "wrn-34-10"))
    assert not trades.verified
    assert trades == replace(wide, source=trades.source, verified=False, unverified=trades.unverified)
    assert paper_recipe("trades", "resnet18", "cifar100", "dafa").class_policy == "dafa:lamb=1.5,warmup=70"


def test_the_recipe_for_generated_images():
    """400 epochs of 98 steps with 358 of 512 images generated; one cycle, of which 2.5 % rise."""
    recipe = paper_recipe("trades", "wrn-28-10-swish", "cifar10")
    options = recipe.trainer_options()
    labelled = 512 - round(512 * recipe.unlabeled_fraction)
    assert (labelled, recipe.beta, options["ema_decay"], options["label_smoothing"]) == (154, 5.0, 0.995, 0.1)
    assert recipe.epochs * math.ceil(50_000 / labelled) == pytest.approx(400 * 98, rel=0.005)
    assert (recipe.batch_size, recipe.weight_decay, recipe.nesterov) == (512, 5e-4, True)
    by_step = [rate for epoch in rates(recipe, 100 * 512) for rate in epoch]
    assert max(by_step) == pytest.approx(0.2)
    assert by_step.index(max(by_step)) == pytest.approx(0.025 * len(by_step), abs=1.5)
    assert (recipe.validation * 50_000, recipe.keep) == (1024, "robust")


@pytest.mark.parametrize("of", TABLE, ids="-".join)
def test_each_published_recipe_can_be_followed(of):
    """By its trainer, with its policy, for its epochs: checked as before a training."""
    recipe = TABLE[of]
    assert (recipe.method, recipe.name) == (of[0], of[3])
    assert recipe.precision == "fp32"
    assert recipe.compile is False
    assert recipe.verified in (True, False)
    assert bool(recipe.unverified) is not recipe.verified
    assert recipe.provenance.endswith("(verified)" if recipe.verified else f"(not verified: {recipe.unverified})")
    network = nn.Sequential(nn.Flatten(), nn.Linear(75, 10))
    optimizer = recipe.optimizer(network)
    classifier = acw.as_classifier(network, (3, 5, 5), 10, optimizer=optimizer, device="cpu")
    trainer = trainers.METHODS[recipe.method].trainer(classifier, **recipe.trainer_options(network))
    images = torch.zeros(20, 3, 5, 5).numpy()
    held_out = (images, [k % 10 for k in range(20)]) if recipe.validation else None
    fit = recipe.fit_options(optimizer, 1000)
    interval, schedule = fit["scheduler_interval"], fit["scheduler"]
    trainer._checked(held_out, fit["nb_epochs"], schedule, interval, recipe.keep or "last", None, False)


def test_the_list_says_what_is_verified():
    table = published_recipes()
    assert len(table) == len(TABLE)
    known = table.set_index(["method", "architecture", "dataset", "recipe"])
    assert known.loc[("mart", "resnet18", "cifar10", "paper"), "verified"]
    assert not known.loc[("mart", "mnist-cnn", "mnist", "paper"), "verified"]
    assert ((table["unverified"] == "") == table["verified"]).all()
    assert set(table["recipe"]) | {"fast"} == set(RECIPES)
    assert table["source"].str.contains(r"20\d\d").all()


def test_studies_of_before_are_recognised():
    """A study's file names no attribute that was added since."""
    from art_classwise.studies.class_exclusion import _recipe_told

    for recipe in (paper_recipe("mart", "resnet18", "cifar10"), plain_recipe("trades")):
        told = set(_recipe_told(recipe.override(epochs=3)))
        assert not {"verified", "unverified", "changed", "rise", "ema_decay"} & told
