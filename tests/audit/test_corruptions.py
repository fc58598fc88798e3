"""Audits of corrupted images: what counts, beside attacks and alone, against NumPy by brute force."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from corrupted import classifier, corrupted, examples, write_arrays, write_files

import art_classwise as acw
from art_classwise.audit import work_on
from art_classwise.audit.corrupted import ALL_CORRUPTIONS, MEAN_CORRUPTION
from art_classwise.errors import InputError
from art_classwise.evidence import verify

KINDS = ("fog", "snow")


@pytest.fixture(scope="module")
def data():
    return examples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    return write_arrays(tmp_path_factory.mktemp("corrupted") / "TINY-C", data)


def audited(data, folder, corruptions="fog,snow", threat=None, attacks=None, **options):
    audit = acw.ClassWiseAudit(
        threat, attacks, corruptions=corruptions, corruption_dir=folder, verbose=False, checks=False, **options
    )
    return audit.evaluate({"net": classifier(data)}, data)


@pytest.fixture(scope="module")
def alone(data, folder):
    return audited(data, folder)


def right(data, kind, severity):
    """Return what the network gets right, by its definition, in NumPy."""
    return corrupted(data, kind, severity).astype(np.float32).mean((1, 2)).argmax(1) == data.y


def shares(data, kinds=KINDS, severities=range(1, 6)):
    return np.mean([np.mean([right(data, kind, s) for s in severities], axis=0) for kind in kinds], axis=0)


def test_mean_corruption_accuracy_by_class_is_the_mean_over_corruptions_severities_and_images(alone, data):
    assert str(alone.threat) == "corruptions"
    assert alone.adversaries == ()
    table = alone.by_corruption()
    for k, name in enumerate(data.classes):
        of = data.y == k
        for kind in KINDS:
            assert table.loc[name, kind] == pytest.approx(np.mean([right(data, kind, s)[of] for s in range(1, 6)]))
        assert table.loc[name, MEAN_CORRUPTION] == pytest.approx(shares(data)[of].mean())
        assert alone.class_table("net", "fog:3").loc[name, "robust"] == pytest.approx(right(data, "fog", 3)[of].mean())
    summary, row = alone.corruption_summary().loc["net"], alone.summary().loc["net"]
    means = [shares(data)[data.y == k].mean() for k in range(3)]
    assert summary["mean"] == row["mean"] == pytest.approx(np.mean(means))
    assert summary["worst"] == row["worst"] == pytest.approx(min(means))
    assert summary["worst_class"] == data.classes[int(np.argmin(means))]
    of_kinds = table[list(KINDS)].mean()
    assert summary["worst_corruption"] == of_kinds.idxmin()
    assert summary["weakest"] == table[list(KINDS)].to_numpy().min()
    assert alone.by_class().loc["net", MEAN_CORRUPTION]["robust"].tolist() == pytest.approx(means)


def test_a_corruption_may_mend_what_is_wrong_without_it(data, folder):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    audit = acw.ClassWiseAudit(corruptions="fog:5", corruption_dir=folder, verbose=False, checks=False)
    rows = audit.evaluate({"net": classifier(data, net)}, data).rows("net", "fog:5")
    mended = (rows["clean_prediction"] != rows["label"]) & (rows["prediction"] == rows["label"])
    assert mended.any()
    assert rows["withstood"].equals(rows["prediction"] == rows["label"])


def test_each_corruption_counts_alike_whatever_its_severities(data, folder):
    result = audited(data, folder, "fog:1,fog:5,snow:3")
    expected = (np.mean([right(data, "fog", s) for s in (1, 5)], axis=0) + right(data, "snow", 3)) / 2
    np.testing.assert_allclose(result.rows("net", MEAN_CORRUPTION)["withstood"], expected)
    np.testing.assert_array_equal(
        result.rows("net", ALL_CORRUPTIONS)["withstood"],
        right(data, "fog", 1) & right(data, "fog", 5) & right(data, "snow", 3),
    )


def test_corruptions_stay_out_of_the_worst_case_of_attacks(data, folder):
    both = audited(data, folder, "fog", "Linf:0.05", ["fgsm", "pgd-3"])
    attacks = acw.ClassWiseAudit("Linf:0.05", ["fgsm", "pgd-3"], verbose=False, checks=False)
    without = attacks.evaluate({"net": classifier(data)}, data)
    pd.testing.assert_frame_equal(both.summary(), without.summary())
    pd.testing.assert_frame_equal(both.rows("net"), without.rows("net"))
    pd.testing.assert_frame_equal(both.worst_case().outcomes, without.worst_case().outcomes)
    assert both.manifest.attacks.items() >= without.manifest.attacks.items()  # what is stored stays valid
    assert list(both.by_attack().columns[-2:]) == ["all attacks", MEAN_CORRUPTION]
    assert both.rows("net", MEAN_CORRUPTION)["withstood"].tolist() == pytest.approx(shares(data, ["fog"]).tolist())
    assert not both.threat.eps >= both.outcomes.loc[both.outcomes["attack"] == "fog:5", "perturbation"].max()


def test_no_check_of_attacks_runs_on_corruptions(data, folder):
    audit = acw.ClassWiseAudit(corruptions="fog", corruption_dir=folder, verbose=False)
    result = audit.evaluate({"net": classifier(data)}, data)
    skipped = {one.check.looks_for for one in result.check_results if one.skipped == "corruptions are no attack"}
    assert "no gradient attack of ten steps or more" in skipped
    assert {f.check for f in result.findings} <= {"few examples", "accuracy near chance"}
    assert result.strongly_attacked == ("net",)
    mixed = audited(data, folder, "fog", "Linf:0.05", "pgd-10")
    assert {f.saw for f in mixed.findings} == {
        f.saw
        for f in acw.ClassWiseAudit("Linf:0.05", "pgd-10", verbose=False, checks=False)
        .evaluate({"net": classifier(data)}, data)
        .findings
    }


def test_a_part_of_the_test_set_meets_its_own_images(data, folder):
    some = data.take(np.array([80, 3, 41, 7]))
    rows = audited(some, folder, "snow:4").rows("net", "snow:4")
    assert rows["withstood"].tolist() == right(data, "snow", 4)[some.ids].tolist()


def test_an_audit_that_goes_on_and_one_of_two_workers_give_the_same_table(data, folder, tmp_path, alone):
    audited(data, folder, "fog:1,snow:2", store=tmp_path / "store")
    again = audited(data, folder, "fog,snow", store=tmp_path / "store")
    pd.testing.assert_frame_equal(again.outcomes, alone.outcomes)
    with ThreadPoolExecutor(2) as pool:
        spread = audited(data, folder, executor=pool)
    pd.testing.assert_frame_equal(spread.outcomes, alone.outcomes)
    assert acw.read_audit(tmp_path / "store").finished
    again.save(tmp_path / "saved")
    pd.testing.assert_frame_equal(acw.read_audit(tmp_path / "saved").by_class(), again.by_class())
    assert verify(tmp_path / "store").ok
    assert verify(tmp_path / "saved").ok


@pytest.mark.filterwarnings("ignore:The (model|examples)")
def test_a_planned_audit_is_computed_and_verified(data, folder, tmp_path, alone):
    store = tmp_path / "plan"
    audit = acw.ClassWiseAudit(corruptions="fog,snow", corruption_dir=folder, verbose=False, checks=False, store=store)
    audit.plan({"net": lambda: classifier(examples())}, data)
    for index in range(2):
        work_on(store, index=index, of=2, run_code=True, verbose=False)
    pd.testing.assert_frame_equal(acw.read_audit(store).outcomes, alone.outcomes)
    assert verify(store, recompute=1.0, run_code=True, verbose=False).ok


def test_images_of_another_folder_are_another_attack(data, folder, tmp_path):
    audited(data, folder, "fog:1", store=tmp_path / "store")
    other = write_arrays(tmp_path / "TINY-C", data)
    pixels = np.load(other / "fog.npy")
    pixels[0, 0, 0, 0] ^= 1
    np.save(other / "fog.npy", pixels)
    with pytest.raises(InputError, match=r"of the attack 'fog:1', digest was"):
        audited(data, other, "fog:1", store=tmp_path / "store")


def test_images_of_a_folder_of_files_are_found_by_their_names(tmp_path):
    base = examples(30)
    names = [f"n{y:02}/val_{i:03}.png" for i, y in enumerate(base.y)]
    from PIL import Image

    for name, pixels in zip(names, corrupted(base, "none", 0), strict=True):
        path = tmp_path / "clean" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    data = acw.load_dataset(tmp_path / "clean")
    order = [names.index("/".join(file.split("/")[-2:])) for file in data.x.files]
    write_files(tmp_path / "ImageNet-C", base, names)
    result = audited(data, tmp_path / "ImageNet-C", "fog:2")
    assert result.rows("net", "fog:2")["withstood"].tolist() == right(base, "fog", 2)[order].tolist()
    (tmp_path / "ImageNet-C" / "fog" / "2" / names[0]).unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 30 images, first n0\d/val_000.png"):
        audited(data, tmp_path / "ImageNet-C", "fog:2")
    with pytest.raises(InputError, match="has no frost/1; at this severity it has snow, fog"):
        audited(data, tmp_path / "ImageNet-C", "frost:1")


def test_without_a_folder_images_are_made_and_named_so(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="images are made from the clean ones, without glass_blur, snow, frost, fog"):
        result = audited(data, None, "all:3")
    assert all(name.startswith("made:") for name in result.attacks)
    assert len(result.attacks) == 11
    again = audited(data.take(np.arange(5, 9)), None, "made:all:3")
    rows = result.outcomes[result.outcomes["example"].between(5, 8)].reset_index(drop=True)
    pd.testing.assert_frame_equal(again.outcomes, rows)  # by example, whatever stands beside it
    with pytest.raises(InputError, match=r"no folder of corrupted images for tiny.*`corruption_dir`"):
        audited(data, None, "fog:3")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"corruptions": "fgo:3"}, "Unknown corruption 'fgo'. Did you mean fog"),
        ({"corruptions": "fog:6"}, "from 1 to 5, the strongest, but got '6'"),
        ({"corruptions": "fog:3,fog"}, "'fog:3' is named twice"),
        ({"corruptions": ""}, "NAME or NAME:SEVERITY"),
        ({"corruptions": 3}, 'must be "all", or names'),
        ({"corruptions": {"fog": 3}}, 'must be "all", or names'),
        ({"corruptions": "made:fog"}, "with fog can't be made here, only with gaussian_noise"),
        ({"corruptions": "fog", "threat": "corruptions", "attacks": "fgsm"}, "have no norm and no radius"),
        ({"attacks": ["fog:3"], "threat": "Linf:0.1"}, "only corruptions: leave out the threat model"),
        ({"corruptions": "fog", "threat": "Linf:0.1", "worst_case": True}, "without `worst_case`"),
        ({"corruptions": "frost"}, "has no frost.npy; it has snow, fog"),
        ({"corruptions": "fog", "corruption_dir": "/nowhere"}, "no corrupted images, for there is no such folder"),
    ],
)
def test_what_cannot_be_asked_for_is_said(data, folder, options, says):
    given = {"corruption_dir": folder, "verbose": False, "checks": False, **options}
    with pytest.raises(InputError) as caught:
        acw.ClassWiseAudit(**given).evaluate({"net": classifier(data)}, data)
    assert says in str(caught.value)


def test_names_among_attacks_are_corruptions_too(data, folder):
    mixed = audited(data, folder, None, "Linf:0.05", ["fog:3", "fgsm", "snow:1"])
    assert mixed.attacks == ("fgsm", "fog:3", "snow:1")
    assert audited(data, folder, None, None, "fog:3").attacks == ("fog:3",)
    by_threat = acw.ClassWiseAudit("corruptions", verbose=False)
    assert len(by_threat._corruptions) == 75


def _other_length(folder):
    np.save(folder / "fog.npy", np.load(folder / "fog.npy")[:-1])


def _other_shape(folder):
    np.save(folder / "fog.npy", np.load(folder / "fog.npy")[:, :2])


def _floats(folder):
    np.save(folder / "fog.npy", np.load(folder / "fog.npy") / 255)


def _no_array(folder):
    (folder / "fog.npy").write_bytes(b"no array")


def _other_order(folder):
    np.save(folder / "labels.npy", np.load(folder / "labels.npy")[::-1].copy())


def _no_labels(folder):
    (folder / "labels.npy").unlink()


def _pickled(folder):
    np.save(folder / "labels.npy", np.array([{}], dtype=object))


def _empty(folder):
    (folder / "fog.npy").write_bytes(b"")


def _shuffled_labels(folder):
    np.save(folder / "labels.npy", np.random.default_rng(0).permutation(np.load(folder / "labels.npy")))


def _archive(folder):
    np.savez(folder / "fog.npz", x=np.zeros(3))
    (folder / "fog.npz").replace(folder / "fog.npy")


def _labels_in_an_archive(folder):
    np.savez(folder / "labels.npz", y=np.zeros(3))
    (folder / "labels.npz").replace(folder / "labels.npy")


def _damaged_archive(folder):
    (folder / "fog.npy").write_bytes(b"PK\x03\x04 and no more")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_other_length, r"holds 449 images, but labels.npy is of 90 at each of five severities, 450 in all"),
        (_other_shape, r"holds images of shape \(2, 4, 3\) \(H, W, C\), but those of tiny have \(4, 4, 3\)"),
        (_floats, "must hold uint8 images"),
        (_no_array, "can't be read as a NumPy array: it isn't as np.save writes them"),
        (_empty, "can't be read as a NumPy array: it isn't as np.save writes them"),
        (_shuffled_labels, "as many labels, which aren't the same at each of five severities"),
        (_other_order, r"labels.npy differs from the labels of tiny in \d+ of 90 places, first in that of example"),
        (_no_labels, "has no labels.npy"),
        (_pickled, "can't be read as a NumPy array"),
        (_archive, "fog.npy can't be read as a NumPy array: it is an archive"),
        (_labels_in_an_archive, "labels.npy can't be read as a NumPy array: it is an archive"),
        (_damaged_archive, "can't be read as a NumPy array"),
    ],
)
def test_folders_of_something_else_are_refused(data, tmp_path, damage, says):
    folder = write_arrays(tmp_path / "TINY-C", data)
    damage(folder)
    with pytest.raises(InputError, match=says):
        audited(data, folder, "fog")


@pytest.mark.parametrize("labels_of", [1, 5])
@pytest.mark.parametrize("y", [np.tile([0, 1, 2], 30), np.zeros(90, np.int64), np.repeat([2, 0, 1], 30)])
def test_labels_are_those_of_one_severity_or_of_all_five_whatever_their_order(data, tmp_path, y, labels_of):
    """Classes in turn look like five severities of fewer images: the number of images tells."""
    given = acw.Dataset(data.x, y, data.classes, name="tiny")
    result = audited(given, write_arrays(tmp_path / "TINY-C", given, labels_of=labels_of), "fog:2,snow:5")
    for name, kind, severity in (("fog:2", "fog", 2), ("snow:5", "snow", 5)):
        np.testing.assert_array_equal(result.rows("net", name)["withstood"], right(given, kind, severity))


def test_the_training_set_has_no_corrupted_images(data, folder):
    train = acw.Dataset(data.x, data.y, data.classes, name="tiny", split="train")
    with pytest.raises(InputError, match=r"of test sets, but tiny \(train\) is another split"):
        audited(train, folder, "fog")
    audited(train, None, "made:contrast:1")


def test_questions_about_one_attack_refuse_the_mean_of_several(alone, data):
    for ask in (alone.disparity_test, alone.disparity, alone.risks):
        with pytest.raises(InputError, match="corruption"):
            ask()
    with pytest.raises(InputError, match="no adversaries"):
        alone.worst_case()
    assert alone.compare("fog:1", "fog:5").n == len(data)
    assert alone.confusion(normalize=False).to_numpy().sum() == 10 * len(data)
    assert alone.worst_class()["class"] == alone.corruption_summary().loc["net", "worst_class"]


def test_requirements_are_judged_by_the_intervals_of_shares(alone):
    row = alone.corruption_summary().loc["net"]
    for measure, low in (("worst", row["worst_low"]), ("mean", row["mean_low"])):
        assert alone.check(f"{measure} >= {low - 0.01:.4f}").met
        assert not alone.check(f"{measure} >= {row['mean']:.4f}").met
    (verdict,) = alone.check("gap <= 0.5")
    assert "name one" in str(verdict)


def test_page_documents_and_terminal_tell_the_mean_corruption_accuracy(alone, data, folder, capsys):
    from art_classwise.report import cyclonedx, model_card, print_tables
    from art_classwise.report.page import render

    two = acw.ClassWiseAudit(corruptions="fog,snow", corruption_dir=folder, verbose=False, checks=False)
    both = two.evaluate({"one": classifier(data), "two": classifier(data)}, data)
    for result in (alone, both, audited(data, folder, "fog", "Linf:0.05", "fgsm")):
        page = render(result)
        assert "worst corruption" in page
        assert "corruptions.csv" in page
        print_tables(result)
        assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())
        for text in (model_card(result, result.models[0], license="mit"), str(cyclonedx(result)), repr(result)):
            assert "corruption" in text
    assert "all attacks" not in render(alone).split('<section aria-labelledby="checks"')[0].split("</style>")[1]
