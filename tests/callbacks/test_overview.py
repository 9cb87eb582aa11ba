"""What is said before training, and the estimates behind it."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.callbacks import Budget, Overview
from ptm_lightning.callbacks import overview as overview_module
from ptm_lightning.callbacks.estimate import Shape, Weights, free_bytes, training_bytes, training_flops
from tiny_mlm import make, trainer_of
from torch.utils.flop_counter import FlopCounterMode
from transformers import AlbertConfig, AlbertForMaskedLM, BertConfig, BertForMaskedLM

from ptm_lightning.models.rows import only_rows

SIZES: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 256,
}


@pytest.mark.parametrize(
    "network",
    [
        BertForMaskedLM(BertConfig(**SIZES, attn_implementation="eager")),
        BertForMaskedLM(BertConfig(**SIZES, attn_implementation="eager", tie_word_embeddings=False)),
        AlbertForMaskedLM(AlbertConfig(**SIZES, embedding_size=64, attn_implementation="eager")),
    ],
    ids=["tied", "untied", "shared layers"],
)
def test_work_agrees_with_torchs_counter(network: Any):
    ids = torch.randint(0, 500, (4, 96))
    targets = torch.arange(0, 4 * 96, 5)
    counter = FlopCounterMode(display=False)
    with counter, only_rows(network, targets):
        network(ids).logits.sum().backward()
    shape = Shape(places=4 * 96, width=96, targets=len(targets))
    assert training_flops(Weights.of(network), shape) == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_weights_are_counted_once():
    tied = Weights.of(BertForMaskedLM(BertConfig(**SIZES)))
    untied = Weights.of(BertForMaskedLM(BertConfig(**SIZES, tie_word_embeddings=False)))
    assert tied.head == untied.head == 500 * 64
    assert untied.total - tied.total == 500 * 64 + 500  # with a second bias
    assert untied.body - tied.body == 500
    assert tied.embeddings == 64 * (500 + 512 + 2)


def test_memory_is_the_formula():
    weights = Weights(total=1000, embeddings=0, head=0, body=0, layers=2, hidden=10, vocabulary=50)
    shape = Shape(places=30, width=10, targets=4)
    assert training_bytes(weights, shape, half=True, averaged=False) == 16_000 + 30 * 2 * 10 * 34 + 4 * 50 * 12
    assert training_bytes(weights, shape, half=False, averaged=True) == 20_000 + 30 * 2 * 10 * 68 + 4 * 50 * 12


def test_free_memory_of_this_machine():
    free = free_bytes(torch.device("cpu"))
    assert free is None or 10**6 < free < 10**15


def show(
    corpus: Path, folder: Path, capsys: pytest.CaptureFixture[str], *others: Any, **changes: Any
) -> tuple[Any, list[str]]:
    task, data = make(corpus)
    resume = changes.pop("resume", None)
    trainer_of(folder, *others, Overview(), **changes).fit(task, data, ckpt_path=resume, weights_only=True)
    shown = [line for line in capsys.readouterr().err.splitlines() if re.match(r"[a-z ]{10}  \S", line)]
    return (task, data), shown


def test_lines(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (task, data), lines = show(corpus, tmp_path, capsys, max_steps=80)
    assert [line[:12].rstrip() for line in lines] == ["parameters", "tokens", "steps", "memory", "time", "run folder"]
    parameters = sum(p.numel() for p in task.network.parameters())
    assert lines[0].startswith(f"parameters  {parameters / 1000:.1f} k, ")
    train, held_out = (data.link.provenance[part] for part in ("train", "validation"))
    assert lines[1] == (
        f"tokens      {train['tokens'] / 1000:.1f} k in {train['documents']} documents; "
        f"{held_out['tokens'] / 1000:.2f} k for validation"
    )
    numbers = re.fullmatch(r"steps       (\d+) of (\d+) tokens: ([\d.]+) k, ([\d.]+) epochs", lines[2])
    assert numbers is not None
    steps, tokens, total, epochs = map(float, numbers.groups())
    assert steps == task.total_steps == 80
    assert tokens == pytest.approx(data.plan.chunk(0, 0).tokens.mean(), abs=1)
    assert epochs == pytest.approx(80 / data.plan.steps(0), rel=0.02)
    assert total * 1000 == pytest.approx(task.tokens_seen, rel=0.05)
    assert re.fullmatch(r"memory      about [\d.]+ MB(, [\d.]+ [MG]B free)?", lines[3])
    assert re.fullmatch(r"time        about \d+s", lines[4])
    assert lines[5] == f"run folder  {tmp_path}"


def test_time_grows_with_the_steps_that_are_left(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(overview_module, "device_speed", lambda device, dtype: 1e6)

    def seconds(lines: list[str]) -> int:
        minutes = re.search(r"about (?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", lines[4])
        assert minutes is not None
        hours, minutes_, seconds_ = (int(part or 0) for part in minutes.groups())
        return 3600 * hours + 60 * minutes_ + seconds_

    saves = ModelCheckpoint(tmp_path, every_n_train_steps=8, save_top_k=-1, filename="{step}")
    _, short = show(corpus, tmp_path, capsys, saves, max_steps=8, enable_checkpointing=True)
    _, long = show(corpus, tmp_path, capsys, max_steps=16)
    _, resumed = show(corpus, tmp_path, capsys, max_steps=16, resume=tmp_path / "step=8.ckpt")
    assert seconds(long) == pytest.approx(2 * seconds(short), rel=0.02)
    assert resumed[4] == short[4]
    assert resumed[2].endswith("; 8 are done")


def test_a_budget_in_hours_is_said(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, lines = show(corpus, tmp_path, capsys, Budget(max_hours=0.5), max_steps=2)
    assert lines[2] == "steps       as many as 0.5 h allow, to be measured"
    assert lines[4] == "time        about 30m00s"


def test_epochs_that_end_before_the_steps_are_said(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (task, _), lines = show(corpus, tmp_path, capsys, max_epochs=1, max_steps=500)
    assert lines[2].endswith("; --trainer.max_epochs 1 ends before --trainer.max_steps 500")
    assert task.global_step == task.total_steps == 27


def test_too_little_memory_is_said(
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    show(corpus, tmp_path, capsys, max_steps=1)
    assert "memory" not in caplog.text
    monkeypatch.setattr(overview_module, "free_bytes", lambda device: 1_000_000)
    show(corpus, tmp_path, capsys, max_steps=1)
    assert re.search(r"memory: about [\d.]+ MB, 1 MB free; lower --data.batch_tokens", caplog.text)
