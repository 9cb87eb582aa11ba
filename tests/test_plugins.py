import sys
from pathlib import Path

import pytest

from ptm_lightning.plugins import GROUP, load_plugins


def install(folder: Path, name: str, code: str) -> None:
    """A package of one module, as pip leaves it, whose plug-in is this module."""
    (folder / f"{name}.py").write_text(code)
    described = folder / f"{name}-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}\n")


def test_an_installed_package_s_plug_in_is_found_and_a_broken_one_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, "working_plugin", "READY = True")
    install(tmp_path, "broken_plugin", "raise RuntimeError('no such luck')")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins()
    assert sys.modules.pop("working_plugin").READY
    said = [message for message in caplog.messages if "plugin" in message]
    assert said == ["plug-in broken_plugin (broken_plugin) is left out: RuntimeError: no such luck"]
