"""Files of weights that are damaged or hostile: they load as they were written, or are refused, at no great cost."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.zoo.weights_files import load_weights
from tests.support.damage import damaged, loads_the_same_or_is_refused


def tiny(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))


def rewritten(source, target, change, compression=zipfile.ZIP_STORED):
    """Write an archive anew, whole, with other content of an entry."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_anywhere_weights_load_as_they_were_or_not_at_all(seed, tmp_path):
    content = {"state_dict": tiny().state_dict(), "epoch": 3, "best": None, "notes": ["a", 0.5]}
    torch.save(content, tmp_path / "whole.pt")
    torch.save(content | {"state_dict": tiny(1).state_dict()}, tmp_path / "other.pt")
    whole, path = (tmp_path / "whole.pt").read_bytes(), tmp_path / "file.pt"
    loaded = 0
    for how, some in damaged(whole, 100, seed=seed, other=(tmp_path / "other.pt").read_bytes()):
        path.write_bytes(some)
        loaded += loads_the_same_or_is_refused(lambda: load_weights(path, "Advice."), content, how)
    assert 0 < loaded < 60  # paddings and dates don't matter; all else does


def test_the_damaged_entry_is_named(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        entry = archive.getinfo("w/data/0")
        content = bytearray((tmp_path / "w.pt").read_bytes())
        at = content.index(archive.read(entry))
    content[at + 3] ^= 0x40  # an exponent: one weight is 1e19 times what it was
    (tmp_path / "w.pt").write_bytes(content)
    assert torch.load(tmp_path / "w.pt", weights_only=True)  # torch itself doesn't look
    with pytest.raises(InputError, match=r"w.pt is damaged in its entry 'w/data/0': its bytes don't have the checksum"):
        load_weights(tmp_path / "w.pt", "Advice.")


def test_files_without_checksums_load(tmp_path):
    weights = tiny().state_dict()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert loads_the_same_or_is_refused(lambda: load_weights(tmp_path / "w.pt", "Advice."), weights, "whole")


def test_what_torch_never_writes_is_refused_before_it_is_read(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "w.pt")
    bomb = tmp_path / "bomb.pt"
    rewritten(tmp_path / "w.pt", bomb, lambda name, content: bytes(1 << 24), zipfile.ZIP_DEFLATED)
    with pytest.raises(
        InputError, match=r"its entry 'w/data.pkl' is compressed, 1\d,\d+ bytes that unpack to 16,777,2"
    ):
        load_weights(bomb, "Advice.")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.writestr("w/data/0", bytes(80))
    with pytest.raises(InputError, match=r"its entry 'w/data/0' stands there twice"):
        load_weights(tmp_path / "w.pt", "Advice.")


def test_one_number_that_claims_to_be_many_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(100_000, 100_000)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w.pt has \d.* kB, but its tensors claim 40 GB"):
        load_weights(tmp_path / "w.pt", "Advice.")
    shared = torch.randn(100, 100)
    torch.save({str(i): shared for i in range(20)}, tmp_path / "w.pt")  # layers may share theirs
    assert len(load_weights(tmp_path / "w.pt", "Advice.")) == 20


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (
            {"architecture": "wrn-10-100000"},
            "is of another architecture than the architecture 'wrn-10-100000', which ha",
        ),
        ({"architecture": "wrn-1000000-1"}, "is of another architecture"),
        ({"architecture": "wrn-10-99999999999999999999"}, "Unknown architecture"),
        ({"architecture": "torchvision:vgg16"}, "is of another architecture"),
        ({"architecture": "timm:vit_base_patch16_224", "input_shape": [3, 2048, 2048]}, "is of another architecture"),
        ({"input_shape": [1, 1, 1 << 20]}, "takes images of 2 x 2 or larger"),
        ({"input_shape": [3, 10_000, 10_000]}, "input_shape: must be the shape of an image, of at most"),
        ({"input_shape": [10**30, 8, 8]}, "input_shape.0 must be at most"),
        ({"input_shape": [3, -8, 8]}, "input_shape.1 must be at least 1"),
        ({"input_shape": ["a", "b", "c"]}, "input_shape.0 must be a whole number"),
        ({"input_shape": [1, 8.5, 8]}, "input_shape.1 must be a whole number"),
        ({"input_shape": []}, "input_shape: must be the shape of an image"),
        ({"classes": "abc"}, "classes must be a list"),
        ({"classes": ["a", ""]}, "classes.1: A class name must be a non-empty"),
        ({"classes": ["a", "\ud800"]}, "classes.1: .* not UTF-8"),
        ({"classes": [["a"]]}, "classes.0 must be a text"),
        ({"threat": "Linf:1e999"}, "finite number"),
        ({"threat": ["Linf", 10**400]}, "threat must be"),
        ({"architecture": 5}, "architecture must be a text"),
        ({"state_dict": [1, 2]}, "state_dict: must be weights by name"),
        ({"state_dict": {"0.weight": "a"}}, "it lacks"),
        ({"version": [1]}, "is a checkpoint of version"),
    ],
)
def test_absurd_headers_cost_nothing_and_are_named(header, says, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 3)
    acw.save_checkpoint(
        tmp_path / "w.pt", network, architecture="digits-cnn", classes=list("abc"), input_shape=(1, 8, 8)
    )
    torch.save(
        torch.load(tmp_path / "w.pt", weights_only=True) | {"input_shape": [3, 32, 32]} | header, tmp_path / "w.pt"
    )
    with pytest.raises(InputError, match=says) as caught:
        acw.load_checkpoint(tmp_path / "w.pt")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64, torch.bool, "sparse", "meta", "text"])
def test_weights_of_another_kind_are_refused_or_made_dense(kind, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 3, seed=0)
    acw.save_checkpoint(
        tmp_path / "w.pt", network, architecture="digits-cnn", classes=list("abc"), input_shape=(1, 8, 8)
    )
    content = torch.load(tmp_path / "w.pt", weights_only=True)
    name, value = next((k, v) for k, v in content["state_dict"].items() if v.ndim == 2)
    turned = {"sparse": lambda: value.to_sparse(), "meta": lambda: value.to("meta"), "text": lambda: "weights"}
    content["state_dict"][name] = turned[kind]() if kind in turned else value.to(kind)
    torch.save(content, tmp_path / "w.pt")
    if kind == "sparse":
        assert torch.equal(acw.load_checkpoint(tmp_path / "w.pt").model.state_dict()[name], value)
    else:
        with pytest.raises(InputError, match="whole|complex|has a shape, but no values|is a str, not a tensor"):
            acw.load_checkpoint(tmp_path / "w.pt")


@pytest.mark.parametrize("shape", [[1, 8.5, 8], "188", [1, True, 8], [1, -8, 8], ["1", "8", "8"], 8, [[1], 8, 8]])
def test_shapes_that_are_none_are_refused_wherever_they_are_given(shape, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 3)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    for call in (
        lambda: acw.build("digits-cnn", shape, 3),
        lambda: acw.as_classifier(network, shape, 3),
        lambda: acw.save_checkpoint(tmp_path / "x.pt", network, architecture="", classes=[], input_shape=shape),
        lambda: acw.load_checkpoint(tmp_path / "w.pt", architecture="digits-cnn", input_shape=shape),
        lambda: acw.load_checkpoint(tmp_path / "w.pt", network, input_shape=shape),
        lambda: acw.load_checkpoint(tmp_path / "w.pt", network, input_shape=shape, mean=0.5, n_classes=3),
    ):
        with pytest.raises(InputError, match="`input_shape` must be the shape of an image"):
            call()


def test_one_text_is_no_list_of_class_names(tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 3)
    x, y = np.zeros((3, 1, 8, 8), np.float32), np.array([0, 1, 2])
    for call in (
        lambda: acw.Dataset(x, y, "abc"),
        lambda: acw.datasets.as_dataset((x, y), "abc"),
        lambda: acw.save_checkpoint(tmp_path / "x.pt", network, architecture="", classes="abc", input_shape=(1, 8, 8)),
        lambda: acw.metrics.class_accuracy(y, y, n_classes=3, classes="abc"),
        lambda: acw.metrics.confusion(y, y, n_classes=3, classes="abc"),
    ):
        with pytest.raises(InputError, match="`classes` must be a list of names"):
            call()


def test_an_architecture_that_no_memory_holds_is_refused():
    with pytest.raises(InputError, match="The network wrn-10-100000 is too large for the memory of this machine"):
        acw.build("wrn-10-100000", (3, 32, 32), 10)
    with pytest.raises(InputError, match="too large for the memory"):
        acw.build("digits-cnn", (1, 8, 8), 10**17)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory")
def test_hostile_files_cost_little_memory(tmp_path):
    """In a process of its own that may take 300 MB more than it has: what asks for GBs fails by another error."""
    torch.save(tiny().state_dict(), tmp_path / "w.pt")
    rewritten(tmp_path / "w.pt", tmp_path / "bomb.pt", lambda n, c: bytes(1 << 27), zipfile.ZIP_DEFLATED)
    huge = {"format": "art-classwise checkpoint", "version": 1, "architecture": "digits-cnn", "threat": None}
    huge |= {"input_shape": [1, 5000, 5000], "classes": ["a", "b"], "recipe": {}, "state_dict": tiny().state_dict()}
    torch.save(huge, tmp_path / "huge.pt")
    torch.save({"w": torch.zeros(1).expand(1 << 30)}, tmp_path / "claims.pt")
    with (tmp_path / "sparse.pt").open("wb") as file:  # a hole of 4 TB
        file.truncate(1 << 42)
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{" + bytes(99))
    os.mkfifo(tmp_path / "fifo.pt")
    script = f"""
        import pathlib, resource
        import art_classwise as acw
        from art_classwise.zoo.checkpoints import load_checkpoint
        acw.build("digits-cnn", (1, 8, 8), 2)  # imports
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 300 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for path in sorted(pathlib.Path({str(tmp_path)!r}).iterdir()):
            try:
                load_checkpoint(path)
            except acw.InputError as error:
                print(path.name, error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    says = done.stdout.splitlines()
    assert [line.partition(" ")[0] for line in says] == sorted(p.name for p in tmp_path.iterdir())
    assert not [line for line in says if "alloc" in line.lower() or "memoryerror" in line.lower()], says
