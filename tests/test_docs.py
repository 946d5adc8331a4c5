"""The documentation keeps its word: links lead somewhere, commands parse, examples run, lists are complete."""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import reason.models
from reason import api, loading
from reason.cli.main import app
from reason.engine.local import LocalEngine
from reason.engine.scripted import ScriptedEngine
from reason.plan.speceyes import PLANS
from reason.route import RoutedEngine
from reason.route.routers import ROUTERS
from reason.search.strategies import STRATEGIES
from reason.speculate.rules import RULES
from reason.speculate.sources import DRAFT_MODEL, SOURCES
from reason.types import Budget, Candidate, Problem, Solution, Usage
from reason.verifiers import EMBEDDERS, VERIFIERS, VERIFIERS_OF

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> Iterator[str]:
    return (block for kind, block in BLOCK.findall(page) if kind == language)


def by_name(path: Path) -> str:
    return path.name


# -- links -------------------------------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """The names of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_links_lead_somewhere(path: Path) -> None:
    page = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", page):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{path.name} links {target}"
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), f"{path.name} links {target}"


def test_the_readme_links_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/(\w[\w-]*\.md)", text("README.md")))
    assert {path.name for path in DOCS} <= linked


# -- commands ----------------------------------------------------------------------------------------------------------


def command_lines(page: str) -> Iterator[list[str]]:
    """The `reason` commands that a page shows, as words."""
    indented = re.findall(r"^    (reason (?:\\\n|[^\n])*)", page, re.MULTILINE)
    for shown in [*blocks(page, "sh"), *indented]:
        for line in shown.replace("\\\n", " ").splitlines():
            if line.startswith("reason "):
                yield shlex.split(line, comments=True)[1:]


@functools.cache
def all_commands() -> Any:
    return typer.main.get_command(app)


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_commands_parse(path: Path) -> None:
    """Every command that a page shows exists and has the options that it is shown with."""
    for words in command_lines(path.read_text(encoding="utf-8")):
        command = all_commands()
        rest = list(words)
        while rest and (child := getattr(command, "commands", {}).get(rest[0])) is not None:
            command = child
            rest.pop(0)
        assert not (rest and hasattr(command, "commands")), f"no such command: reason {' '.join(words)}"
        context = command.context_class(command, info_name="reason")
        command.make_parser(context).parse_args(rest)  # raises on options that it does not know


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model is named, a script is played: three solutions in four say 42."""
    script = ["6 times 7 is asked.\n\nIt is \\boxed{42}.", "It is \\boxed{42}.", "So \\boxed{42}.", "Say \\boxed{41}."]

    def load(model: str | None = None, *, routing: loading.Routing | None = None, **options: Any) -> Any:
        if routing is None:
            return ScriptedEngine(script)
        return RoutedEngine(ScriptedEngine(script), ScriptedEngine(script), routing.router)

    monkeypatch.setattr(api, "_load", load)
    monkeypatch.setattr(api, "_warm", type(api._warm)())
    monkeypatch.setattr(LocalEngine, "load", load)
    folder = type("Found", (), {"folder": Path("model"), "name": "scripted"})()
    monkeypatch.setattr(reason.models, "resolve", lambda name: folder)


def play(page: str) -> str:
    """Runs the `reason` commands of a page in the working folder, after writing the files that it says to write;
    returns what they print."""
    printed = []
    for shell in blocks(page, "sh"):
        for file, content in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", shell, re.DOTALL | re.MULTILINE):
            Path(file).write_text(content, encoding="utf-8")
        for line in shell.splitlines():
            if line.startswith("reason "):
                result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], env={"COLUMNS": "200"})
                assert result.exit_code == 0, f"{line}\n{result.output}"
                printed.append(result.output)
    return "\n".join(printed)


@pytest.mark.timeout(600)
def test_the_quickstart_can_be_followed(scripted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REASON_CACHE", str(tmp_path / "cache"))
    page = text("docs/quickstart.md")
    printed = play(page)
    ledger = re.findall(r"^\| `([\w ,]+)` \|", page.partition("Where something was drafted")[0], re.MULTILINE)
    assert "generated tokens" in ledger
    for line in {*ledger} - {"stopped by"} | {"maj@k", "pass@k", "verifier tokens"}:  # nothing was stopped
        assert line in printed, line
    for file in re.findall(r"^\| `([\w.]+)/?` \|", page.partition("| in `runs/sums` | |")[2], re.MULTILINE):
        assert (Path("runs/sums") / file).exists() or file == "samples.jsonl", file
    assert Path("odd.html").is_file()
    assert Path("runs/at-equal-cost/comparison.md").is_file()
    again = "```sh\nreason eval sums.jsonl -S num_samples=8 --out runs/sums\n```"
    assert "3 of 3 problems were done before" in play(again)


# -- Python ------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["python-api.md"])
def test_the_python_runs(name: str, scripted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other; what a comment behind a `print` says is what it prints."""
    monkeypatch.chdir(tmp_path)
    page = text(f"docs/{name}")
    namespace: dict[str, Any] = {"__name__": "docs_example"}
    monkeypatch.setitem(sys.modules, "docs_example", ModuleType("docs_example"))  # dataclasses look there for types
    for code in blocks(page, "python"):
        output = io.StringIO()
        with redirect_stdout(output):
            exec(compile(code, name, "exec", dont_inherit=True), namespace)
        lines = iter(output.getvalue().splitlines())
        for wanted in re.findall(r"^ *print\(.*\)  # (.+)$", code, re.MULTILINE):
            assert wanted in lines, f"{wanted!r} is not printed, or not in this order:\n{code}\n{output.getvalue()}"


def test_the_fields_are_all_named() -> None:
    page = text("docs/python-api.md")
    kinds: tuple[type[Any], ...] = (Problem, Budget, Solution, Candidate, Usage)
    for kind in kinds:
        missing = [each.name for each in fields(kind) if f"`{each.name}`" not in page]
        assert not missing, f"docs/python-api.md does not say what these of {kind.__name__} are: {missing}"


# -- generated and complete --------------------------------------------------------------------------------------------


def test_the_help_is_what_the_commands_say() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli_docs", ROOT / "scripts" / "generate_cli_docs.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = text("docs/cli.md")
    assert script.render(page) == page, "out of date: .venv/bin/python scripts/generate_cli_docs.py writes it anew"


def test_every_method_is_listed_with_its_file() -> None:
    page = text("docs/methods.md")
    names = [*STRATEGIES, *VERIFIERS, *VERIFIERS_OF, *EMBEDDERS, *SOURCES, DRAFT_MODEL, *RULES, *ROUTERS, *PLANS]
    missing = [name for name in names if f"**`{name}`**" not in page]
    assert not missing, f"docs/methods.md lacks {missing}"
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        folders = [ROOT / folder for folder in re.findall(r"`(reason/[\w/]+/)`", section)]
        for file in re.findall(r"`(\w+(?:\.py|/))`", section):
            assert any((folder / file).exists() for folder in folders), f"{file}, of {section.splitlines()[0]}"
