"""Task: the one base class of every objective and downstream task."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ptm_lightning.arguments import declare_arguments
from ptm_lightning.checkpoint import KEY, record_of
from ptm_lightning.data.batch import Batch, other_documents
from ptm_lightning.data.predict import Window
from ptm_lightning.errors import UserError
from ptm_lightning.evaluation import Evaluation, Record
from ptm_lightning.figures import Figure
from ptm_lightning.findings import Finding
from ptm_lightning.idle_hooks import QuickModule, skip_idle_hooks
from ptm_lightning.limits import averaged_batches, check_trainer, evaluates, micro_batch, sync_buffers
from ptm_lightning.link import Link
from ptm_lightning.models.compiled import compile_all
from ptm_lightning.models.dropout import seed_dropout
from ptm_lightning.models.inputs import network_inputs
from ptm_lightning.models.kernels import trim_freed_memory
from ptm_lightning.models.masks import isolates
from ptm_lightning.models.rows import only_rows
from ptm_lightning.models.sizes import SizeName
from ptm_lightning.models.start import meet_data, start_network, start_tokenizer
from ptm_lightning.optim import RATES, OptimizerName, Schedule, build_optimizer, build_schedule, check_recipe
from ptm_lightning.records import logs_at, record_evaluation, record_steps, truncate_records
from ptm_lightning.task_state import state_of, take_state
from ptm_lightning.terms import RunningSums, Terms, step_loss

if TYPE_CHECKING:
    from ptm_lightning.data.task_data import TaskData


@dataclass_transform(kw_only_default=True, eq_default=False)
class Task(QuickModule):
    """An objective or a downstream task: a network, and the terms of its loss.

    A subclass names its data module and the transformers auto class of its network, and says its `terms`. Its annotated
    attributes are its arguments, on the command line too.
    """

    data_class: ClassVar[type["TaskData"]]
    auto_class: ClassVar[str]
    """Name of the transformers auto class, such as "AutoModelForMaskedLM"."""
    headline: ClassVar[tuple[str, ...]] = ()
    """The metrics that validation shows on the screen, such as "accuracy"; () is all of them."""
    prediction_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments that only predictions depend on: `predict` takes them anew."""

    backbone: str | None = None
    """A pretrained folder or hub name to start from; its tokenizer comes along."""
    architecture: str = "bert"
    """What to build from scratch when there is no backbone: a transformers model type."""
    size: SizeName = "tiny"
    """BERT's published dimensions, from 2 layers of 128 (tiny) to 24 of 1024 (large)."""
    overrides: dict[str, Any] | None = None
    """Fields of the network's config to set otherwise, such as num_hidden_layers."""
    optimizer: OptimizerName = "adamw"
    """AdamW; or Adafactor, T5's, whose steps are relative to the size of a weight."""
    learning_rate: float | None = None
    """The peak of the schedule. Default: 1e-3 from scratch, 5e-5 from a backbone; with Adafactor 1e-2 and 1e-3."""
    schedule: Schedule = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: float = 0.06
    """Warm-up in steps, or below 1 as a share of the run."""
    weight_decay: float = 0.01
    """Not applied to biases, embeddings and normalisation."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's averaging of the gradient and of its square."""
    eps: float = 1e-6
    """AdamW's guard against division by zero."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights; the average is what is evaluated and exported."""
    compiled: bool = False
    """Compiles the layers by torch.compile, for CUDA: on a CPU it takes half a minute and brings nothing."""
    seed: int = 0
    """Of the initial weights and of dropout."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declare_arguments(cls)

    def __post_init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_recipe(self)
        self.link: Link | None = None
        self.network: PreTrainedModel | None = None
        self.total_steps = self.tokens_seen = 0
        self.running_sums, self.evaluation = RunningSums(), Evaluation()
        self._step_tokens, self._resumed_at = 0, -1
        self._gradient_norm: Tensor | None = None

    def terms(self, batch: Batch) -> Terms:
        """The terms of the loss, named as in `batch["counts"]`, and in evaluation (`not self.training`) the metrics."""
        raise NotImplementedError(f"{type(self).__name__} doesn't say its terms")

    def evaluate(self, batch: Batch) -> tuple[Terms, list[Record]]:
        """The terms of an evaluation batch, and a record of each example for metrics that aren't sums."""
        return self.terms(batch), []

    def complete(self, records: Sequence[Record]) -> None:
        """Adds to this process's records what is best found for all of them at a time."""

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Metrics of a whole evaluation, from the records of all examples, each once and in their order."""
        return {}

    def example_scores(self, records: Sequence[Record]) -> dict[str, dict[int, float]]:
        """By the name of a measure, what each example's prediction is worth; for tests between runs."""
        return {}

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Metrics that are functions of others, such as a perplexity: a chance to add them."""
        return metrics

    def best_by(self) -> tuple[str, Literal["min", "max"]]:
        """The validation metric that tells which checkpoint is the best, and whether its smallest value is."""
        return "val/loss", "min"

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of an evaluation batch for people: columns of text, such as what was asked, right and guessed."""
        return []

    def figures(self) -> Mapping[str, Figure]:
        """Figures of the last evaluation, whose records are `self.evaluation.records`, by name."""
        return {}

    def worst(self) -> Iterable[dict[str, Any]]:
        """Examples of the last evaluation as rows of the same columns, the one that is most wrong first."""
        return []

    def example_text(self) -> str | None:
        """A text to predict for, as an example; None if the task doesn't predict for texts."""
        return None

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """For each text of a batch its "id", "prediction" and what else is to be said."""
        raise NotImplementedError(f"{type(self).__name__} doesn't predict")

    def hidden_from(self, batch: Batch, number: int) -> Tensor:
        """(R, T) bool: the input places that the prediction of the batch's nth target may not depend on."""
        return other_documents(batch, number)

    def findings(self, batches: Sequence[Batch]) -> Iterable[Finding]:
        """What `check` finds in what the task itself makes of training batches, such as tokens that it replaces."""
        return ()

    def tokenizer(self) -> PreTrainedTokenizerFast | None:
        """The tokenizer that the network is made for, if it isn't built from scratch."""
        return self.link.hf_tokenizer if self.link else start_tokenizer(getattr(self, "auto_class", None), self)

    def check_kind(self, kind: type[PreTrainedConfig], flag: str) -> None:
        """Refuses a network that the task can't use, asked for by `flag`, before text is read and when it is built."""

    def setup(self, stage: str) -> None:
        """Meets the data, readies the network and what makes runs exact."""
        self.configure_model()
        assert self.network is not None
        if (data := self.trainer.datamodule) is not None:  # type: ignore[attr-defined]
            self.link = meet_data(self.network, self.auto_class, self._link, data.link, self.auxiliary_networks())
            if not isolates(self.network.config):
                data.lay_out_in_rows(f"{self.network.config.model_type} can't isolate packed documents")
        if stage == "fit" and self._has_data():
            check_trainer(self.trainer)
            self.total_steps = self.trainer.datamodule.total_steps()  # type: ignore[attr-defined]
            compile_all([self.network, *self.auxiliary_networks().values()] if self.compiled else [], data)

    def configure_model(self) -> None:
        """Builds the network, once; without data and without a checkpoint's link there is nothing to build from yet."""
        if self.network is not None or (self.link is None and not self._has_data()):
            return
        self.link = self.link or self.trainer.datamodule.link  # type: ignore[attr-defined]
        self.network = start_network(self.auto_class, self, self._link, not evaluates(self._trainer))
        self.link = self._link.with_network(self.auto_class, self.network.config)

    def _has_data(self) -> bool:
        if self._trainer is not None and self.trainer.datamodule is None:  # type: ignore[attr-defined]
            raise UserError(f"{type(self).__name__} needs its data: fit(task, {self.data_class.__name__}(...))")
        return self._trainer is not None

    @property
    def _link(self) -> Link:
        assert self.link is not None
        return self.link

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The network's arguments: ids, the mask that its architecture understands, positions."""
        assert self.network is not None
        return network_inputs(self.network, batch)

    def logits_at_targets(self, batch: Batch) -> Tensor:
        """(N, vocabulary): the logits of the rows that the loss reads, and of no other."""
        assert self.network is not None
        with only_rows(self.network, batch["target_index"]):
            logits: Tensor = self.network(**self.inputs(batch)).logits
        return logits.flatten(0, 1)

    def auxiliary_networks(self) -> dict[str, PreTrainedModel]:
        """Networks that only training needs, by name: `export --auxiliary` writes them to folders of these names."""
        return {}

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Lightning's weight averaging, if asked for."""
        fits = self._trainer is not None and self.trainer.state.fn == "fit"
        return [EMAWeightAveraging(decay=self.ema, use_buffers=False)] if self.ema and fits else []

    def configure_optimizers(self) -> Any:
        """The optimizer, and a schedule that moves by optimizer steps."""
        optimizer = self.build_optimizer()
        return [optimizer], [{"scheduler": build_schedule(optimizer, self), "interval": "step"}]

    def build_optimizer(self) -> Optimizer:
        """The optimizer of all parameters."""
        return build_optimizer(self, self)

    @property
    def peak_rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or RATES[self.optimizer][bool(self.backbone)]

    def on_fit_start(self) -> None:
        """Takes back what a killed run has logged after the step that is gone on from, and hides idle hooks."""
        truncate_records(self.trainer.loggers, self._resumed_at)
        skip_idle_hooks(self.trainer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout by step, micro-batch and rank: it doesn't depend on what ran before."""
        seed_dropout(self.seed, self.global_step, micro_batch(self.trainer, batch_idx), self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's share of the step's loss."""
        terms = self.terms(batch)
        self.running_sums.add(terms)
        self._step_tokens = batch["step_counts"]["tokens"]
        return step_loss(terms, batch["step_counts"]) * averaged_batches(self.trainer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Measures the gradient before it is clipped, when it will be logged."""
        if logs_at(self.trainer, self.global_step + 1):
            self._gradient_norm = get_total_norm([p.grad for p in self.parameters() if p.grad is not None])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimizer; then, every `log_every_n_steps`, the metrics of the steps since."""
        super().optimizer_step(*args, **kwargs)
        self.tokens_seen += self._step_tokens
        trim_freed_memory(step := self.global_step + 1)
        if logs_at(self.trainer, step):
            rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            record_steps(self, step, rate, self._gradient_norm)

    def on_validation_epoch_start(self) -> None:
        """Starts the sums anew."""
        self.evaluation.clear()
        sync_buffers(self.trainer, on=False)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds the batch's terms."""
        self.evaluation.add(*self.evaluate(batch))
        trim_freed_memory(batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics over all batches and processes."""
        record_evaluation(self, "val")

    on_test_epoch_start, test_step = on_validation_epoch_start, validation_step

    def on_test_epoch_end(self) -> None:
        """Logs the metrics over all batches and processes."""
        record_evaluation(self, "test")

    def predict_step(self, window: Window, batch_idx: int) -> list[dict[str, Any]]:
        """The predictions for a window of texts, in their order."""
        trim_freed_memory(batch_idx if len(window.texts) == 1 else 0)
        return window.in_order(map(self.predictions, map(self.trainer.strategy.batch_to_device, window)))

    def means(self, sums: RunningSums, prefix: str, records: Sequence[Record] = ()) -> dict[str, float]:
        """The metrics of some batches by name, with those of their examples; none of no batch."""
        scores = {f"{prefix}/{name}": value for name, value in self.score(records).items()} if records else {}
        return self.finish_metrics(sums.means(prefix) | scores, prefix) if sums.sums else {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what loading needs besides the weights."""
        checkpoint[KEY] = state_of(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from a checkpoint, or is built from it."""
        take_state(self, record_of(checkpoint))
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self._resumed_at = checkpoint["global_step"]


declare_arguments(Task)
