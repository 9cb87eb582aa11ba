"""TaskData: the one base class of the tasks' data modules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from functools import cached_property
from typing import Any, dataclass_transform

import torch
from lightning.pytorch import LightningDataModule, Trainer
from transformers import PreTrainedTokenizerFast

from ptm_lightning.arguments import declare_arguments
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.corpus import Corpus
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.loader import Batches, Share, StepLoader, data_loader
from ptm_lightning.data.plan import Plan
from ptm_lightning.data.predict import PredictLoader, Text, predict_texts
from ptm_lightning.data.show import show_row
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.tokenizer import frame, to_text
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding
from ptm_lightning.link import Link

SPECIAL_ROLES = ("pad", "mask", "cls", "sep", "bos", "eos", "unk")
PREDICT_ROWS = 32
"""Texts of a batch to predict for, where batch_size doesn't say it."""


@dataclass_transform(kw_only_default=True, eq_default=False)
class TaskData(LightningDataModule):
    """Data from anywhere, tokenized once, in batches that are a function of (seed, epoch, step).

    A subclass says what is stored, and how the pieces of a plan become a batch. Its annotated attributes are its
    arguments, on the command line too.
    """

    train: list[str] = field(default_factory=lambda: ["builtin:python"])
    """What to train on: files (.txt .jsonl .json .csv .tsv .parquet .gz), folders, globs, the hub, builtin:python."""
    validation: list[str] | None = None
    """Sources to validate on. Without them, documents are held out by a hash of their text."""
    test: list[str] | None = None
    """Sources to test on."""
    predict: list[str] | None = None
    """Sources to predict for; - is standard input, lines of text or JSON rows (batch_size 1 answers each at once)."""
    text: list[str] | None = None
    """Texts to predict for, given right here."""
    tokenizer: str | None = None
    """A folder, a hub name, or "train" to train one on the text. Default: the backbone's own, or else "train"."""
    tokenizer_algorithm: Algorithm = "wordpiece"
    """What kind of tokenizer to train."""
    vocab_size: int = 8192
    """Its size."""
    max_length: int = 128
    """Tokens of the longest row, special tokens included."""
    batch_tokens: int | None = 4096
    """Tokens of a micro-batch, padding included."""
    batch_size: int | None = None
    """Rows of a micro-batch, instead of batch_tokens."""
    weights: list[float] | None = None
    """Share of each training source in the tokens seen; default: by size."""
    columns: dict[str, str] | None = None
    """The task's column: your file's column, such as text: body."""
    validation_share: float = 0.02
    """Share of the documents held out when no validation source is given."""
    num_workers: int = 0
    """Processes that prepare batches; 0 is fastest on few cores."""
    cache_dir: str | None = None
    """Where tokens are kept. Default: $PTM_CACHE, or ptm_lightning in the user's cache folder."""
    seed: int = 0
    """Of the order of the data and of the noise."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declare_arguments(cls)

    def __post_init__(self) -> None:
        super().__init__()
        self.trainer: Trainer | None = None
        if (self.batch_tokens is None) == (self.batch_size is None):
            if self.batch_size is None:
                raise UserError("--data.batch_tokens or --data.batch_size: give one of them")
            self.batch_tokens = None
        if self.weights is not None and len(self.weights) != len(self.train):
            raise UserError(
                f"--data.weights: {len(self.weights)} for {len(self.train)} sources of --data.train; give each one"
            )

    # What a subclass says

    def collator(self, store: TokenStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """What makes a batch from the pieces of its rows: picklable, for it goes to the workers.

        `batch["counts"]` must hold the count of each of the task's loss terms and of "tokens".
        """
        raise NotImplementedError(f"{type(self).__name__} doesn't say how to collate")

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """What makes rows, at most `max_length` long, of the documents of a store."""
        raise NotImplementedError(f"{type(self).__name__} doesn't say what a row is")

    def open_corpus(self) -> Corpus:
        """Opens the stores; makes first what the cache doesn't have."""
        raise NotImplementedError(f"{type(self).__name__} doesn't say what it stores")

    def special_tokens(self) -> tuple[str, ...]:
        """What a tokenizer that is trained for this data needs besides its own special tokens, in order."""
        return ()

    def make_frame(self) -> Frame:
        """The special tokens around a text: the tokenizer's own."""
        return Frame(*map(tuple, frame(self.hf_tokenizer)))

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """What `check` finds in training batches and the pieces that they were made of: what the noise must keep."""
        yield from ()

    def facts(self) -> dict[str, str]:
        """What else `inspect` says of the training data."""
        return {}

    def show_row(self, batch: Batch, row: int) -> str:
        """A row of a training batch for people, as `inspect` prints it."""
        return show_row(batch, row, self.hf_tokenizer)

    def predict_inputs(self) -> Iterator[Text]:
        """What to predict for, in order: the texts given right here, then those of the sources."""
        return predict_texts(self.predict, self.text, self.columns)

    def predict_batch(self, texts: list[Text]) -> Batch:
        """A batch to predict for."""
        raise NotImplementedError(f"{type(self).__name__} doesn't predict")

    # Lightning's hooks

    def prepare_data(self) -> None:
        """Trains the tokenizer and builds the token stores, unless the cache has them; once on each machine."""
        if not self._predicts():
            self.open_corpus()

    def setup(self, stage: str) -> None:
        """Opens the stores, and says what the task must know of them."""
        if stage == "predict":
            if (given := self.given_tokenizer()) is None:
                raise UserError("--data.predict: there is no model to predict with; give --run_dir or --model.backbone")
            self.hf_tokenizer = given
            self.max_length = min(self.max_length, given.model_max_length)
        else:
            self.corpus = self.open_corpus()
            self.hf_tokenizer = self.corpus.tokenizer
        self.frame = self.make_frame()
        self.link = self._make_link()

    def train_dataloader(self) -> StepLoader:
        """The rest of the epoch, from the optimizer step that the trainer stands at."""
        trainer = self._trainer
        return StepLoader(
            Batches(self.plan, self.collator(self.corpus.train, evaluate=False)),
            lambda: trainer.global_step,
            accumulate=trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            processes=trainer.world_size,
            sum_counts=self._sum_counts if trainer.world_size > 1 else dict,
            num_workers=self.num_workers,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )

    def val_dataloader(self) -> Share[Batch]:
        """Every validation document once, always with the same noise."""
        return self._evaluation(self.corpus.validation)

    def test_dataloader(self) -> Share[Batch]:
        """Every test document once, always with the same noise."""
        if self.corpus.test is None:
            raise UserError("--data.test: no source given")
        return self._evaluation(self.corpus.test)

    def predict_dataloader(self) -> PredictLoader:
        """The texts to predict for, in their order."""
        trainer = self._trainer
        size = self.batch_size or PREDICT_ROWS
        return PredictLoader(self.predict_inputs, self.predict_batch, size, trainer.global_rank, trainer.world_size)

    # The plan

    @cached_property
    def plan(self) -> Plan:
        """The order of the training data."""
        return self._plan(self.corpus.train, self.corpus.sources, window=self._window, shuffle=True)

    @property
    def _window(self) -> int:
        return self._trainer.accumulate_grad_batches * self._trainer.world_size

    def total_steps(self) -> int:
        """Optimizer steps of the whole run, by the trainer's limits."""
        trainer = self._trainer
        if trainer.max_steps >= 0:
            return int(trainer.max_steps)
        if not trainer.max_epochs or trainer.max_epochs < 0:
            raise UserError(
                "--trainer.max_steps: give the run an end (or --trainer.max_epochs, --max_tokens, --max_hours)"
            )
        if isinstance(limit := trainer.limit_train_batches, int):
            return int(limit * trainer.max_epochs // trainer.accumulate_grad_batches)
        return sum(self.plan.steps(epoch) for epoch in range(trainer.max_epochs))

    def lay_out_in_rows(self, why: str) -> None:
        """Takes rows of single documents, and says so, where other rows were asked for: the network can't isolate."""

    def _plan(self, store: TokenStore, sources: tuple[int, ...], *, window: int, shuffle: bool) -> Plan:
        return Plan(
            store.offsets,
            sources,
            tuple(self.weights) if self.weights and shuffle else None,
            self.rows_maker(store, evaluate=not shuffle),
            self.frame,
            self.batch_tokens,
            self.batch_size,
            window,
            self.seed,
            shuffle,
        )

    def _evaluation(self, store: TokenStore) -> Share[Batch]:
        plan = self._plan(store, (0, len(store)), window=1, shuffle=False)
        keys = list(plan.from_window(0, 0))
        if (trainer := self.trainer) is not None:
            keys = keys[trainer.global_rank :: trainer.world_size]
        return Share(data_loader(Batches(plan, self.collator(store, evaluate=True)), keys, self.num_workers))

    # What the parts are made of

    @property
    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise UserError(f"{type(self).__name__} needs a trainer: pass it to fit(task, datamodule=...)")
        return self.trainer

    def _predicts(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == "predict"

    def given_tokenizer(self) -> PreTrainedTokenizerFast | None:
        """The model's tokenizer, if the model isn't built from scratch and no other is asked for."""
        task: Any = self.trainer.lightning_module if self.trainer is not None else None
        given: PreTrainedTokenizerFast | None = task.tokenizer() if hasattr(task, "tokenizer") else None
        return given

    def _make_link(self) -> Link:
        text, config = to_text(self.hf_tokenizer)
        special_ids = {role: getattr(self.hf_tokenizer, f"{role}_token_id") for role in SPECIAL_ROLES}
        if special_ids["pad"] == special_ids["eos"]:  # a network doesn't learn the embedding of its padding id
            special_ids["pad"] = None
        provenance = {} if self._predicts() else self.corpus.provenance
        return Link(
            tokenizer=text,
            tokenizer_config=config,
            vocabulary=len(self.hf_tokenizer),
            special_ids=special_ids,
            max_length=self.max_length,
            labels=list(provenance.get("labels", ())),
            problem_type=provenance.get("problem_type"),
            provenance=provenance,
        )

    def _sum_counts(self, counts: dict[str, int]) -> dict[str, int]:
        """Over the processes; all call it for the same step."""
        strategy = self._trainer.strategy
        numbers = torch.tensor(list(counts.values()), device=strategy.root_device)
        return dict(zip(counts, strategy.reduce(numbers, reduce_op="sum").tolist(), strict=True))


declare_arguments(TaskData)
