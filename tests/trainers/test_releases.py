"""Training methods against transcriptions of the authors' released code, with the switches set that follow it.

Class policies are in test_releases_policies.py.
"""

from __future__ import annotations

import pytest
import torch
from releases import (
    BAT,
    BATCH,
    EPS,
    MART,
    STANDARD,
    STEP,
    STEPS,
    TRADES,
    C,
    attack_ce,
    attack_kl,
    begin,
    check_same,
    descend,
    divergence,
    each,
    normal_start,
    perturbed,
    shift,
    step_of,
    train,
    uniform_start,
)
from torch.nn.functional import cross_entropy, softmax

import art_classwise as acw
from art_classwise import InputError
from art_classwise.trainers.engine.adversary import Budgets, InnerSearch


def running_mean(model):
    return model.norm.running_mean


def test_trades_classifies_clean_images_twice():
    model, epochs, *_ = train(TRADES, passes="cac", beta=6.0)
    expected, optimizer = begin()
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        x_adv = attack_kl(expected, x, draw)
        z, z_adv, again = expected(x), expected(x_adv), expected(x)
        descend(optimizer, cross_entropy(z, y) + 6 * divergence(again, z_adv).mean())
    check_same(model, expected)
    other, *_ = train(TRADES, two_passes=True)
    assert (running_mean(other) - running_mean(model)).abs().max() > 1e-5  # the order can be told


def test_mart_exact():
    model, epochs, *_ = train(MART, exact=True, beta=5.0)
    expected, optimizer = begin()
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        x_adv = attack_ce(expected, x, y, draw, normal_start)
        z, z_adv = expected(x), expected(x_adv)
        p, q = softmax(z, 1), softmax(z_adv, 1)
        best = q.topk(2, dim=1).indices
        other = torch.where(best[:, 0] == y, best[:, 1], best[:, 0])
        rows = torch.arange(len(y))
        first = cross_entropy(z_adv, y) - (1.0001 - q[rows, other] + 1e-12).log().mean()
        second = ((p * (p.log() - (q + 1e-12).log())).sum(1) * (1.0000001 - p[rows, y])).mean()
        descend(optimizer, first + 5 * second)
    check_same(model, expected)


def one_by_one(model, x, y, draw, misclassified):
    """The paper's figure 1 (a, b): by the natural prediction, PGD for correct examples, another attack for the rest."""
    model.eval()
    starts, found, kinds = normal_start(x, draw), [], set()
    for i, start in enumerate(starts):
        xi, yi = x[i : i + 1], y[i : i + 1]
        right = int(model(xi).argmax()) == int(yi)
        kinds.add(right)
        kind = "pgd" if right else misclassified
        z, steps, step = {"fgsm": (xi, 1, EPS), "none": (xi, 0, 0.0)}.get(kind, (start[None], STEPS, STEP))

        def loss(logits, yi=yi, kind=kind):
            if kind != "cw":
                return cross_entropy(logits, yi, reduction="none")
            others = torch.cat([logits[:, :yi], logits[:, yi + 1 :]], 1)
            return others.amax(1) - logits[:, int(yi)]

        for _ in range(steps):
            z = step_of(model, xi, z, loss, EPS, step)
        found.append(z)
    model.train()
    return draw.agreed(torch.cat(found)), kinds


@pytest.mark.parametrize("misclassified", ["pgd", "fgsm", "cw", "none"])
def test_mart_attacks_misclassified_examples_otherwise(misclassified):
    model, epochs, *_ = train(MART, exact=True, beta=5.0, misclassified_attack=misclassified)
    expected, optimizer = begin()
    seen = set()
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        x_adv, kinds = one_by_one(expected, x, y, draw, misclassified)
        seen |= kinds
        z, z_adv = expected(x), expected(x_adv)
        descend(optimizer, acw.losses.mart(z, z_adv, y, 5.0, exact=True).mean())
    check_same(model, expected)
    assert seen == {True, False}


def test_not_attacking_the_misclassified_is_attacking_the_correct():
    one, *_ = train(MART, misclassified_attack="none")
    other, *_ = train(MART, attacked="correct")
    for value, same in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(value, same)


def test_fgsm_on_misclassified_examples_goes_towards_a_target_where_there_is_one():
    """As class policies set them (TRIX, FAIR-TAT), on a linear network: along w_t less the mean of w by softmax."""
    torch.manual_seed(0)
    network, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3)), torch.rand(40, 1, 2, 3)
    y = network(x).argmin(1)  # all are misclassified
    targets = torch.where(torch.arange(40) % 2 > 0, (y + 1) % 3, -1)
    bounds = torch.tensor(-9.0), torch.tensor(9.0)
    search = InnerSearch(acw.ThreatModel("Linf", 0.1), 0.02, 3, *bounds, start="clean", misclassified_attack="fgsm")
    x_adv = search(network, x, y, None, Budgets(targets=targets))
    weight = network[1].weight.detach()
    p, aim = network(x).softmax(1).detach(), torch.where(targets >= 0, targets, y)
    along = (weight[aim] - p @ weight) * torch.where(targets >= 0, 1.0, -1.0)[:, None]
    torch.testing.assert_close(x_adv, x + 0.1 * along.sign().view_as(x))


@pytest.mark.parametrize("part", ["misclassified", "correct"])
def test_mart_regularises_one_part_alone(part):
    """The paper's figure 1 (c), with BCE: the divergence counts where the natural prediction is wrong, or right."""
    model, epochs, *_ = train(MART, two_passes=True, beta=5.0, weighted=part)
    expected, optimizer = begin()
    n = 0
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        x_adv = attack_ce(expected, x, y, draw, normal_start)
        z, z_adv = expected(x), expected(x_adv)
        q, total = softmax(z_adv, 1), 0.0
        for i, k in enumerate(y.tolist()):
            likeliest = sorted(range(C), key=q[i].tolist().__getitem__)
            j = next(j for j in reversed(likeliest) if j != k)
            total = total - q[i, k].log() - (1 - q[i, j]).log()
            if (int(z[i].argmax()) != k) == (part == "misclassified"):
                total, n = total + 5 * divergence(z[i : i + 1], z_adv[i : i + 1])[0], n + 1
        descend(optimizer, total / len(y))
    check_same(model, expected)
    assert 0 < n < sum(len(y) for epoch in epochs for _, y, _ in epoch)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"misclassified_attack": "pdg"}, "Unknown value of `misclassified_attack` 'pdg'. Did you mean pgd"),
        ({"misclassified_attack": True}, "Unknown value of `misclassified_attack` 'True'"),
        ({"weighted": "misclasified"}, "Unknown value of `weighted` 'misclasified'. Did you mean misclassified"),
        ({"weighted": 0.5}, "Unknown value of `weighted` '0.5'. Known: misclassified, correct. Or give True or False."),
        ({"weighted": 1}, "Or give True or False"),
        ({"weighted": None}, "Or give True or False"),
        ({"weighted": "correct", "kl": False}, "is about the KL term, which `kl=False` leaves out"),
        ({"attacked": "misclassified", "misclassified_attack": "none"}, "leave no example attacked"),
        ({"attacked": "correct", "misclassified_attack": "cw"}, "has no effect: leave one of them out"),
    ],
)
def test_switches_of_mart_that_are_none_are_refused(options, says):
    with pytest.raises(InputError) as error:
        train(MART, **options)
    assert says in str(error.value)


def test_awp_on_trades():
    model, epochs, *_ = train(TRADES, 3, weight_decay=0.0, passes="acc", awp_gamma=0.02, awp_warmup=1)
    expected, optimizer = begin(weight_decay=0.0)
    for number, (x, y, draw) in ((n, batch) for n, epoch in enumerate(epochs, 1) for batch in epoch):
        x_adv = attack_kl(expected, x, draw)

        def loss(network, x=x, y=y, x_adv=x_adv):
            z_adv = network(x_adv)
            robust = divergence(network(x), z_adv).mean()
            return cross_entropy(network(x), y) + 6 * robust

        changes = perturbed(expected, loss, 0.02) if number >= 2 else {}
        shift(expected, changes, 1)
        descend(optimizer, loss(expected))
        shift(expected, changes, -1)
    check_same(model, expected)


def test_awp_on_standard_training_attacks_in_train_mode_and_classifies_clean_images_after_the_step():
    model, epochs, *_ = train(STANDARD, weight_decay=0.0, passes="a|c", attack_mode="train", awp_gamma=0.01)
    expected, optimizer = begin(weight_decay=0.0)
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        x_adv = attack_ce(expected, x, y, draw, uniform_start, training=True)
        changes = perturbed(expected, lambda network, x=x_adv, y=y: cross_entropy(network(x), y), 0.01)
        shift(expected, changes, 1)
        descend(optimizer, cross_entropy(expected(x_adv), y))
        shift(expected, changes, -1)
        expected(x)
    check_same(model, expected)
    other, *_ = train(STANDARD, weight_decay=0.0, passes="a|c", awp_gamma=0.01)
    assert (running_mean(other) - running_mean(model)).abs().max() > 1e-5


def friendly(model, x, y, draw, tau, eps=None):
    """FAT: each example's search ends once it has been found misclassified more than tau times."""
    model.eval()
    found, left = [], 0
    for i, start in enumerate(uniform_start(x, draw, EPS if eps is None else eps)):
        xi, yi, z, control = x[i : i + 1], y[i : i + 1], start[None], tau
        for step in range(STEPS):
            if int(model(z).argmax()) != int(yi):
                if control == 0:
                    left += step > 0
                    break
                control -= 1
            radius = EPS if eps is None else eps[i : i + 1]
            z = step_of(model, xi, z, lambda logits, yi=yi: cross_entropy(logits, yi, reduction="none"), radius, STEP)
        found.append(z)
    model.train()
    return draw.agreed(torch.cat(found)), left


@pytest.mark.parametrize("tau", [0, 1])
def test_friendly_training_ends_each_search_at_the_boundary(tau):
    model, epochs, *_ = train(STANDARD, 8, friendly_tau=tau)
    expected, optimizer = begin()
    n = 0
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        x_adv, left = friendly(expected, x, y, draw, tau)
        descend(optimizer, cross_entropy(expected(x_adv), y))
        n += left
    check_same(model, expected)
    assert n > 5


def test_cfa_on_friendly_training():
    policy = acw.policies.CFA(begin_after=1, fawa=False)
    model, epochs, _, history = train(STANDARD, 3, friendly_tau=0, class_policy=policy)
    expected, optimizer = begin()
    radii = torch.ones(C)
    for epoch in epochs:
        right, n = torch.zeros(C), torch.zeros(C)
        for x, y, draw in epoch:
            x_adv, _ = friendly(expected, x, y, draw, 0, each(EPS * radii[y]))
            z_adv = expected(x_adv)
            descend(optimizer, cross_entropy(z_adv, y))
            right += torch.bincount(y[z_adv.argmax(1) == y], minlength=C)
            n += torch.bincount(y, minlength=C)
        radii = 0.5 + right / n
    check_same(model, expected)
    assert history[[f"eps_{k}" for k in range(C)]].iloc[-1].std() > 0.01


@pytest.mark.parametrize("method", [BAT, acw.NaturalTrainerPyTorch])
def test_friendly_training_needs_an_attack_of_its_own(method):
    with pytest.raises(InputError, match="leave (`friendly_tau` out|it out)"):
        train(method, friendly_tau=0)


def last_correct(model, x, y, draw):
    """Each example goes on until it is misclassified; it then is where it was before, or at the start."""
    model.eval()
    found = []
    for i, start in enumerate(normal_start(x, draw)):
        xi, z = x[i : i + 1], start[None]
        clean, before = model(xi).detach(), z
        for _ in range(STEPS):
            if int(model(z).argmax()) != int(y[i]):
                z = before
                break
            before, z = z, step_of(model, xi, z, lambda logits, clean=clean: divergence(clean, logits), EPS, STEP)
        found.append(z)
    return torch.cat(found)


def first_misclassified(model, x, y, draw, tau=1):
    """Each example goes on until it is found misclassified once more than tau times."""
    model.eval()
    found = []
    for i, start in enumerate(normal_start(x, draw)):
        xi, z, control = x[i : i + 1], start[None], tau
        clean = model(xi).detach()
        for _ in range(STEPS):
            if int(model(z).argmax()) != int(y[i]):
                if control == 0:
                    break
                control -= 1
            z = step_of(model, xi, z, lambda logits, clean=clean: divergence(clean, logits), EPS, STEP)
        found.append(z)
    return torch.cat(found)


def test_bat_exact():
    model, epochs, *_ = train(BAT, 3, exact=True, eps_step=STEP)
    expected, optimizer = begin()
    crossed = set()
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        last, first = last_correct(expected, x, y, draw), first_misclassified(expected, x, y, draw)
        first, last = (draw.agreed(*pair) for pair in zip((first, last), draw.found.chunk(2), strict=True))
        right = (expected(v).argmax(1) == y for v in (last, first))
        crossed |= set(zip(*(v.tolist() for v in right), strict=True))
        expected.train()
        z_last, z_first, z = expected(last), expected(first), expected(x)
        uniform = torch.full((1, C), 0.1)  # logits, all equal
        spread = divergence(z_last, uniform).mean() + divergence(z_first, uniform).mean()
        descend(optimizer, cross_entropy(z_last, y) + 6 * divergence(z, z_first).mean() + spread)
    check_same(model, expected)
    assert len(crossed) >= 3  # examples that were crossed, that weren't, that were wrong to begin with


# The options by themselves.


@pytest.mark.parametrize("passes", ["ca", "ac", "cac", "acaca|ca"])
def test_the_order_of_passes_is_batch_norms_matter_alone(passes):
    """One step, all images in it: the weights after it don't depend on the order."""
    plain, *_ = train(TRADES, 1, batch_size=4 * BATCH, two_passes=True)
    model, epochs, *_ = train(TRADES, 1, batch_size=4 * BATCH, passes=passes)
    for value, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-7)
    assert model.norm.num_batches_tracked.item() == len(passes.replace("|", ""))
    mean, stepped, (x, _, draw) = torch.zeros(4), False, epochs[0][0]
    before, _ = begin()
    for letter in passes:
        stepped |= letter == "|"
        if letter != "|":
            seen = (model if stepped else before).conv(x if letter == "c" else draw.found).mean((0, 2, 3))
            mean = 0.9 * mean + 0.1 * seen.detach()
    torch.testing.assert_close(model.norm.running_mean, mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pass_without_a_gradient_leaves_the_others_theirs(precision):
    """Under autocast, too, which keeps the weights that it has rounded."""
    alone, *_ = train(STANDARD, 1, batch_size=4 * BATCH, passes="a", precision=precision)
    after, *_ = train(STANDARD, 1, batch_size=4 * BATCH, passes="ca", precision=precision)
    for value, other, first in zip(after.parameters(), alone.parameters(), begin()[0].parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-7)
        assert not torch.equal(value, first)


def test_an_attack_in_train_mode_leaves_flags_and_gradients(monkeypatch):
    model, *_ = train(TRADES, 1, attack_mode="train")
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.norm.num_batches_tracked.item() == 4 * (1 + STEPS + 1)  # the clean images, the iterates, the step


@pytest.mark.parametrize(
    ("method", "passes", "says"),
    [
        (TRADES, "c", '`passes` must be letters of "ca" and at most one "|", the step, with "a" before it'),
        (TRADES, "cab", 'such as "ca" or "ca|c", but got \'cab\''),
        (TRADES, "c|a", 'with "a" before it'),
        (TRADES, "ca|c|c", "but got 'ca|c|c'"),
        (TRADES, "", "but got ''"),
        (TRADES, 2, "but got 2"),
        (TRADES, ["c", "a"], "but got ['c', 'a']"),
        (BAT, "ca", 'letters of "cfl"'),
        (BAT, "cf", '"f" and "l" before it'),
        (acw.NaturalTrainerPyTorch, "ca", 'letters of "c"'),
    ],
)
def test_an_order_of_passes_that_is_none_is_refused(method, passes, says):
    with pytest.raises(InputError) as error:
        train(method, passes=passes)
    assert says in str(error.value)


@pytest.mark.parametrize(("method", "passes"), [(TRADES, "a"), (TRADES, "a|c"), (MART, "a"), (BAT, "fl")])
def test_clean_images_must_be_classified_where_the_loss_needs_them(method, passes):
    with pytest.raises(InputError, match='must name the clean images, "c", before the step: .*PyTorch needs their'):
        train(method, passes=passes)


def test_what_else_is_refused():
    from art.attacks.evasion import FastGradientMethod

    model, optimizer = begin()
    classifier = acw.as_classifier(model, (1, 5, 5), C, optimizer=optimizer, device="cpu")
    with pytest.raises(InputError, match="Unknown attack_mode 'training'"):
        TRADES(classifier, attack_mode="training")
    with pytest.raises(InputError, match='`attack_mode="train"` is for the built-in attack'):
        STANDARD(classifier, attack=FastGradientMethod(classifier), attack_mode="train")
    with pytest.raises(InputError, match="`friendly_tau` is for the built-in attack"):
        STANDARD(classifier, attack=FastGradientMethod(classifier), friendly_tau=1)
    with pytest.raises(InputError, match="has no attack, so `attack_mode` has no effect"):
        acw.NaturalTrainerPyTorch(classifier, attack_mode="train")
    with pytest.raises(InputError, match="`exact` must be True or False, but got 'yes'"):
        BAT(classifier, exact="yes")
