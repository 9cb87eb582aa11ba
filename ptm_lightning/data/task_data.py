"""TaskData: the one base class of the tasks' data modules."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, dataclass_transform

from lightning.pytorch import LightningDataModule, Trainer
from transformers import PreTrainedTokenizerFast

from ptm_lightning.arguments import declare_arguments
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.built_in_examples import say_built_in
from ptm_lightning.data.corpus import Corpus
from ptm_lightning.data.corpus_text import CorpusSettings
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.loader import Batches, Place, Share, StepBatches, StepLoader, data_loader, sum_over_processes
from ptm_lightning.data.numbers import check_numbers
from ptm_lightning.data.plan import Plan, StepPlan
from ptm_lightning.data.predict import PREDICT_ROWS, Done, PredictLoader, Text, predict_texts
from ptm_lightning.data.sequences import with_sequences
from ptm_lightning.data.show import show_row
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.tokenizer import frame
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding
from ptm_lightning.limits import steps_of_run
from ptm_lightning.link import Link


@dataclass_transform(kw_only_default=True, eq_default=False)
class TaskData(LightningDataModule):
    """Data from anywhere, tokenized once, in batches that are a function of (seed, epoch, step).

    A subclass says what is stored, and how the pieces of a plan become a batch. Its annotated attributes are its
    arguments, on the command line too.
    """

    predict_rows: ClassVar[int] = PREDICT_ROWS
    """Texts of a batch to predict for, where batch_size doesn't say it."""

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
    new_words: int | str | None = None
    """Extends a pretrained model's tokenizer by so many words of the training text, or by those of a file."""
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
        self.shared_tokenizer: PreTrainedTokenizerFast | None = None
        """Of a mixture, for all of its parts."""
        self.given_tokenizer: PreTrainedTokenizerFast | None = None
        """The model's, as it is before it gets new words."""
        self.run_arguments: Mapping[str, Any] | None = None
        """Of the run that is evaluated: other rows to evaluate don't change what it held out for training."""
        self.done = Done()
        """The inputs that `predict` leaves out."""
        if (self.batch_tokens is None) == (self.batch_size is None):
            if self.batch_size is None:
                raise UserError("--data.batch_tokens or --data.batch_size: give one of them")
            self.batch_tokens = None
        check_numbers(self)

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
        self.given_tokenizer = self._given_tokenizer()
        if not self._predicts():
            self.open_corpus()

    def setup(self, stage: str) -> None:
        """Opens the stores, and says what the task must know of them."""
        given = self.given_tokenizer = self._given_tokenizer()
        if stage == "predict":
            if given is None:
                raise UserError("--data.predict: there is no model to predict with; give --run_dir or --model.backbone")
            self.hf_tokenizer = given
            self.max_length = min(self.max_length, given.model_max_length)
        else:
            self.corpus = self.open_corpus()
            self.hf_tokenizer = self.corpus.tokenizer
        self.frame = self.make_frame()
        self.link = self._make_link()
        say_built_in(self, stage)

    def train_dataloader(self) -> StepLoader:
        """The rest of the epoch, from the optimizer step that the trainer stands at."""
        trainer = self._trainer
        return StepLoader(
            self.train_batches,
            lambda: trainer.global_step,
            Place.of(trainer),
            accumulate=trainer.accumulate_grad_batches,
            sum_counts=partial(sum_over_processes, trainer.strategy) if trainer.world_size > 1 else dict,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> Share[Batch]:
        """Every validation document once, always with the same noise."""
        return self._share(self.evaluation_batches("validation"))

    def test_dataloader(self) -> Share[Batch]:
        """Every test document once, always with the same noise."""
        return self._share(self.evaluation_batches("test"))

    def predict_dataloader(self) -> PredictLoader:
        """The texts to predict for, window by window."""
        size = self.batch_size or self.predict_rows
        rank, processes = self._trainer.global_rank, self._trainer.world_size
        return PredictLoader(self.predict_inputs, self.predict_batch, size, rank, processes, self.done)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Moves all but the rows as they were read: Lightning would walk through every value of theirs."""
        if device.type == "cpu":
            return batch
        batch = with_sequences(batch) if device.type == "cuda" and not self._task.compiled else batch
        rows = {"rows": batch["rows"]} if isinstance(batch, dict) and "rows" in batch else {}
        moved = super().transfer_batch_to_device({**batch, "rows": None} if rows else batch, device, dataloader_idx)
        return moved | rows if rows else moved

    # The plan

    @cached_property
    def train_batches(self) -> StepBatches:
        """The training data, batch by batch."""
        window = self._trainer.accumulate_grad_batches * self._trainer.world_size
        return self._batches(self.corpus.train, self.corpus.sources, window=window, train=True)

    def evaluation_batches(self, split: Literal["validation", "test"]) -> StepBatches:
        """The validation or test data, batch by batch."""
        store = self.corpus.validation if split == "validation" else self.corpus.test
        if store is None:
            raise UserError(f"--data.{split}: no source given")
        return self._batches(store)

    def members(self) -> Mapping[str, "TaskData"]:
        """The modules with a corpus of their own, by name: the parts of a mixture, or this one."""
        return {"": self}

    @property
    def plan(self) -> StepPlan:
        """The order of the training data."""
        return self.train_batches.plan

    def total_steps(self) -> int:
        """Optimizer steps of the whole run, by the trainer's limits."""
        return steps_of_run(self._trainer, lambda epoch: self.plan.steps(epoch))

    def lay_out_in_rows(self, why: str) -> None:
        """Takes rows of single documents, and says so, where other rows were asked for: the network can't isolate."""

    def _batches(
        self, store: TokenStore, sources: tuple[int, ...] | None = None, *, window: int = 1, train: bool = False
    ) -> Batches:
        plan = Plan(
            store.offsets,
            sources or (0, len(store)),
            tuple(self.weights) if self.weights and train else None,
            self.rows_maker(store, evaluate=not train),
            self.frame,
            self.batch_tokens,
            self.batch_size,
            window,
            self.seed,
            train,
        )
        return Batches(plan, self.collator(store, evaluate=not train))

    def _share(self, batches: StepBatches) -> Share[Batch]:
        place = Place.of(self.trainer)
        keys = batches.plan.evaluation_keys(place.rank, place.processes)
        return Share(data_loader(batches, keys, self.num_workers), place.cuda)  # rows as they were read aren't pinned

    # What the parts are made of

    @property
    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise UserError(f"{type(self).__name__} needs a trainer: pass it to fit(task, datamodule=...)")
        return self.trainer

    def _predicts(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == "predict"

    def settings(self) -> CorpusSettings:
        """All that the tokens depend on."""
        # The tokenizer of a task that comes from a checkpoint of the run has the new words already.
        extended = getattr(getattr(self._task, "link", None), "new_tokens", None)
        return CorpusSettings.of(self, None if extended else self.new_words)

    def _given_tokenizer(self) -> PreTrainedTokenizerFast | None:
        """The model's tokenizer, if the model isn't built from scratch and no other is asked for."""
        return self.shared_tokenizer or (self._task.tokenizer() if hasattr(self._task, "tokenizer") else None)

    @property
    def _task(self) -> Any:
        return self.trainer.lightning_module if self.trainer is not None else None

    def _make_link(self) -> Link:
        told: dict[str, Any] = {"max_length": self.max_length}
        if not self._predicts():
            provenance = self.corpus.provenance
            told |= {"provenance": provenance, "new_tokens": self.corpus.new_tokens}
            told |= {"labels": list(provenance.get("labels", ())), "problem_type": provenance.get("problem_type")}
        return Link.of(self.hf_tokenizer, **told)


declare_arguments(TaskData)
