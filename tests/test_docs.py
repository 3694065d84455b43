"""The documents name files, modules, commands and options that exist."""

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"  # names what was there, too
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FOLDERS = "benchmarks|difflora_core|docs|locales|miniature|nodes|subgraphs|tests|training|web|workflows"
MADE_BY_COMMANDS = ("miniature/build",)
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
PROGRAMS = ("difflora_core", "nodes", "training", "miniature")
OF_COMFYUI = {"lora key not loaded"}
MAX_README_LINES = 150

LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
PATH = re.compile(rf"(?<![\w./<-])(?:{FOLDERS})/[\w./-]*")
COMMAND = re.compile(
    r"(?:python -m|launch(?: --\w+(?: \d+)?)* -m|(?=\bdifflora (?:personalize|info)\b))\s*([^#\n`|&]+)"
)


def code(page: Path) -> Iterator[str]:
    """Yield code blocks and what stands in backticks."""
    yield from CODE.findall(page.read_text(encoding="utf-8"))


def commands(*programs: str) -> list[str]:
    """Every documented command line that begins with one of the programs, once, comments left out."""
    found = (line.strip() for page in PAGES for text in code(page) for line in COMMAND.findall(text))
    return sorted({line for line in found if line.split()[0].split(".")[0] in programs})


@pytest.mark.parametrize("page", [*PAGES, CHANGELOG], ids=lambda page: page.name)
def test_links(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths(page: Path) -> None:
    paths = {path.rstrip(".") for text in code(page) for path in PATH.findall(text)}
    assert not [path for path in paths if not path.startswith(MADE_BY_COMMANDS) and not (ROOT / path).exists()]


@pytest.mark.parametrize("line", commands("benchmarks", "difflora", "miniature", "training"))
def test_commands(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's own help knows the documented options."""
    program, *arguments = shlex.split(line)
    if program.startswith("benchmarks."):
        is_file = (ROOT / f"{program.replace('.', '/')}.py").is_file()
        module, command = program if is_file else f"{program}.__main__", []
    else:
        module = "difflora_core.command" if program == "difflora" else f"{program}.__main__"
        command = arguments[: 2 if arguments[:1] == ["dataset"] else 1]  # its stages have options of their own
    main: Callable[[], object] = import_module(module).main
    monkeypatch.setattr(sys, "argv", [program, *command, "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert not [word for word in arguments if word.startswith("--") and word not in text]


def test_commands_are_found() -> None:
    assert {line.split()[0] for line in commands("difflora", "miniature", "training")} >= {
        "difflora",
        "miniature",
        "training",
    }
    assert any(line.startswith("training dataset all --config") for line in commands("training"))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def messages() -> Iterator[str]:
    """Yield every text of the code in one line, with … in place of values."""
    for path in (ROOT / "__init__.py", *(path for folder in PROGRAMS for path in (ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield " ".join(node.value.split())


def test_explained_messages_are_in_the_code() -> None:
    """What stands in quotation marks at the head of an entry is a part of some message, with … for what differs."""
    heads = re.findall(r"^\*\*.+?\*\*", TROUBLESHOOTING.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    quoted = {" ".join(quote.split()) for head in heads for quote in re.findall(r'"(.+?)"', head, re.DOTALL)}
    texts = "\n".join(messages())
    missing = [quote for quote in quoted if not re.search(re.escape(quote).replace("…", ".*"), texts)]
    assert len(quoted) > 30
    assert set(missing) == OF_COMFYUI
