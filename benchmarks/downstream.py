"""Fine-tuning, predicting and answering beside the peers: `python downstream.py '{"what": "ours", ...}'`.

A BERT of the job's size, with weights drawn once, learns to classify, by us and by transformers.Trainer: with the
padding of its examples (all rows to the longest that is allowed), and with its best flags (rows of similar length
together, padded in each batch, the fused optimizer). Then the same classifier labels texts, by us and by transformers'
pipeline, and a small summarizer that was trained for a while answers as it does in evaluation, or in batches as they
come.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agreement import differences
from clock import Clock, Job
from lightning.pytorch import Trainer
from peers import ROWS, counted, run_trainer, save, train_ours
from ptm_lightning.tasks import (
    SequenceClassification,
    SequenceClassificationData,
    Summarization,
    SummarizationData,
)

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.seq2seq import prompts
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.models.kernels import prepare_cpu
from ptm_lightning.task import Task

PREDICTED = 200
"""Texts that are labelled, or answered, for each step of the job."""
ANSWER_TOKENS = 32
SUMMARIZER = {"d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "init_std": 0.06}
BEST_FLAGS: dict[str, Any] = {"padding": "longest", "train_sampling_strategy": "group_by_length"}
"""Of the peer of fine-tuning; the fused optimizer is its default."""
LEARNED_STEPS = 20
"""Of the classifier, so that its answers differ."""
ANSWERING_STEPS = 30
"""Of the summarizer, for each step of the job, so that its answers end."""


def prepare(job: Job) -> dict[str, float]:
    """Writes what ours and the peers start from: a classifier that was trained for a while, and its rows."""
    folder, data = Path(job.folder), our_rows(job, vocab_size=job.vocab_size)
    task = SequenceClassification(size=job.size)
    train_ours(replace(job, steps=LEARNED_STEPS), task, data)
    assert task.network is not None
    save(task.network, data, classifier_folder(job))
    names = data.link.labels
    for file, store in (("rows", data.corpus.train), ("held_out", data.corpus.validation)):
        rows = [(row["text"], names.index(row["label"])) for row in store.rows(range(len(store)))]
        (folder / f"{file}.json").write_text(json.dumps(rows))
    return {"rows": len(data.corpus.train), "labels": len(names), "vocabulary": data.link.vocabulary}


def prepare_answers(job: Job) -> dict[str, float]:
    """Trains the summarizer that answers, until its answers end."""
    data = SummarizationData(
        train=job.text,
        vocab_size=min(job.vocab_size, 8192),
        max_length=256,
        max_target_length=ANSWER_TOKENS,
        cache_dir=job.cache,
    )
    task = Summarization(architecture="bart", overrides=SUMMARIZER)
    train_ours(replace(job, steps=ANSWERING_STEPS * job.steps), task, data)
    assert task.network is not None
    save(task.network, data, _summarizer(job))
    store = data.corpus.validation
    documents = [row["document"] for row in store.rows(range(len(store)))]
    (Path(job.folder) / "documents.json").write_text(json.dumps(documents))
    return {"documents": len(documents)}


def ours(job: Job) -> dict[str, float]:
    """Our fine-tuning, from the classifier that all start from."""
    task = SequenceClassification(backbone=str(classifier_folder(job)))
    clock = train_ours(job, task, our_rows(job))
    assert task.network is not None
    return clock.result(task.network)


def our_rows(job: Job, **more: Any) -> SequenceClassificationData:
    """Our data module for the classifier's rows."""
    return SequenceClassificationData(
        **{"train": job.text, "max_length": job.max_length, "batch_size": ROWS, "cache_dir": job.cache} | more
    )


def trainer(job: Job, padding: str, **arguments: Any) -> dict[str, float]:
    """transformers.Trainer on the same rows; see `train_peer`."""
    return train_peer(job, network_of(job).train(), padding, **arguments)


def train_peer(job: Job, network: Any, padding: str, **arguments: Any) -> dict[str, float]:
    """Trains a network by transformers.Trainer.

    Args:
        job: What to do.
        network: The classifier.
        padding: "max_length" or "longest", as the tokenizers' `pad` takes it.
        **arguments: Of TrainingArguments.
    """
    import datasets  # type: ignore[import-untyped]
    from transformers import AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(classifier_folder(job))
    texts, labels = zip(*json.loads((Path(job.folder) / "rows.json").read_text()), strict=True)
    ids = tokenizer(list(texts), truncation=True, max_length=job.max_length)["input_ids"]
    dataset = datasets.Dataset.from_dict({"input_ids": ids, "labels": labels})
    collator = DataCollatorWithPadding(tokenizer, padding=padding, max_length=job.max_length)
    clock = Clock()
    return run_trainer(job, network, dataset, partial(counted, collator, clock), clock, **arguments)


def agree(job: Job) -> dict[str, float]:
    """`differences` of ours and of transformers' own loss."""
    data = our_rows(job, tokenizer=str(classifier_folder(job)))
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": (batch["document_ids"] > 0).long(),
        "labels": batch["labels"],
    }
    task = SequenceClassification(backbone=str(classifier_folder(job)))
    return differences(job, task, data, batch, network_of(job).train(), inputs)


def predict(job: Job) -> dict[str, float]:
    """Our labels of some texts, from files to answers."""
    prepare_cpu()
    data = SequenceClassificationData(text=_texts(job), max_length=job.max_length)
    task = SequenceClassification(backbone=str(classifier_folder(job)))
    return _measured(job, "predict", partial(_predicted, task, data))


def pipeline(job: Job) -> dict[str, float]:
    """The same by transformers' pipeline."""
    import transformers

    texts = _texts(job)

    def labels() -> list[str]:
        make: Any = transformers.pipeline
        classify = make("text-classification", model=str(classifier_folder(job)), device="cpu", batch_size=ROWS)
        return [found["label"] for found in classify(texts, truncation=True, max_length=job.max_length)]

    return _measured(job, "pipeline", labels)


class Evaluated(Summarization):  # type: ignore[misc]  # mypy knows the tasks by another name
    """Answers as an evaluation asks for them: those to all documents at once, without scores."""

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """The answers."""
        return [{"prediction": said} for said in self.answers(prompts(batch))]


def answer(job: Job) -> dict[str, float]:
    """Our answers to some documents."""
    prepare_cpu()
    documents = _documents(job)
    data = SummarizationData(text=documents, max_length=256, batch_size=len(documents))
    task = Evaluated(backbone=str(_summarizer(job)), max_new_tokens=ANSWER_TOKENS)
    return _measured(job, "answer", partial(_predicted, task, data))


def generate(job: Job) -> dict[str, float]:
    """The same by transformers' generate on batches in the order of the data."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder, documents = _summarizer(job), _documents(job)

    def summaries() -> list[str]:
        tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        options: Any = {"padding": True, "truncation": True, "max_length": 256, "return_tensors": "pt"}
        answers: list[str] = []
        for begin in range(0, len(documents), ROWS):
            inputs = tokenizer(documents[begin : begin + ROWS], **options)
            ids = network.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"])
            answers += [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return answers

    return _measured(job, "generate", summaries)


def _predicted(task: Task, data: TaskData) -> list[str]:
    with TemporaryDirectory() as scratch:
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=scratch)
        found: Any = trainer.predict(task, data)
    return [row["prediction"] for rows in found for row in rows]


def _measured(job: Job, what: str, answers_of: Callable[[], list[str]]) -> dict[str, float]:
    """The speed of answering; the answers are written down for `same_answers`."""
    begin = time.perf_counter()
    answers = answers_of()
    seconds = time.perf_counter() - begin
    _answers(Path(job.folder), what).write_text(json.dumps(answers))
    return {"answers_per_second": len(answers) / seconds}


def _answers(folder: Path, what: str) -> Path:
    return folder / f"{what}.json"


def classifier_folder(job: Job) -> Path:
    """What the classifier lies in that all start from."""
    return Path(job.folder) / "classifier"


def _summarizer(job: Job) -> Path:
    return Path(job.folder) / "summarizer"


def network_of(job: Job) -> Any:
    """The classifier, by transformers."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(classifier_folder(job))


def _texts(job: Job) -> list[str]:
    rows = json.loads((Path(job.folder) / "rows.json").read_text())
    return [text for text, _ in rows[: PREDICTED * job.steps]]


def _documents(job: Job) -> list[str]:
    documents: list[str] = json.loads((Path(job.folder) / "documents.json").read_text())
    return documents[: PREDICTED * job.steps]


def same_answers(folder: Path, one: str, other: str) -> float:
    """The share of answers that two ways of answering have in common, of a benchmark's folder."""
    pairs = zip(*(json.loads(_answers(folder, what).read_text()) for what in (one, other)), strict=True)
    same: list[bool] = [mine == theirs for mine, theirs in pairs]
    return sum(same) / len(same)


WORK: dict[str, Callable[[Job], dict[str, float]]] = {
    "prepare": prepare,
    "prepare_answers": prepare_answers,
    "agree": agree,
    "ours": ours,
    "trainer": partial(trainer, padding="max_length"),
    "grouped": partial(trainer, **BEST_FLAGS),
    "predict": predict,
    "pipeline": pipeline,
    "answer": answer,
    "generate": generate,
}

if __name__ == "__main__":
    given = Job(**json.loads(sys.argv[1]))
    print(json.dumps(WORK[given.what](given)))
