"""The README and the documentation: every block of code runs, or is checked where it can't; links lead somewhere.

An HTML comment before a block says what is done with it: `<!-- run -->` runs shell commands that would only be read,
`<!-- not run: why -->` leaves a block of Python out. Blocks of a page run one after the other, as a reader pastes them.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shlex
import shutil
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import pytest
from markdown_it import MarkdownIt
from places import ROOT

from art_classwise.datasets import load
from art_classwise.trainers.catalog import METHODS

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *DOCS.rglob("*.md")])
EVIDENCE = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "evaluations").rglob("*.md"))
LINKED = [*PAGES, "CHANGELOG.md", *EVIDENCE]
PACKAGES = [
    f"art_classwise.{name}"
    for name in (
        "attacks",
        "audit",
        "audit.findings",
        "audit.requirements",
        "certification",
        "datasets",
        "evidence",
        "metrics",
        "report",
        "report.figures",
        "studies",
        "trainers",
        "trainers.policies",
        "trainers.recipes",
        "zoo",
    )
]
PROGRAMS = {"art-classwise", "make", "pip", "python", "torchrun"}
FOR_READING = {"text", "console", "bibtex", "sql", ""}


@dataclass
class Block:
    language: str
    code: str
    line: int
    mark: str  # of the comment before it


@cache  # each process that runs tests asks for all of them while it collects, and for each language anew
def blocks(page):
    found, mark = [], ""
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type == "html_block":
            comment = re.fullmatch(r"<!-- (run|not run: .+) -->", token.content.strip())
            mark = comment[1] if comment else ""
        elif token.type == "fence":
            found.append(Block(token.info.strip(), token.content, token.map[0] + 1, mark))
            mark = ""
        elif token.level == 0 and not token.type.endswith("_close"):
            assert not mark, f"{page}: the comment {mark!r} stands before something else than a block of code"
    return found


def of(language):
    return [page for page in PAGES if any(block.language == language for block in blocks(page))]


def commands(block):
    """The command lines of a shell block: continued lines joined, comments left out."""
    for line in block.code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with mart.pt, as the pages have it."""
    import typer

    from art_classwise.cli import app

    folder = tmp_path_factory.mktemp("docs")
    line = f"train mart --threat Linf:0.1 --epochs 3 --quiet --out {folder / 'mart.pt'}"
    typer.main.get_command(app).main(line.split(), standalone_mode=False)
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """An empty folder to run in, but for the checkpoint that the pages take as given; with half of the digits.

    Blocks are here to run: what trainings and attacks make of all 1,797 is tested elsewhere.
    """
    read = load.read_digits

    def fewer(spec, root, split, *others):
        return read(spec, root, split, *others).first(600 if split == "train" else 300)

    monkeypatch.setattr(load, "read_digits", fewer)
    shutil.copy(trained / "mart.pt", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SLOW = {"docs/how-to/ten-minutes.md"}  # its audits are whole ones, of all 797 digits under nine attacks
RUN = [page for page in PAGES if set(of("python")) & {page} or "<!-- run -->" in (ROOT / page).read_text()]


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in RUN])
def test_blocks_run(page, folder, command_line):
    names: dict = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python" and not block.mark.startswith("not run"):
            # Lines as they are in the page, so that a traceback leads there.
            exec(compile("\n" * block.line + block.code, ROOT / page, "exec"), names)
        elif block.language == "sh" and block.mark == "run":
            for words in commands(block):
                assert words[0] == "art-classwise"
                code, _, said = command_line(*words[1:])
                assert code == 0, said


@pytest.mark.parametrize("page", of("sh"))
def test_commands_are_right(page):
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks(page):
        for words in commands(block) if block.language == "sh" else ():
            assert words[0] in PROGRAMS, f"{page}:{block.line}"
            if words[0] == "make":
                assert f"\n{words[1]}:" in makefile
            elif words[0] == "python" and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file()
            elif words[0] == "art-classwise" or "art_classwise" in words:
                parse(words[1:] if words[0] == "art-classwise" else words[words.index("art_classwise") + 1 :])


@pytest.mark.parametrize("page", of("yaml"))
def test_workflows_run_right_commands(page):
    yaml = pytest.importorskip("yaml")
    for block in blocks(page):
        if block.language == "yaml":
            jobs = yaml.safe_load(block.code)["jobs"].values()
            lines = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
            assert any("art-classwise" in line for line in lines)
            for words in map(shlex.split, lines):
                assert words[0] in PROGRAMS
                if words[0] == "art-classwise":
                    parse(words[1:])


def parse(words):
    """Read a command line as the program would, and run nothing: unknown commands, options and values raise."""
    import typer

    from art_classwise.cli import app

    program = typer.main.get_command(app)
    name, *arguments = words
    command = program.get_command(program.make_context("art-classwise", words), name)
    if command is None:
        raise ValueError(f"There is no command {name}.")
    command.make_context(name, arguments)


def test_parse_refuses_what_there_is_not():
    for line in ("audti --model m.pt", "audit --model m.pt --atacks fgsm", "train mart", "train mrt --out m.pt"):
        with pytest.raises(Exception, match="(?i)no such|missing|not one of|there is no|unknown"):
            parse(line.split())


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_their_language(page):
    for block in blocks(page):
        assert block.language in {"python", "sh", "yaml", *FOR_READING} - {""}, f"{page}:{block.line}"
        if block.language == "python":
            ast.parse(block.code)


def anchors(path):
    """The anchors of a page's headings, as code forges and Python-Markdown form them."""
    text = path.read_text(encoding="utf-8")
    tokens = MarkdownIt().parse(text)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    plain = [re.sub(r"[`*]|\{.*\}", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", LINKED)
def test_links_within_the_repository_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor and target.suffix == ".md" and not anchor.startswith("art_classwise."):
            assert anchor in anchors(target), link


def navigation(tree):
    for entry in tree:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [value] if isinstance(value, str) else navigation(value)


def test_navigation_has_every_page():
    yaml = pytest.importorskip("yaml")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(navigation(settings["nav"]))
    others = {
        "CHANGELOG.md",
        *EVIDENCE,
        *(f"examples/{path.name}" for path in (ROOT / "examples").glob("*.ipynb")),
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == {page.removeprefix("docs/") for page in PAGES if page != "README.md"} | others


def public_names():
    """What `import art_classwise` offers, and each of its packages and modules that isn't private itself."""
    import art_classwise as acw

    modules = [acw, acw.losses, *map(importlib.import_module, PACKAGES)]
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            if name != "__version__" and not isinstance(thing, ModuleType):
                yield module.__name__, name


def test_reference_has_every_public_name():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: art_classwise\.(?:\w+\.)*(\w+)$", text, re.MULTILINE))
    if "<!-- trainers -->" in text:  # which docs/hooks.py writes from the table
        shown |= {spec.class_name for spec in METHODS.values()}
    shown |= set(re.findall(r"`art_classwise\.(?:\w+\.)+([A-Z_]+)`", text))  # constants, in a sentence
    assert sorted({f"{module}.{name}" for module, name in public_names() if name not in shown}) == []


def test_packages_are_all_that_are_public():
    import art_classwise as acw

    found = {name for _, name, package in pkgutil.walk_packages(acw.__path__, "art_classwise.") if package}
    # The command line has a page of its own.
    hidden = {"art_classwise.cli", "art_classwise._core", "art_classwise.trainers.engine"}
    assert found - hidden | {"art_classwise.trainers.recipes"} == set(PACKAGES)
