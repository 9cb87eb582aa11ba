"""Mixture: several tasks on one network, an optimizer step of one at a time, by weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.built_in_examples import say_built_in
from ptm_lightning.data.corpus_tokenizer import prepare_tokenizer
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.loader import StepBatches
from ptm_lightning.data.mixed import MixedBatches, MixedPlan, named, of_part
from ptm_lightning.data.module import TextData
from ptm_lightning.data.new_words import NewTokens
from ptm_lightning.data.predict import Text
from ptm_lightning.data.sources import resolve
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.evaluation import Record
from ptm_lightning.findings import Finding
from ptm_lightning.link import Link
from ptm_lightning.parts import find_task, read_parts, sum_up
from ptm_lightning.task import Task
from ptm_lightning.terms import RunningSums, Terms


class MixtureData(TextData):
    """The data of several tasks, a step of one at a time.

    A part has its task's data module. It takes the mixture's settings but for those that it names; with sources of its
    own it takes none that belong to the mixture's sources. All share one tokenizer. Whose turn a step is follows from
    the step's number; validation takes all documents of every part.
    """

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Each part's task, its weight (share of the steps; default: by size), and settings of that task's data."""
    tokenizer_algorithm: Algorithm | None = None  # type: ignore[assignment]
    """What kind of tokenizer to train; default: the first part's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._parts = read_parts(self.parts)
        self.modules = {name: part.module(self) for name, part in self._parts.items()}
        if self.tokenizer_algorithm is None:
            self.tokenizer_algorithm = self._first.tokenizer_algorithm

    @property
    def _first(self) -> TaskData:
        return next(iter(self.modules.values()))

    @property
    def _weights(self) -> tuple[float, ...] | None:
        weights = [part.weight for part in self._parts.values()]
        return tuple(weight for weight in weights if weight is not None) or None

    def members(self) -> Mapping[str, TaskData]:
        """The parts."""
        return self.modules

    def prepare_data(self) -> None:
        """Readies the tokenizer of all and each part's stores, unless the cache has them; once on each machine."""
        if self._predicts():
            return
        self._share_tokenizer()
        for name, module in self.modules.items():
            with self._parts[name].flags():
                module.prepare_data()

    def setup(self, stage: str) -> None:
        """Opens each part's stores, and says what the task must know of them."""
        new_tokens = self._share_tokenizer()
        for name, module in self.modules.items():
            with self._parts[name].flags():
                module.setup(stage)
        self.hf_tokenizer, self.frame = self._first.hf_tokenizer, self._first.frame
        self.max_length = max(module.max_length for module in self.modules.values())
        self.link = self._link_of_all(new_tokens)
        say_built_in(self, stage)

    def _share_tokenizer(self) -> NewTokens:
        """Gives all parts the trainer and one tokenizer: the model's, or one that is trained on all their text."""
        tokenizer = self.given_tokenizer = self._given_tokenizer()
        new_tokens: NewTokens = {}
        for name, module in self.modules.items():
            module.trainer, module.run_arguments = self.trainer, self._parts[name].of_run(self.run_arguments)
        if not self._predicts():
            tokenizer, new_tokens = self._prepared(tokenizer)
        for module in self.modules.values():
            module.shared_tokenizer = tokenizer
        return new_tokens

    def _prepared(self, given: PreTrainedTokenizerFast | None) -> tuple[PreTrainedTokenizerFast, NewTokens]:
        """The tokenizer as the mixture's settings want it; new words are those of the first part's text."""
        for name, module in self.modules.items():
            with self._parts[name].flags():
                resolve(module.train, "--data.train")  # what isn't there is said with the part's own flag
        settings = [module.settings() for module in self.modules.values()]
        special = dict.fromkeys(token for each in settings for token in each.special_tokens)
        asked, longest = self.settings(), max(each.max_length for each in settings)
        shared = {name: getattr(asked, name) for name in ("tokenizer", "algorithm", "vocab_size", "new_words")}
        own = replace(settings[0], **shared, special_tokens=tuple(special), max_length=longest)
        return prepare_tokenizer(own, given, settings)

    def _link_of_all(self, new_tokens: NewTokens) -> Link:
        labels = [module.link.labels for module in self.modules.values()]
        if any(each != labels[0] for each in labels):
            raise UserError("--data.parts: the parts have different labels; one network can't have both")
        sizes = [1.0] * len(labels) if self._predicts() else [len(m.corpus.train.tokens) for m in self.modules.values()]
        shares = dict(zip(self.modules, self._weights or sizes, strict=True))
        return Link.of(
            self.hf_tokenizer,
            max_length=self.max_length,
            labels=labels[0],
            problem_type=self._first.link.problem_type,
            new_tokens=new_tokens,
            parts={name: {"task": part["task"], "share": float(shares[name])} for name, part in self.parts.items()},
            provenance={} if self._predicts() else sum_up({n: m.link.provenance for n, m in self.modules.items()}),
        )

    @cached_property
    def train_batches(self) -> StepBatches:
        """The training data of all parts, by turns."""
        return self._mixed({name: module.train_batches for name, module in self.modules.items()})

    def evaluation_batches(self, split: Literal["validation", "test"]) -> StepBatches:
        """The validation or test data of all parts."""
        found = {}
        for name, module in self.modules.items():
            with self._parts[name].flags():
                found[name] = module.evaluation_batches(split)
        return self._mixed(found)

    def _mixed(self, batches: Mapping[str, StepBatches]) -> MixedBatches:
        return MixedBatches(MixedPlan(tuple(each.plan for each in batches.values()), self._weights), batches)

    def lay_out_in_rows(self, why: str) -> None:
        """Takes rows instead of packing, in all parts."""
        for module in self.modules.values():
            module.lay_out_in_rows(why)

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """What each part finds in its own batches."""
        for name, module in self.modules.items():
            own = [(pieces, of_part(batch)) for pieces, batch in seen if batch["part"] == name]
            for finding in module.findings(own) if own else ():
                yield finding._replace(what=f"{name}: {finding.what}")

    def show_row(self, batch: Batch, row: int) -> str:
        """A row as its part shows it."""
        return self.modules[batch["part"]].show_row(batch, row)

    def predict_batch(self, texts: list[Text]) -> Batch:
        """A batch for the first part to predict for."""
        return named(self._first.predict_batch(texts), next(iter(self.parts)))


class Mixture(Task):
    """Several tasks on one network, an optimizer step of one at a time, by weights; each with metrics of its own.

    The parts' tasks say terms, metrics and examples; their networks are one, so that they need the same auto class. The
    loss over all is the mean of the parts' losses by their weights. Predictions are the first part's.
    """

    data_class: ClassVar[type[TaskData]] = MixtureData

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parts: dict[str, Task] = {}  # no submodules: they have the very network that this one has

    def configure_model(self) -> None:
        """Builds the network, once, with the head that the parts need; and the parts around it."""
        if self.network is None and (self.link is not None or self._has_data()):
            link: Link = self.link or self.trainer.datamodule.link  # type: ignore[attr-defined]
            heads = {find_task(part["task"], name).auto_class for name, part in link.parts.items()}
            self.auto_class = next(iter(heads)) if heads else str(link.auto_class)  # type: ignore[misc]
        super().configure_model()
        if self.network is not None:
            self._build_parts()

    def _build_parts(self) -> None:
        """Each part's task, with the network and what is known of the data."""
        known, self.parts = self.parts, {}
        for name, told in self._link.parts.items():
            task = find_task(told["task"], name)
            if task.auto_class != self.auto_class:
                raise UserError(
                    f"--data.parts.{name}.task {told['task']}: needs an {task.auto_class}, and --init_from has an "
                    f"{self.auto_class}; export it and give --init_from the folder"
                )
            part = self.parts[name] = known[name] if type(known.get(name)) is task else task(seed=self.seed)
            part.link, part.network = self._link, self.network
            part.configure_model()
            if part.auxiliary_networks():
                raise UserError(f"--data.parts.{name}.task {told['task']}: trains a second network; it can't be a part")

    def setup(self, stage: str) -> None:
        """Meets the data, and lets the parts meet it too."""
        super().setup(stage)
        self._build_parts()
        for part in self.parts.values():
            part.trainer = self.trainer
            part.setup(stage)

    def _part(self, batch: Batch) -> Task:
        part = self.parts[batch["part"]]
        part.training = self.training
        return part

    def terms(self, batch: Batch) -> Terms:
        """The terms of the batch's part, with its name before theirs."""
        return {f"{batch['part']}/{name}": term for name, term in self._part(batch).terms(of_part(batch)).items()}

    def evaluate(self, batch: Batch) -> tuple[Terms, list[Record]]:
        """The part's terms and records, with its name."""
        terms, records = self._part(batch).evaluate(of_part(batch))
        name = batch["part"]
        return {f"{name}/{term}": value for term, value in terms.items()}, [each | {"part": name} for each in records]

    def complete(self, records: Sequence[Record]) -> None:
        """Each part completes its own."""
        for name, part in self.parts.items():
            part.complete([record for record in records if record["part"] == name])

    def means(self, sums: RunningSums, prefix: str, records: Sequence[Record] = ()) -> dict[str, float]:
        """The metrics of each part, named after it, and the mean of the parts' losses by their weights."""
        metrics: dict[str, float] = {}
        losses: list[tuple[float, float]] = []
        by_part = sums.by_part()
        for name in filter(by_part.__contains__, self.parts):
            place = f"{prefix}/{name}"
            own = [record for record in records if record["part"] == name]
            metrics |= self.parts[name].means(by_part[name], place, own)
            losses.append((self._link.parts[name]["share"], metrics[f"{place}/loss"]))
        if total := sum(share for share, _ in losses):
            metrics[f"{prefix}/loss"] = sum(share * loss for share, loss in losses) / total
        return metrics

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The network's arguments, as the batch's part gives them."""
        return self._part(batch).inputs(of_part(batch))

    def logits_at_targets(self, batch: Batch) -> Tensor:
        """(N, vocabulary): the logits that the part's loss reads."""
        return self._part(batch).logits_at_targets(of_part(batch))

    def hidden_from(self, batch: Batch, number: int) -> Tensor:
        """(R, T) bool: what the part hides from its nth target."""
        return self._part(batch).hidden_from(of_part(batch), number)

    def findings(self, batches: Sequence[Batch]) -> Iterator[Finding]:
        """What each part finds in what it makes of its own batches."""
        for name, part in self.parts.items():
            own = [of_part(batch) for batch in batches if batch["part"] == name]
            for finding in part.findings(own) if own else ():
                yield finding._replace(what=f"{name}: {finding.what}")

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows for people, as the batch's part shows them."""
        return [{"part": batch["part"], **row} for row in self._part(batch).examples(of_part(batch))]

    def example_text(self) -> str | None:
        """A text for the first part to predict for."""
        return next(iter(self.parts.values())).example_text()

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """What the first part predicts."""
        return self._part(batch).predictions(of_part(batch))
