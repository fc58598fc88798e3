"""Attacked images: what is shown lies in the ball, and is what the network itself was asked about."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forging import relisted

import art_classwise as acw
from art_classwise.audit.attacked_images import is_within, rounded_within

THREATS = ("Linf:0.1", "L2:0.6", "L1:4")


@pytest.fixture(scope="module")
def few():
    return acw.load_dataset("digits", "test").first(120)


@pytest.fixture(scope="module")
def classifier(trained):
    return acw.as_classifier(trained, (1, 8, 8), 10, device="cpu")


def audited(models, data, threat="Linf:0.1", attacks=("fgsm", "pgd-5"), **options):
    audit = acw.ClassWiseAudit(threat, attacks, checks=False, verbose=False, **options)
    return audit.evaluate(models, data)


@pytest.fixture(scope="module")
def result(classifier, few):
    return audited({"one": classifier}, few).with_images({"one": classifier}, few)


def asked(network, image):
    """What the network says of an image of 8 bits, by hand."""
    with torch.no_grad():
        return int(network(torch.from_numpy(image.astype(np.float32) / 255)[None]).argmax())


@pytest.mark.parametrize("threat", THREATS)
def test_images_lie_in_the_ball_and_the_verdicts_are_the_networks_own(classifier, trained, few, threat):
    result = audited({"one": classifier}, few, threat).with_images({"one": classifier}, few)
    norm, eps = threat.split(":")
    order = {"Linf": np.inf, "L2": 2, "L1": 1}[norm]
    broken = result.outcomes[~result.outcomes["withstood"]]
    assert len(result.images) > 5
    for image in result.images:
        delta = (image.attacked.astype(float) - image.original) / 255
        assert np.linalg.norm(delta.ravel(), order) <= float(eps) + 1e-9
        assert asked(trained, image.original) == image.label
        assert asked(trained, image.attacked) == image.prediction != image.label
        row = int(np.flatnonzero(few.ids == image.example)[0])
        assert few.y[row] == image.label
        assert np.abs(few.x[row] - image.original / 255).max() <= 0.5 / 255 + 1e-6
        of_row = broken[(broken["example"] == image.example) & (broken["attack"] == image.attack)]
        assert len(of_row) == 1


def test_few_of_each_class_and_models_in_turn(few, trained, classifier):
    torch.manual_seed(1)
    other = acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10, seed=1), (1, 8, 8), 10, device="cpu")
    with torch.no_grad():
        for new, old in zip(other.model.parameters(), trained.parameters(), strict=True):
            new.copy_(old + 0.01 * torch.randn_like(old))
    models = {"one": classifier, "two": other}
    images = audited(models, few).with_images(models, few).images
    for label in {image.label for image in images}:
        of_class = [image.model for image in images if image.label == label]
        assert len(of_class) <= 3
        assert {*of_class} == {"one", "two"}
    assert len(audited(models, few).with_images(models, few, per_class=1).images) <= 10


@pytest.mark.parametrize("threat", THREATS)
def test_rounding_stays_in_the_ball_and_shortens_only_where_it_must(threat):
    rng = np.random.default_rng(0)
    ball = acw.ThreatModel.parse(threat)
    original = rng.integers(0, 256, (50, 3, 4, 4)).astype(np.uint8)
    start = torch.from_numpy((original / 255 + rng.normal(0, 0.2, original.shape)).astype(np.float32))
    x_adv = ball.project(start, torch.from_numpy(original / 255).float(), torch.tensor(0.0), torch.tensor(1.0)).numpy()
    rounded = rounded_within(ball, x_adv, original)
    assert is_within(ball, rounded, original).all()
    plain = (255 * x_adv.astype(np.float64)).round().astype(np.uint8)
    fits = is_within(ball, plain, original)
    assert (rounded[fits] == plain[fits]).all()
    moved, wanted = (np.abs(a.astype(float) - original).reshape(50, -1).sum(1) for a in (rounded, 255 * x_adv))
    assert (moved > 0.8 * wanted).all()


def test_nothing_is_left_behind(trained, few, classifier, result):
    state = torch.get_rng_state()
    before, mode = [(p.requires_grad, p.grad) for p in trained.parameters()], trained.training
    again = result.with_images({"one": classifier}, few)
    assert torch.equal(torch.get_rng_state(), state)
    assert trained.training == mode
    assert [(p.requires_grad, p.grad) for p in trained.parameters()] == before
    for one, other in zip(result.images, again.images, strict=True):
        assert (one.example, one.prediction) == (other.example, other.prediction)
        np.testing.assert_array_equal(one.attacked, other.attacked)


def test_saved_and_read(result, tmp_path):
    result.save(tmp_path)
    read = acw.read_audit(tmp_path)
    for one, other in zip(result.images, read.images, strict=True):
        np.testing.assert_array_equal(one.original, other.original)
        np.testing.assert_array_equal(one.attacked, other.attacked)
        assert (one.model, one.attack, one.label, one.prediction) == (
            other.model,
            other.attack,
            other.label,
            other.prediction,
        )
    acw.AuditResult(result.outcomes, result.manifest).save(tmp_path, overwrite=True)
    assert acw.read_audit(tmp_path).images == ()


def test_images_of_another_network_are_not_shown(result, few, tmp_path):
    result.save(tmp_path / "one")
    other = acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10, seed=3), (1, 8, 8), 10, device="cpu")
    audited({"one": other}, few).save(tmp_path / "two")
    (images,) = (tmp_path / "one").glob("attacked_images-*.parquet")
    (tmp_path / "two" / images.name).write_bytes(images.read_bytes())
    relisted(tmp_path / "two")
    assert acw.read_audit(tmp_path / "two").images == ()


def changed(column, change):
    def damage(path):
        table = pq.read_table(path)
        first, *others = table.to_pylist()
        rows = [{**first, column: change(first[column])}, *others]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)

    return damage


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def repeated(path):
    table = pq.read_table(path)
    pq.write_table(table.take([0] * 300), path)


DAMAGE = {
    "truncated": truncated,
    "a link": linked,
    "too many": repeated,
    "no file": lambda path: (path.unlink(), path.mkdir()),
    "empty": lambda path: path.write_bytes(b""),
    "another shape": changed("width", lambda v: v + 1),
    "a huge shape": changed("height", lambda v: 2**31 - 1),
    "three channels": changed("channels", lambda v: 3),
    "no class": changed("prediction", lambda v: 10),
    "outside of the ball": changed("attacked", lambda v: bytes(255 - b for b in v)),
    "cut short": changed("original", lambda v: v[:-1]),
}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_images_are_not_shown_and_the_outcomes_are(result, tmp_path, how, listed):
    result.save(tmp_path)
    (images,) = tmp_path.glob("attacked_images-*.parquet")
    DAMAGE[how](images)
    if listed and how != "no file":
        relisted(tmp_path)
    with pytest.warns(UserWarning, match="is damaged, so its images aren't shown"):
        read = acw.read_audit(tmp_path)
    assert read.images == ()
    assert len(read.outcomes) == len(result.outcomes)


def test_what_was_not_audited_is_refused(result, few, classifier):
    other = acw.as_classifier(acw.build("digits-cnn", (1, 8, 8), 10, seed=3), (1, 8, 8), 10, device="cpu")
    with pytest.raises(acw.InputError, match="isn't the one that was audited"):
        result.with_images({"one": other}, few)
    with pytest.raises(acw.InputError, match="None of the models was audited; these were: one"):
        result.with_images({"two": classifier}, few)
    with pytest.raises(acw.InputError, match="aren't the examples that were audited"):
        result.with_images({"one": classifier}, few.first(100))


def test_attacks_of_ones_own_are_given_again(classifier, few):
    attacks = {"mine": lambda c: acw.PGD(c, eps=0.1, eps_step=0.05, max_iter=3, early_stop=True, verbose=False)}
    result = audited({"one": classifier}, few, attacks=attacks)
    with pytest.raises(acw.InputError, match="give `attacks` as they were given"):
        result.with_images({"one": classifier}, few)
    images = result.with_images({"one": classifier}, few, attacks=attacks).images
    assert {image.attack for image in images} == {"mine"}


def test_changes_below_a_grey_level_and_strange_channels_are_not_shown(classifier, few):
    tiny = audited({"one": classifier}, few, "Linf:0.001")
    assert tiny.with_images({"one": classifier}, few).images == ()
    rng = np.random.default_rng(0)
    data = acw.Dataset(rng.random((20, 2, 4, 4), dtype=np.float32), np.arange(20) % 2, ["a", "b"])
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 2))
    two = acw.as_classifier(network, (2, 4, 4), 2, device="cpu")
    assert audited({"two": two}, data, "Linf:0.3").with_images({"two": two}, data).images == ()


def test_of_large_images_few_are_made():
    """So that a page stays small: of 36 in all, as many as have 700,000 values."""
    rng = np.random.default_rng(0)
    data = acw.Dataset(rng.random((12, 3, 200, 200), dtype=np.float32), np.arange(12) % 4, list("abcd"))
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    with torch.no_grad():
        data = acw.Dataset(data.x, network(torch.from_numpy(data.x)).argmax(1).numpy(), list("abcd"))
    large = acw.as_classifier(network, (3, 200, 200), 4, device="cpu")
    images = audited({"large": large}, data, "Linf:0.5").with_images({"large": large}, data).images
    assert 1 <= len(images) <= 700_000 // (3 * 200 * 200)
