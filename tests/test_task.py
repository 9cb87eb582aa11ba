"""What every task relies on: exact accumulation, exact resume, loading without data."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import CausalLM, MaskedLM, MaskedLMData
from torch.nn import functional
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ptm_lightning.errors import UserError
from ptm_lightning.models.masks import BIDIRECTIONAL, CAUSAL, isolates
from ptm_lightning.task import Task
from ptm_lightning.terms import Ratio, RunningSums, Term, step_loss
from ptm_lightning.testing_case import tiny

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


class Losses(Callback):
    """The loss of each micro-batch, by optimizer step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self._step = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((self._step, outputs["loss"].item()))


def make(corpus: Path, task: dict[str, Any] | None = None, data: dict[str, Any] | None = None):
    return (
        MaskedLM(**({"overrides": TINY, "learning_rate": 1e-3} | (task or {}))),
        MaskedLMData(
            **(
                {
                    "train": [str(corpus)],
                    "vocab_size": 600,
                    "max_length": 32,
                    "batch_tokens": 512,
                    "validation_share": 0.1,
                }
                | (data or {})
            )
        ),
    )


def trainer(folder: Path, **changes: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "max_steps": 12,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": 1.0,
        "default_root_dir": folder,
    }
    return Trainer(**(arguments | changes))


def gradients(task: MaskedLM) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def test_bfloat16_trains_with_clipped_gradients(corpus: Path, tmp_path: Path):
    for precision in ("32-true", "bf16-mixed"):
        task, data = make(corpus)
        losses = Losses()
        trainer(tmp_path, precision=precision, max_steps=4, gradient_clip_val=1e-4, callbacks=[losses]).fit(task, data)
        norm = torch.nn.utils.get_total_norm(gradients(task).values())
        assert norm <= 1.001e-4, precision
        if precision == "32-true":
            exact = losses.seen
    assert [loss for _, loss in losses.seen] == pytest.approx([loss for _, loss in exact], rel=0.02)
    assert losses.seen != exact


def test_accumulation_gives_the_gradient_of_the_union(corpus: Path, tmp_path: Path):
    """Micro-batches with unequal numbers of targets, against one mean over all targets."""
    overrides = TINY | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    task, data = make(corpus, {"overrides": overrides}, {"batch_tokens": 200})
    seen: dict[str, Any] = {"batches": []}

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen["network"] = copy.deepcopy(pl_module.network)

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            seen["batches"].append(batch)

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            seen["gradient"] = gradients(pl_module)

    trainer(tmp_path, max_steps=1, accumulate_grad_batches=4, gradient_clip_val=None, callbacks=[Look()]).fit(
        task, data
    )
    counts = [batch["counts"]["mlm"] for batch in seen["batches"]]
    assert len(set(counts)) > 1
    network = seen["network"]
    losses = []
    for batch in seen["batches"]:
        labels = torch.full_like(batch["input_ids"], -100).flatten()
        labels[batch["target_index"]] = batch["targets"]
        mask = (batch["document_ids"] > 0).long()
        logits = network(batch["input_ids"], attention_mask=mask).logits
        losses.append(functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum"))
    (torch.stack(losses).sum() / sum(counts)).backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(seen["gradient"][f"network.{name}"], parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("task", "data", "changes"),
    [
        ({}, {}, {"max_steps": 12, "val_check_interval": 4, "check_val_every_n_epoch": None}),
        ({"ema": 0.9}, {"layout": "packed"}, {"max_steps": 10, "accumulate_grad_batches": 3}),
        (
            {"schedule": "cosine"},
            {"layout": "blocks", "num_workers": 2, "batch_tokens": 3000},
            {"max_epochs": 3, "max_steps": -1},
        ),
    ],
)
def test_resume_is_bit_identical(corpus: Path, tmp_path: Path, task: dict, data: dict, changes: dict):
    whole, data_module = make(corpus, task, data)
    losses = Losses()
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    trainer(tmp_path, enable_checkpointing=True, callbacks=[losses, saves], **changes).fit(whole, data_module)
    steps = sorted(int(path.stem.split("=")[1]) for path in tmp_path.glob("*.ckpt"))
    assert len(steps) > 5
    for step in (steps[0], steps[len(steps) // 2], steps[-2]):
        again, data_module = make(corpus, task, data)
        rest = Losses()
        path = tmp_path / f"step={step}.ckpt"
        trainer(tmp_path, callbacks=[rest], **changes).fit(again, data_module, ckpt_path=path, weights_only=True)
        assert rest.seen == [entry for entry in losses.seen if entry[0] >= step]
        assert all(map(torch.equal, whole.parameters(), again.parameters()))
        assert again.tokens_seen == whole.tokens_seen


def test_loads_without_data_and_without_the_class_being_configured(corpus: Path, tmp_path: Path):
    task, data = make(corpus)
    fitted = trainer(tmp_path, max_steps=2)
    fitted.fit(task, data)
    fitted.save_checkpoint(tmp_path / "task.ckpt")
    loaded = MaskedLM.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    assert loaded.hparams == task.hparams
    assert all(map(torch.equal, task.parameters(), loaded.parameters()))
    assert loaded.tokenizer().get_vocab() == data.hf_tokenizer.get_vocab()


def test_weights_come_from_the_seed_and_leave_the_global_generator_alone(corpus: Path, tmp_path: Path):
    def weights(seed: int) -> list[torch.Tensor]:
        task, data = make(corpus, {"seed": seed})
        trainer(tmp_path, max_steps=0).fit(task, data)
        return list(task.parameters())

    first, again, other = weights(0), weights(0), weights(1)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_validation_is_frozen_and_trains_nothing(corpus: Path, tmp_path: Path):
    task, data = make(corpus)
    run = trainer(tmp_path, max_steps=1)
    run.fit(task, data)
    first, second = (run.validate(task, data, verbose=False)[0] for _ in range(2))
    assert first == second
    assert {"val/loss", "val/perplexity", "val/accuracy", "val/loss_new_sentences"} <= set(first)


def test_a_run_without_an_end_is_refused(corpus: Path, tmp_path: Path):
    task, data = make(corpus)
    with pytest.raises(UserError, match=r"--trainer\.max_steps: give the run an end"):
        trainer(tmp_path, max_steps=-1, max_epochs=-1).fit(task, data)


def test_step_loss_is_the_loss_of_the_union():
    parts = [torch.tensor([1.0, 2.0]), torch.tensor([6.0])]
    counts = {"a": 3}
    loss = sum(step_loss({"a": Term(part.sum(), len(part))}, counts) for part in parts)
    assert loss == torch.cat(parts).mean()


def test_step_loss_without_targets_is_zero():
    assert step_loss({"a": Term(torch.zeros(()), 0)}, {"a": 0}) == 0


def test_running_sums():
    sums = RunningSums()
    sums.add({"a": Term(torch.tensor(2.0), 1), "b": Term(torch.tensor(9.0), 3, 2.0), "hits": Ratio(torch.tensor(1), 4)})
    sums.add({"a": Term(torch.tensor(4.0), 2), "b": Term(torch.tensor(0.0), 0, 2.0), "hits": Ratio(torch.tensor(3), 4)})
    assert sums.means("val") == {"val/loss": 8.0, "val/a_loss": 2.0, "val/b_loss": 3.0, "val/hits": 0.5}
    again = RunningSums()
    again.restore(sums.state(), torch.device("cpu"))
    assert again.means("val") == sums.means("val")


def not_isolated() -> list[tuple[type[Task], str]]:
    """Text networks whose documents can't be kept apart in a row: all of masked language modelling, some causal."""
    other_dimensions = {
        "flaubert",
        "funnel",
        "modernvbert",
        "perceiver",
        "reformer",
        "squeezebert",
        "ultravbert",
        "xlm",
    }
    large_at_least = {"luke", "roc_bert"}
    padding_of_its_own = {"mpnet"}
    masked = set(MODEL_FOR_MASKED_LM_MAPPING_NAMES) & set(CONFIG_MAPPING) - BIDIRECTIONAL - CAUSAL
    masked -= other_dimensions | large_at_least | padding_of_its_own
    causal = ("gemma2", "gpt_neox", "mistral", "opt", "phi")
    return [(MaskedLM, name) for name in sorted(masked)] + [(CausalLM, name) for name in causal]


@pytest.mark.parametrize(("task_class", "architecture"), not_isolated())
def test_what_cannot_be_isolated_is_laid_out_in_rows_and_said(
    corpus: Path, caplog: pytest.LogCaptureFixture, task_class: type[Task], architecture: str
):
    task = task_class(architecture=architecture, overrides=tiny(architecture))
    settings = {"vocab_size": 600, "max_length": 32, "batch_tokens": 512, "validation_share": 0.1}
    data = task_class.data_class(train=[str(corpus)], layout="packed", **settings)
    data.setup("validate")
    task.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    task.trainer.datamodule = data  # type: ignore[attr-defined]
    task.setup("validate")
    assert task.network is not None
    assert not isolates(task.network.config)
    said = f"--data.layout packed: {task.network.config.model_type} can't isolate packed documents; taking rows instead"
    assert said in caplog.messages
    assert not any(batch["packed"] for batch in data.val_dataloader())
