"""The wheel holds what the tree holds, the pins agree with the bounds, and help answers without importing torch."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import import_module
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PLUG_INS = ("tasks", "callbacks", "configs")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def imported_modules(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_packages_are_those_of_the_tree(pyproject: dict[str, Any]) -> None:
    core = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "ptm_lightning").rglob("*.py")}
    expected = {folder.replace("/", ".") for folder in core} | {f"ptm_lightning.{name}" for name in PLUG_INS}
    assert set(pyproject["tool"]["setuptools"]["packages"]) == expected


@pytest.mark.parametrize("folder", PLUG_INS)
def test_plug_in_folders_are_flat(folder: str) -> None:
    assert (ROOT / folder / "__init__.py").is_file()
    assert [
        path for path in (ROOT / folder).rglob("*.*") if path.suffix in {".py", ".yaml"} and path.parent.name != folder
    ] == []


def test_every_preset_is_packaged(pyproject: dict[str, Any]) -> None:
    presets = {path.name for path in (ROOT / "configs").glob("*.yaml")}
    patterns = pyproject["tool"]["setuptools"]["package-data"]["ptm_lightning.configs"]
    assert {name for name in presets if any(fnmatch(name, pattern) for pattern in patterns)} == presets
    assert {entry.name for entry in files("ptm_lightning.configs").iterdir() if entry.name.endswith(".yaml")} == presets


def test_type_marker_is_packaged(pyproject: dict[str, Any]) -> None:
    assert "py.typed" in pyproject["tool"]["setuptools"]["package-data"]["ptm_lightning"]
    assert files("ptm_lightning").joinpath("py.typed").is_file()


def test_entry_points_load(pyproject: dict[str, Any]) -> None:
    installed = distribution("ptm-lightning").entry_points
    plugins = {entry.name: entry.value for entry in installed.select(group="ptm_lightning.plugins")}
    assert plugins == pyproject["project"]["entry-points"]["ptm_lightning.plugins"]
    assert {entry.load().__name__ for entry in installed.select(group="ptm_lightning.plugins")} == set(plugins.values())
    (script,) = installed.select(group="console_scripts")
    assert (script.name, callable(script.load())) == ("ptm", True)


def test_plug_ins_have_one_identity() -> None:
    for folder in PLUG_INS:
        package = import_module(f"ptm_lightning.{folder}")
        for module in iter_modules(package.__path__):
            import_module(f"{package.__name__}.{module.name}")
    assert sorted(set(PLUG_INS) & set(sys.modules)) == []


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("ptm_lightning", ("ptm_lightning.tasks", "ptm_lightning.callbacks", "ptm_lightning.configs", *PLUG_INS)),
        ("tasks", ("ptm_lightning.tasks", "ptm_lightning.callbacks", *PLUG_INS)),
        ("callbacks", ("ptm_lightning.callbacks", "ptm_lightning.tasks", *PLUG_INS)),
    ],
)
def test_imports_point_to_the_core(folder: str, forbidden: tuple[str, ...]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for module in imported_modules(path.read_text("utf-8"))
        if within(module, forbidden)
    ]
    assert wrong == []


def test_every_dependency_says_why(pyproject: dict[str, Any]) -> None:
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    for dependency in pyproject["project"]["dependencies"]:
        (line,) = [line for line in lines if line.strip().startswith(f'"{dependency}"')]
        assert line.partition("#")[2].strip(), f"{dependency} carries no reason"


def test_pins_satisfy_the_bounds(pyproject: dict[str, Any]) -> None:
    pinned = pins()
    extras = [line for lines in pyproject["project"]["optional-dependencies"].values() for line in lines]
    for text in pyproject["project"]["dependencies"] + extras:
        requirement = Requirement(text)
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{text} excludes the tested {pin.version}"


def test_pins_are_for_every_machine() -> None:
    pinned = pins()
    assert str(pinned["torch"].specifier) == "==2.13.0"
    assert [str(pin) for pin in pinned.values() if "+" in str(pin.specifier)] == []
    assert "ptm-lightning" not in pinned


def test_changelog_names_the_version(pyproject: dict[str, Any]) -> None:
    assert pyproject["project"]["version"] in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("flag", "expected"), [("--help", "fit"), ("--version", distribution("ptm-lightning").version)]
)
def test_help_and_version_import_no_torch(flag: str, expected: str, tmp_path: Path) -> None:
    program = (
        "import sys; from ptm_lightning.__main__ import main; status = main([sys.argv[1]]); "
        "print('heavy:', sorted({'torch', 'lightning', 'pytorch_lightning', 'transformers'} & set(sys.modules))); "
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", program, flag]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"
