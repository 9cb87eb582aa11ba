"""Two processes do what one does with twice the micro-batches, and evaluate every batch once."""

from pathlib import Path

import pytest
from programs import printed_by

SCRIPT = """
import json, sys
from lightning.pytorch import Trainer
from ptm_lightning.tasks import MaskedLM, MaskedLMData, Mixture, MixtureData

corpus, cache, processes, tokens, share, mixed = sys.argv[1:]
size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
shared = dict(
    train=[corpus], vocab_size=600, max_length=64, batch_tokens=int(tokens), cache_dir=cache,
    validation_share=float(share),
)
parts = {"words": {"task": "MaskedLM", "masking": "word"}, "tokens": {"task": "MaskedLM"}}
if mixed == "True":
    task, data = Mixture(overrides={**size, **quiet}), MixtureData(parts=parts, **shared)
else:
    task, data = MaskedLM(overrides={**size, **quiet}), MaskedLMData(**shared)
two = processes == "2"
trainer = Trainer(
    accelerator="cpu", devices=int(processes), strategy="ddp" if two else "auto", logger=False,
    accumulate_grad_batches=1 if two else 2, max_steps=3, val_check_interval=3 if two else 6,
    check_val_every_n_epoch=None, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(task, data)
if trainer.is_global_zero:
    batches = len(data.evaluation_batches("validation").plan.evaluation_keys(0, 1))
    print(json.dumps({"batches": batches, **{name: float(value) for name, value in trainer.callback_metrics.items()}}))
"""


def metrics(corpus: Path, cache: Path, folder: Path, processes: int, mixed: bool) -> dict[str, float]:
    arguments = [str(corpus), str(cache), str(processes), "4096", "0.02", str(mixed)]
    found: dict[str, float] = printed_by(SCRIPT, folder, *arguments, timeout=120)
    return found


@pytest.mark.parametrize("mixed", [False, True])
def test_one_of_two_processes_may_have_no_batch_to_evaluate(
    corpus: Path, cache: Path, tmp_path: Path, mixed: bool
) -> None:
    one, two = (metrics(corpus, cache, tmp_path, processes, mixed) for processes in (1, 2))
    assert one["batches"] == 1 + mixed
    assert two == pytest.approx(one, rel=1e-4)
    assert not mixed or {"val/words/loss", "val/tokens/loss", "val/tokens/bits_per_byte"} <= two.keys()
