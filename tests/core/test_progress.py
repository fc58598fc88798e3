"""Progress on terminals of any width, in logs, and nowhere."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import pytest
from tqdm.utils import disp_len

import art_classwise as acw
from art_classwise._core import progress as module
from art_classwise._core.progress import about, duration, progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def lines(self):
        return [line.strip() for line in self.getvalue().replace("\n", "\r").split("\r") if line.strip()]


class Clock:
    """A time that passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def on_terminal(monkeypatch):
    """Put a terminal in place of stderr; no fixture can, since pytest puts its own there before each test."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_terminal_is_told_what_it_is_at_and_the_time_left(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with progress_bar(total=100, name="audit", unit="img", shown=True) as bar:
        bar.at("Wong2020Fast, pgd-20")
        bar.update(60)
        bar.beside({"robust": "41%"})
    shown = [line for line in terminal.lines() if "60%" in line][-1]
    assert shown.startswith("audit  Wong2020Fast, pgd-20  60% |")
    assert "0:00<0:0" in shown
    assert "robust 41%" in shown
    assert "img/s" in shown


def test_any_names_fit_any_width():
    numbers = random.Random(0)
    for _ in range(500):
        name = "".join(numbers.choices("abcXYZ-_, 猫犬\u0301", k=numbers.randint(0, 120)))
        width, total = numbers.randint(20, 200), numbers.choice([3, 1e4, 1e9])
        n, words = numbers.random() * total, numbers.choice(["", "loss 0.43, robust 41%, val 40%, worst 12%"])
        line = module._OneLine.format_meter(
            n,
            total,
            numbers.random() * 1e6,
            ncols=width,
            prefix=f"audit  {name}",
            postfix=words,
            unit="img",
            ascii=False,
        )
        assert disp_len(line) < width
        assert f"{min(99, int(100 * n / total))}%" in line
        if width >= 90:
            assert all(word in line for word in (words, "<"))
            assert line.rstrip().endswith((words, " img/s"))  # nothing is cut
            assert "…" in line or name in line


def test_a_name_is_shortened_in_its_middle():
    line = module._OneLine.format_meter(1, 2, 1.0, ncols=60, prefix=f"audit  {'a' * 30}{'b' * 30}, pgd-20", ascii=False)
    assert line.startswith("audit  aaaa")
    assert "bbb, pgd-20  50%" in line


def test_what_was_there_has_no_part_in_the_time_left(clock, monkeypatch):
    """90 of 100 were there, one took ten seconds: nine are left."""
    terminal = on_terminal(monkeypatch)
    line = module._OneLine.format_meter(91, 100, 10.0, ncols=80, prefix="audit", initial=90, ascii=False)
    assert "0:10<1:30" in line
    terminal.isatty = lambda: False
    with progress_bar(total=100, name="audit", shown=True) as bar:
        bar.skip(90)
        bar.at("a, pgd")
        clock.now += 10
        bar.update(1)
        bar.at("b, pgd")
        assert terminal.getvalue() == "audit   91%  a, pgd  0:10 elapsed, 1:30 left\n"


def test_a_log_has_a_line_per_unit_and_no_more_than_one_in_ten_seconds(capsys, clock):
    with progress_bar(total=6, name="train", shown=True) as bar:
        for epoch, seconds in enumerate((11, 4, 4, 4, 20, 1)):
            bar.at(f"epoch {epoch + 1}")
            clock.now += seconds
            bar.update(1)
            bar.beside({"loss": f"{epoch}"})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "train   16%  epoch 1  0:11 elapsed, 0:55 left  loss 0",
        "train   66%  epoch 4  0:23 elapsed, 0:12 left  loss 3",
        "train   83%  epoch 5  0:43 elapsed, 0:09 left  loss 4",
        "train  100%  epoch 6  0:44 elapsed  loss 5",  # the last, whenever it comes
    ]


def test_a_log_is_silent_on_what_is_quick(capsys, clock):
    with progress_bar(total=3, name="train", shown=True) as bar:
        for _ in range(3):
            bar.at("an epoch")
            clock.now += 3
            bar.update(1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("value", "shown"), [("0", True), ("", True), ("1", False), (None, False)])
def test_the_environment_decides_on_logs(value, shown, capsys, monkeypatch):
    """stderr is no terminal here."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if value is not None:
        monkeypatch.setenv("TQDM_DISABLE", value)
    assert list(progress(range(3), shown=True, desc="work")) == [0, 1, 2]
    assert ("work: 100%" in capsys.readouterr().err) == shown
    for asked in (True, False):
        with progress_bar(total=2, name="work", shown=asked) as bar:
            for what in "ab":
                bar.at(what)
                bar.update()
        lines = capsys.readouterr().err.splitlines()
        assert [line[:14] for line in lines] == ["work   50%  a ", "work  100%  b "] * (shown and asked)
        assert list(progress(range(3), shown=False)) == [0, 1, 2]
        assert capsys.readouterr().err == ""


def test_the_environment_hides_it_on_terminals_and_of_several_processes_one_shows_it(monkeypatch):
    terminal = on_terminal(monkeypatch)
    for name, value in (("TQDM_DISABLE", "1"), ("RANK", "1")):
        monkeypatch.delenv("TQDM_DISABLE", raising=False)
        monkeypatch.setenv(name, value)
        list(progress(range(3), shown=True))
        with progress_bar(total=1, name="work", shown=True) as bar:
            bar.at("it")
            bar.update()
        assert terminal.getvalue() == ""


@pytest.mark.parametrize("place", ["terminal", "log"])
def test_names_of_others_move_no_cursor(place, monkeypatch):
    terminal = on_terminal(monkeypatch)
    if place == "log":
        terminal.isatty = lambda: False
        monkeypatch.setenv("TQDM_DISABLE", "0")
    with progress_bar(total=1, name="audit", shown=True) as bar:
        bar.at("a\x1b[2Jb\nc\rd")
        bar.beside({"x\x1b": "\x07"})
        bar.update()
    assert r"a\x1b[2Jb" in terminal.getvalue()
    assert not {"\x1b[2J", "\x07", "b\n", "c\r"} & {
        s for s in ("\x1b[2J", "\x07", "b\n", "c\r") if s in terminal.getvalue()
    }


def test_durations():
    seconds = (0, 7.4, 59.6, 750, 10920, 187200)
    assert [duration(s) for s in seconds] == ["0:00", "0:07", "1:00", "12:30", "3:02:00", "2 d 4 h"]


def test_times_in_words():
    words = {0: "1 s", 40.2: "40 s", 59.6: "1 min", 3540: "59 min", 3599: "1 h", 12_000: "3 h 20 min", 35_990: "10 h"}
    words |= {86_400: "24 h", 187_200: "2 d 4 h", 172_800: "2 d", 2e6: "23 d"}
    assert {seconds: about(seconds) for seconds in words} == words


@pytest.mark.parametrize("value", ["0", "1"])
def test_a_sentence_stays_above_the_bar(value, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", value)
    with progress_bar(total=2, name="audit", shown=True) as bar:
        bar.say("At most\x1b[2J.")
    assert capsys.readouterr().err == ("" if value == "1" else "At most\\x1b[2J.\n")


def test_nothing_but_the_helper_makes_bars():
    """So that no bar can come back into logs."""
    package = Path(acw.__file__).parent
    users = {path.name for path in package.rglob("*.py") if "import tqdm" in path.read_text(encoding="utf-8")}
    assert users == {"progress.py"}
