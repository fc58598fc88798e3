"""Training with attacks of one step: the attacks against a literal transcription, and the watch over classes."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import trainable
from trainable import SMALL, make

import art_classwise as acw
from art_classwise import InputError
from art_classwise.policies import Fixed
from art_classwise.trainers import trained_weights, training_history
from art_classwise.trainers.engine.adversary import Budgets
from art_classwise.trainers.engine.collapse import CollapseWatch, first_collapses

FAST = acw.AdversarialTrainerFastPyTorch
EPS = 0.1


@pytest.fixture(scope="module")
def data():
    return acw.load_dataset("digits", "train").first(200)


def quarter(*shape):
    """Not random, and not the image itself: noise of minus half the radius."""
    return torch.full(shape, 0.25)


def literal_step(model, x, y, method, noise, step, eps):
    """The two algorithms, as the papers have them; radii (n, 1, 1, 1)."""
    noise = noise * eps * (2 * 0.25 - 1)
    start = (x + noise).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(start), y, reduction="sum"), start)
    delta = start.detach() - x + step * gradient.sign()
    if method == "fgsm-rs":
        delta = torch.min(torch.max(delta, -eps), eps)
    return (x + delta).clamp(0, 1)


@pytest.mark.parametrize("budgeted", [False, True])
@pytest.mark.parametrize(("method", "noise", "step"), [("n-fgsm", 2.0, 1.0), ("fgsm-rs", 1.0, 1.25)])
def test_the_step_is_that_of_the_paper(method, noise, step, budgeted, data):
    classifier = make()
    model, x, y = classifier.model.eval(), torch.from_numpy(data.x), torch.from_numpy(data.y)
    trainer = FAST(classifier, method, eps=EPS, verbose=False)
    scales = torch.tensor([0.25, 1.0, 1.5, 0.5])[torch.arange(len(x)) % 4] if budgeted else torch.ones(len(x))
    budgets = Budgets(scales, scales) if budgeted else None
    attack = trainer._adversary(start="uniform", loss="cross_entropy", attacked="all")
    radii = EPS * scales.view(-1, 1, 1, 1)
    expected = literal_step(model, x, y, method, noise, step * radii, radii)
    found = attack(model, x, y, quarter, budgets)
    same = ((found - expected).abs() < 1e-6).flatten(1).all(1)
    assert same.float().mean() > 0.98  # rounding may turn the sign of a gradient that is all but zero
    size = (found - x).abs().flatten(1).amax(1) / radii.flatten()
    assert size.max() <= (1 + 1e-5 if method == "fgsm-rs" else 2 + 1e-5)
    assert size.max() > (0.99 if method == "fgsm-rs" else 1.4)  # N-FGSM isn't brought back into the ball


@pytest.mark.parametrize(("norm", "eps"), [("L2", 0.5), ("L1", 2.0)])
def test_other_norms_leave_the_ball_by_as_much(norm, eps, data):
    classifier = make()
    trainer = FAST(classifier, norm=norm, eps=eps, verbose=False)
    attack = trainer._adversary(start="uniform", loss="cross_entropy", attacked="all")
    torch.manual_seed(0)
    x = torch.from_numpy(data.x).clamp(0.4, 0.6)  # so that the box hinders less
    found = attack(classifier.model, x, torch.from_numpy(data.y), torch.rand)
    size = trainer.threat.size(found - x)
    assert size.max() > 1.2 * eps
    assert size.max() <= 3 * eps * (1 + 1e-5)


@pytest.mark.parametrize("method", ["n-fgsm", "fgsm-rs"])
def test_without_noise_it_is_fgsm(method, data):
    classifier = make()
    model, x, y = classifier.model.eval(), torch.from_numpy(data.x), torch.from_numpy(data.y)
    trainer = FAST(classifier, method, noise=0, eps=EPS, eps_step=EPS, verbose=False)
    found = trainer._adversary(start="uniform", loss="cross_entropy", attacked="all")(model, x, y, torch.rand)
    fgsm = acw.PGD(classifier, eps=EPS, eps_step=EPS, max_iter=1, num_random_init=0, verbose=False)
    np.testing.assert_allclose(found, fgsm.generate(data.x, data.y), atol=1e-6)


def test_history_tells_one_step_and_several_by_class(data):
    classifier = make()
    held = acw.load_dataset("digits", "test").first(200)
    trainer = FAST(classifier, eps=EPS, max_iter=5, precision="fp32", verbose=False)
    history = trainer.fit(data.x, data.y, (held.x, held.y), batch_size=50, nb_epochs=3)
    last = history.iloc[-1]
    common = {"eps": EPS, "verbose": False}
    single = acw.PGD(classifier, eps_step=EPS, max_iter=1, num_random_init=0, **common).generate(held.x, held.y)
    right = classifier.predict(held.x).argmax(1) == held.y
    withstood = (classifier.predict(single).argmax(1) == held.y) & right
    for k in range(10):
        assert last[f"val_single_{k}"] == pytest.approx(withstood[held.y == k].mean())
        assert last[f"val_gap_{k}"] == pytest.approx(last[f"val_single_{k}"] - last[f"val_robust_{k}"])
    assert last["val_single"] == pytest.approx(withstood.mean())
    assert history[[f"collapsed_{k}" for k in range(10)]].isin([0, 1]).all(axis=None)
    assert history.attrs["collapsed"] == {}
    without = FAST(make(), eps=EPS, verbose=False).fit(data.x, data.y, batch_size=50, nb_epochs=1)
    assert not [c for c in without if c.startswith(("val_", "collapsed"))]


# The watch.


def row(epoch, robust, single):
    told = {"epoch": float(epoch), "val_robust": float(np.nanmean(robust)), "val_single": float(np.nanmean(single))}
    told |= {f"val_robust_{k}": value for k, value in enumerate(robust)}
    return told | {f"val_single_{k}": value for k, value in enumerate(single)}


def watched(*epochs, answer=None, gap=0.25):
    watch, rows = CollapseWatch(None, answer, gap, len(epochs[0][0])), []
    for number, (robust, single) in enumerate(epochs, 1):
        one = row(number, robust, single)
        rows.append(one | watch.columns(one, rows))
    return watch, rows


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        ([([0.6, 0.5], [0.7, 0.6]), ([0.6, 0.5], [0.7, 0.6])], {}),
        ([([0.6, 0.5], [0.7, 0.6]), ([0.1, 0.5], [0.9, 0.6])], {0: 2}),
        ([([0.6, 0.5], [0.7, 0.6]), ([0.6, 0.2], [0.9, 0.6]), ([0.0, 0.0], [1.0, 1.0])], {1: 2, 0: 3}),
        ([([0.6, 0.5], [0.7, 0.6]), ([0.1, 0.5], [0.3, 0.6])], {}),  # lost under one step, too: not this failure
        ([([0.6, 0.5], [0.7, 0.6]), ([0.4, 0.5], [0.9, 0.6])], {}),  # more than half is left
        ([([0.0, 0.5], [0.9, 0.6])], {}),  # there was nothing to lose
        ([([0.6, math.nan], [0.7, math.nan]), ([0.1, math.nan], [0.9, math.nan])], {0: 2}),
        ([([0.6, 0.5], [0.7, 0.6]), ([0.3, 0.5], [0.55, 0.6])], {0: 2}),  # the bounds themselves
    ],
)
def test_a_collapse_is_a_loss_under_several_steps_alone(epochs, expected):
    _, rows = watched(*epochs)
    assert first_collapses(rows) == expected
    assert list(first_collapses(rows)) == list(expected)


def test_a_collapse_is_told_once_and_ends_training_if_asked():
    epochs = [([0.6, 0.5], [0.7, 0.6]), ([0.1, 0.5], [0.9, 0.6]), ([0.1, 0.1], [0.9, 0.9])]
    for answer in (None, "stop", "restore"):
        watch, rows = watched(*epochs, answer=answer)
        assert [watch.message(rows[:n], 1) is None for n in (1, 2, 3)] == [True, False, True]
        assert [watch.ends(rows[:n]) for n in (1, 2, 3)] == [False, answer is not None, answer is not None]
        assert "overfitting in epoch 2 of class 0 (90% under one step, 10% under several)" in watch.message(rows[:2], 1)
    assert "with the weights from after epoch 1" in watch.message(rows[:2], 1)
    assert not watch.ends([])


class Losing(FAST):
    """A training of which it is made believe that classes collapse in its third epoch."""

    def _watch(self):
        watch = super()._watch()
        real = watch.columns

        def columns(row, before):
            if row["epoch"] == 3:
                row |= {"val_single_4": 1.0, "val_robust_4": 0.0}
            return real(row, before)

        object.__setattr__(watch, "columns", columns)
        return watch


def trained(data, folder, on_collapse, nb_epochs=5, resume=False, **fit):
    classifier = make()
    trainer = Losing(classifier, eps=0.02, max_iter=2, on_collapse=on_collapse, verbose=False)
    history = trainer.fit(
        *(data.x, data.y),
        validation_data=(data.x, data.y),
        batch_size=50,
        nb_epochs=nb_epochs,
        checkpoint_dir=folder,
        resume=resume,
        **fit,
    )
    return trainable.weights(classifier), history


@pytest.mark.parametrize(("on_collapse", "epochs", "kept"), [(None, 5, 5), ("stop", 3, 3), ("restore", 3, 2)])
def test_training_answers_a_collapse(on_collapse, epochs, kept, data, tmp_path):
    told = "Catastrophic overfitting in epoch 3 of class 4"
    with pytest.warns(UserWarning, match=told):
        weights, history = trained(data, tmp_path / "a", on_collapse)
    assert len(history) == epochs
    assert history.attrs["kept_epoch"] == kept
    assert history.attrs["collapsed"] == {4: 3}
    assert training_history(tmp_path / "a").attrs["collapsed"] == {4: 3}
    # As after so many epochs of a training without an answer.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, _ = trained(data, tmp_path / "b", None, nb_epochs=kept)
        again, resumed = trained(data, tmp_path / "a", on_collapse, resume=True)
    assert torch.equal(weights, expected)
    assert torch.equal(again, expected)  # and it isn't trained further
    assert len(resumed) == epochs
    kept_weights = torch.cat([v.flatten() for v in trained_weights(tmp_path / "a").values()])
    assert torch.equal(kept_weights, expected)


def test_what_keep_chose_before_stays_chosen(data, tmp_path):
    """The most robust epoch, unless that is the one of the collapse."""
    with pytest.warns(UserWarning, match="Catastrophic"):
        _, history = trained(data, tmp_path / "a", "restore", keep="robust")
    best = history["val_robust"][:2].idxmax() + 1
    assert history.attrs["kept_epoch"] == (2 if history["val_robust"].idxmax() == 2 else best)


@pytest.mark.parametrize("on_collapse", ["stop", "restore"])
@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_message_names_the_epoch_whose_weights_training_ends_with(on_collapse, best, data, tmp_path):
    """Where `keep` chose one before it isn't the one before the collapse."""

    class Best(Losing):
        def _watch(self):
            watch = super()._watch()
            real = watch.columns

            def columns(row, before):
                row["val_robust"] = 1.0 if row["epoch"] == best else 0.5
                return real(row, before)

            object.__setattr__(watch, "columns", columns)
            return watch

    trainer = Best(make(), eps=0.02, max_iter=1, on_collapse=on_collapse, verbose=False)
    kept = 2 if (best, on_collapse) == (3, "restore") else best
    with pytest.warns(UserWarning, match="Catastrophic") as told:
        history = trainer.fit(data.x, data.y, (data.x, data.y), nb_epochs=4, keep="robust")
    assert history.attrs["kept_epoch"] == kept
    said = "ends here." if kept == 3 else f"ends here, with the weights from after epoch {kept}."
    assert str(told[0].message).endswith(said)


def test_class_policies_and_budgets_go_with_it(data):
    policy = Fixed(weights={3: 2.0}, budgets={3: 0.05})
    history = FAST(make(), "fgsm-rs", eps=EPS, class_policy=policy, verbose=False).fit(data.x, data.y, nb_epochs=1)
    assert history["eps_3"].iloc[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "fgsm"}, "Unknown method of fast adversarial training 'fgsm'. Did you mean n-fgsm|fgsm-rs"),
        ({"noise": -1}, "`noise` must be a number of at least 0"),
        ({"noise": math.nan}, "`noise`"),
        ({"on_collapse": "restor"}, "Unknown answer to a collapse, `on_collapse`, 'restor'. Did you mean restore"),
        ({"collapse_gap": 0}, "`collapse_gap` must be a number above 0 to 1"),
        ({"collapse_gap": 2}, "`collapse_gap`"),
        ({"attack": object()}, "defined by its own attack of one step: leave `attack` out"),
        ({"friendly_tau": 0}, "attacks in one step, so `friendly_tau` has no effect"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        FAST(make(), **{**SMALL, **options})


def test_an_answer_needs_something_to_see_a_collapse_on(data):
    with pytest.raises(InputError, match=r'`on_collapse="stop"` needs `validation_data`'):
        FAST(make(), on_collapse="stop", **SMALL).fit(data.x, data.y)
