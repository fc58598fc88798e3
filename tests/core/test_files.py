"""Folders and files that can't be written or aren't files: each writer says where and why."""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile

import numpy as np
import pytest
from matplotlib.figure import Figure

import art_classwise as acw
from art_classwise import InputError, figures
from art_classwise._core import files
from art_classwise._core.folders import DiskFolder, MemoryFolder
from tests.support.results import make_result


def writers(result):
    """Return all functions that write a file that the user names."""
    comparison = acw.compare(result, result, models=["one", "two"])
    network = acw.build("digits-cnn", (1, 8, 8), 3, seed=0)
    made = {
        "a.csv": result.to_csv,
        "a.html": result.to_html,
        "a.svg": lambda path: figures.save(Figure(), path),
        "a.png": lambda path: figures.save(Figure(), path),
        "a.pdf": lambda path: figures.save(Figure(), path),
        "a.pt": lambda path: acw.save_checkpoint(
            path, network, architecture="digits-cnn", classes=list("abc"), input_shape=(1, 8, 8)
        ),
    }
    return made | {"b.csv": comparison.to_csv}


@pytest.fixture(scope="module")
def result():
    return make_result(["ant", "bee", "cow"])


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def forbidden(*_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("raised", [full, forbidden])
def test_what_can_not_be_written_is_told_with_its_path_and_leaves_the_old(raised, result, tmp_path, monkeypatch):
    for name, write in writers(result).items():
        path = tmp_path / name
        path.write_text("old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", raised)
            with pytest.raises(InputError, match="No space left|Permission denied") as caught:
                write(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert path.read_text() == "old"
        assert sorted(os.listdir(tmp_path)) == [name]
        path.unlink()


def test_a_folder_that_is_removed_meanwhile_is_told(result, tmp_path, monkeypatch):
    for name, write in writers(result).items():
        folder = tmp_path / "folder"
        folder.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _, folder=folder: shutil.rmtree(folder))
            with pytest.raises(InputError, match="No such file") as caught:
                write(folder / name)
        assert str(folder / name) in str(caught.value)


def test_a_file_where_a_folder_should_be_is_told(result, tmp_path):
    (tmp_path / "file").write_text("")
    for name, write in writers(result).items():
        with pytest.raises(InputError, match="can't be written"):
            write(tmp_path / "file" / name)
    with pytest.raises(InputError, match="file can't be written"):
        acw.ClassWiseAudit("Linf:0.1", store=tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for read in (files.read_regular, lambda path: DiskFolder(path.parent).read(path.name)):
        with pytest.raises(OSError, match="pipe or a device"):
            read(tmp_path / "pipe")
        with pytest.raises(OSError, match="Is a directory"):
            read(tmp_path)
    with pytest.raises(OSError, match="symbolic links"):
        files.read_regular(tmp_path / "loop")
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(OSError, match="It has 100 bytes, and at most 99 bytes are read"):
        files.read_regular(tmp_path / "large", 99)
    assert files.read_regular(tmp_path / "large", 100) == bytes(100)


def test_a_folder_in_memory_is_as_one_on_a_disk(tmp_path):
    disk, memory, rng = DiskFolder(tmp_path), MemoryFolder(), random.Random(0)
    names = ["a", "b/a", "b/c", "b/d/e", "f/g/h"]
    for number in range(200):
        name = rng.choice(names)
        if rng.random() < 0.6:
            for folder in (disk, memory):
                folder.write(name, str(number).encode())
        else:
            for folder in (disk, memory):
                folder.remove(name)
        for one in ("", "b", "b/d", "f", "f/g", "nowhere"):
            assert memory.files(one) == disk.files(one)
            assert {*memory.folders(one)} <= {*disk.folders(one)}  # a disk keeps empty ones
        for one in names:
            assert memory.exists(one) == disk.exists(one)
            if disk.exists(one):
                assert (memory.read(one), memory.size(one)) == (disk.read(one), disk.size(one))
            else:
                with pytest.raises(FileNotFoundError):
                    memory.read(one)


def test_an_audit_without_store_writes_nothing(classifier, images, tmp_path, monkeypatch):
    """So that nothing is left, however it ends."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    monkeypatch.chdir(tmp_path)
    data = (images, np.arange(len(images)) % 4)
    result = acw.ClassWiseAudit("Linf:0.1", ["fgsm"], checks=False, verbose=False).evaluate({"m": classifier}, data)
    assert len(result.outcomes) == len(images)
    assert os.listdir(tmp_path) == []
