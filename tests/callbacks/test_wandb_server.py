"""Without a key, a network or an answer of the server, W&B records offline and nothing waits."""

import socket
import time
from pathlib import Path

import pytest
from ptm_lightning.callbacks import wandb as module
from ptm_lightning.callbacks import wandb_server
from ptm_lightning.callbacks.wandb import Wandb
from ptm_lightning.callbacks.wandb_server import netrc_has_key, reachable
from wandb_runs import clean_environment, fit, fresh_wandb, history, runs  # noqa: F401 - fixtures


@pytest.mark.usefixtures("fresh_wandb")
def test_without_a_key_it_is_offline_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = Wandb(tmp_path)
    fit(tmp_path, logger)
    logger.finish()
    assert len(history(tmp_path)) == 4
    assert "offline (no API key is set)" in caplog.text


@pytest.mark.usefixtures("fresh_wandb")
def test_a_key_but_no_network_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    logger = Wandb(tmp_path)
    fit(tmp_path, logger)
    logger.finish()
    assert len(history(tmp_path)) == 4
    assert "offline (http://127.0.0.1:9 doesn't answer)" in caplog.text
    assert b"0123456789012345" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.usefixtures("fresh_wandb")
def test_a_server_that_never_answers_leaves_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        monkeypatch.setattr(module, "INIT_SECONDS", 1.0)
        logger = Wandb(tmp_path)
        fit(tmp_path, logger)
        logger.finish()
    assert len(history(tmp_path)) == 4
    assert "W&B records offline" in caplog.text


@pytest.mark.usefixtures("fresh_wandb")
def test_switched_off_by_wandbs_own_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = Wandb(tmp_path)
    fit(tmp_path, logger)
    logger.finish()
    assert runs(tmp_path) == []


def test_reachable_looks_for_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        assert reachable("http://wandb.invalid")
    assert not reachable(f"http://127.0.0.1:{port}")


def test_a_hanging_name_server_costs_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_server, "REACH_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: time.sleep(3))
    begin = time.monotonic()
    assert not reachable("https://api.wandb.ai")
    assert time.monotonic() - begin < 2


def test_a_key_in_netrc_counts(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert netrc_has_key("https://api.wandb.ai")
    (tmp_path / "netrc").write_text("machine example.org login user password x\n")
    assert not netrc_has_key("https://api.wandb.ai")
