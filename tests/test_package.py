"""What is installed is whole: the wheel holds every file that the product opens, and nothing of tests or benchmarks."""

import ast
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_holds_what_the_product_opens(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        file.relative_to(ROOT).as_posix()
        for package in ("diffaug", "nnunet_plugin")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert wanted - inside == set()
    assert {name.partition("/")[0] for name in inside if ".dist-info/" not in name} == {"diffaug", "nnunet_plugin"}
    assert wheel.stat().st_size < 8e6


def test_the_version_is_said_once_everywhere():
    from diffaug import __version__

    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def imported(file):
    """Names of the packages that a file imports."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_what_is_imported_is_declared():
    lines = [Requirement(line) for line in requires("diffaug") or []]
    declared = {canonicalize_name(line.name) for line in lines if line.marker is None}
    own, makers = {"diffaug", "nnunet_plugin"}, packages_distributions()
    files = [file for folder in own for file in (ROOT / folder).rglob("*.py")]
    found = {(name, file.name) for file in files for name in imported(file)}
    others = {(name, file) for name, file in found if name not in own | sys.stdlib_module_names}
    assert {name for name, _ in others} >= {"torch", "sklearn", "nnunetv2"}, "this test looks where imports are"
    missing = [(name, file) for name, file in others if not {canonicalize_name(m) for m in makers[name]} & declared]
    assert not missing
