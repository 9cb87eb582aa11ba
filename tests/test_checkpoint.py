import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ptm_lightning.checkpoint import (
    FORMAT,
    KEY,
    Entry,
    SafeCheckpointIO,
    append_index,
    best,
    entry_of,
    load_checkpoint,
    newest_valid,
    ranking,
    read_index,
    step_files,
    step_path,
    write_index,
)
from ptm_lightning.errors import UserError


def checkpoint(value: float = 1.0, **ours: Any) -> dict[str, Any]:
    weights = torch.full((500,), value) + torch.arange(500) / 7
    return {"state_dict": {"weight": weights}, "global_step": 3, KEY: {"format": FORMAT} | ours}


def save(folder: Path, step: int, metrics: dict[str, float] | None = None, monitor: str | None = "val/loss") -> Path:
    path = step_path(folder, step)
    SafeCheckpointIO().save_checkpoint(checkpoint(step), path)
    append_index(folder, entry_of(path, metrics or {}, monitor, "min"))
    return path


class Bomb:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


def test_what_is_written_is_read_and_lightning_itself_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(2.0), path)
    assert torch.equal(load_checkpoint(path)["state_dict"]["weight"], checkpoint(2.0)["state_dict"]["weight"])
    assert torch.load(path, weights_only=True)["global_step"] == 3
    assert [each.name for each in path.parent.iterdir()] == ["a.ckpt"]
    SafeCheckpointIO().remove_checkpoint(path)
    SafeCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


@pytest.mark.parametrize("forced", [True, False])
def test_a_pickle_bomb_never_goes_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: bool) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    zipped, plain = tmp_path / "zipped.ckpt", tmp_path / "plain.ckpt"
    torch.save({"state_dict": {}, "x": Bomb(tmp_path / "boom")}, zipped)
    plain.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    for path in (zipped, plain):
        for weights_only in (None, False, True):
            with pytest.raises(UserError) as raised:
                SafeCheckpointIO().load_checkpoint(path, weights_only=weights_only)
            assert str(path) in str(raised.value)
    with pytest.raises(UserError, match="carries Python code, which is never run"):
        load_checkpoint(zipped)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.ckpt", "https://127.0.0.1:9/a.ckpt", "s3://bucket/a.ckpt"])
def test_urls_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="not from a URL; download it first"):
        SafeCheckpointIO().load_checkpoint(url)


def test_what_is_not_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    for stored, message in [
        ({"state_dict": {}}, f"{path}: was not written by ptm_lightning"),
        ({KEY: {"format": "1"}}, f"{path}: was not written by ptm_lightning"),
        (checkpoint(format=FORMAT + 1), f"{path}: was written by a newer version of ptm_lightning; upgrade to read it"),
        ([1], f"{path}: is no checkpoint, but a list"),
    ]:
        torch.save(stored, path)
        with pytest.raises(UserError) as raised:
            load_checkpoint(path)
        assert str(raised.value).startswith(message)
    with pytest.raises(UserError, match=r"none\.ckpt: no such checkpoint"):
        load_checkpoint(tmp_path / "none.ckpt")


def test_a_torn_file_is_damaged_and_a_flipped_byte_is_seen_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(), path)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.ckpt: is damaged or no checkpoint at all; use another one"):
            load_checkpoint(path)
    seen = 0
    for place in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            loaded = load_checkpoint(path)
        except UserError:
            seen += 1
        else:
            assert torch.equal(loaded["state_dict"]["weight"], checkpoint()["state_dict"]["weight"])
    assert seen > 20


def test_newest_valid_skips_the_damaged_and_names_it(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "none") == (None, [])
    first, second, third = (save(tmp_path, step) for step in (8, 10, 12))
    assert newest_valid(tmp_path) == (third, [])
    whole = third.read_bytes()
    # Whole zip, wrong weights: only the checksum of a record tells.
    middle = whole.index(checkpoint(12)["state_dict"]["weight"].numpy().tobytes()) + 99
    third.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    second.write_bytes(second.read_bytes()[:100])
    found, skipped = newest_valid(tmp_path)
    assert found == first
    assert skipped == [f"{path}: is damaged or no checkpoint at all; it is skipped" for path in (third, second)]


def test_a_crash_before_the_index_line_loses_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = step_path(tmp_path, 2)
    SafeCheckpointIO().save_checkpoint(checkpoint(2), path)
    assert newest_valid(tmp_path) == (path, [])
    # Written again, with the line of the first time.
    append_index(tmp_path, entry_of(path, {}, None, "min"))
    SafeCheckpointIO().save_checkpoint(checkpoint(3), path)
    assert newest_valid(tmp_path) == (path, [])


def test_what_is_no_step_is_left_alone(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    for name in (".step=00000009.ckpt.tmp", "step=00000009.ckpt.old", "step=x.ckpt", "last.ckpt"):
        (tmp_path / name).write_bytes(b"x")
    assert step_files(tmp_path) == {5: path}
    assert newest_valid(tmp_path) == (path, [])


def test_index_survives_torn_lines_and_missing_files(tmp_path: Path) -> None:
    save(tmp_path, 1, {"val/loss": 3.0})
    save(tmp_path, 2, {"val/loss": 2.0}).unlink()
    index = tmp_path / "index.jsonl"
    index.write_text(index.read_text() + '{"name": "step=0000')
    save(tmp_path, 3, {"val/loss": 2.5})
    save(tmp_path, 3, {"val/loss": 2.25})
    assert [(entry.step, entry.metrics) for entry in read_index(tmp_path)] == [
        (1, {"val/loss": 3.0}),
        (3, {"val/loss": 2.25}),
    ]
    write_index(tmp_path, read_index(tmp_path))
    assert len(index.read_text().splitlines()) == 2
    line = json.loads(index.read_text().splitlines()[1])
    path = step_path(tmp_path, 3)
    assert (line["name"], line["size"]) == (path.name, path.stat().st_size)


def test_best_by_the_watched_metric(tmp_path: Path) -> None:
    assert best(tmp_path) is None
    save(tmp_path, 1)
    last = save(tmp_path, 2)
    assert best(tmp_path) == last
    worst = save(tmp_path, 3, {"val/loss": 3.0})
    assert best(tmp_path) == worst
    good = save(tmp_path, 4, {"val/loss": 1.0})
    save(tmp_path, 5, {"val/loss": 1.0})
    save(tmp_path, 6, {"val/loss": float("nan")})
    save(tmp_path, 7, {"val/loss": 2.0}, monitor=None)
    assert best(tmp_path) == good


def test_ranking_turns_round_for_a_metric_to_maximise() -> None:
    entries = [Entry(str(step), step, 1, "", {"f1": f1}, "f1", "max") for step, f1 in enumerate([0.2, 0.9, 0.5])]
    assert [entry.step for entry in ranking(entries)] == [1, 2, 0]
