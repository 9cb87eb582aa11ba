"""The losses of the tasks that answer with text, plain and smoothed, against transformers' own on the same batch."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conversing
import pytest
import summarizing
import torch
import translating
from answering import summaries_file, write
from transformers.trainer_pt_utils import LabelSmoother

from ptm_lightning.testing_case import switch_dropout_off, tiny
from ptm_lightning.testing_texts import document

SMOOTHING = 0.2


def pairs_file(folder: Path) -> Path:
    return write(folder / "pairs.jsonl", [{"en": document(i), "de": document(i).upper()} for i in range(60)])


TASKS: dict[str, tuple[Callable[..., Any], Callable[[Path], Path]]] = {
    "Summarization": (summarizing.prepared, summaries_file),
    "Dialogue": (conversing.prepared, conversing.rows_file),
    "Translation": (translating.prepared, pairs_file),
}
CASES = [
    *(("Summarization", kind) for kind in ("bart", "t5", "gpt2", "llama")),
    *(("Dialogue", kind) for kind in ("gpt2", "llama", "bart", "t5")),
    ("Translation", "marian"),
]


def labels_of(batch: Any, causal: bool) -> torch.Tensor:
    """As transformers has them: of a causal network on the tokens themselves, which it then shifts."""
    like = batch["input_ids"] if causal else batch["decoder_input_ids"]
    labels = torch.full_like(like, -100)
    labels.view(-1)[batch["target_index"] + causal] = batch["targets"]
    return labels


def ours(task: Any, batch: Any) -> Iterator[torch.Tensor]:
    """In training as asked for, in training without smoothing, and in evaluation."""
    for training, smoothing in ((True, SMOOTHING), (True, 0.0), (False, SMOOTHING)):
        task.train(training).label_smoothing = smoothing
        switch_dropout_off(task)
        with torch.no_grad():
            term = task.terms(batch)["target_text"]
        yield term.sum / term.count


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_plain_and_smoothed_losses_are_transformers_own(tmp_path: Path, name: str, kind: str):
    prepare, rows = TASKS[name]
    settings = {"architecture": kind, "overrides": tiny(kind), "label_smoothing": SMOOTHING}
    task, data = prepare(rows(tmp_path), settings)
    task.network.get_output_embeddings().weight.data.mul_(10)  # else all tokens are about as likely
    batch = next(batch for batch in data.train_dataloader() if batch["padded"])
    causal = not task.network.config.is_encoder_decoder
    assert causal == (kind in ("gpt2", "llama"))
    labels = labels_of(batch, causal)
    assert int((labels >= 0).sum()) == batch["counts"]["target_text"]
    mask = (batch["document_ids"] > 0).long()
    with torch.no_grad():
        theirs = task.network.eval()(input_ids=batch["input_ids"], attention_mask=mask, labels=labels)
    smoothed = LabelSmoother(SMOOTHING)({"logits": theirs.logits}, labels, shift_labels=causal)
    assert not torch.isclose(smoothed, theirs.loss, rtol=1e-3)
    for loss, right in zip(ours(task, batch), (smoothed, theirs.loss, theirs.loss), strict=True):
        torch.testing.assert_close(loss, right, rtol=1e-5, atol=1e-6)
