"""Summarization: what is particular to it beside what `test_text_generation.py` shows on it."""

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from ptm_lightning.tasks import Summarization, SummarizationData

from ptm_lightning.__main__ import main
from ptm_lightning.metrics.rouge import lead, rouge_scores
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import document


@pytest.mark.parametrize("chinese", [False, True])
def test_scores_stand_beside_those_of_the_first_sentences(tmp_path: Path, chinese: bool):
    source = tmp_path / "rows.jsonl"
    marks = "第{}天下雨了。我们在家看书！他们{}点回来。再见。"  # noqa: RUF001
    texts = [marks.format(i, i * 7 % 11) if chinese else document(4 * i + 3) for i in range(40)]
    rows = [{"document": text, "summary": lead(text, 1)} for text in texts]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task: Any = Summarization(overrides=tiny("bart"), max_new_tokens=9)
    data = SummarizationData(train=[str(source)], batch_size=8, vocab_size=300, test_share=0.3)
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, data)
    (metrics,) = trainer.test(task, data, verbose=False)
    kept = list(data.corpus.test.rows(range(len(data.corpus.test))))
    documents, summaries = ([row[name] for row in kept] for name in ("document", "summary"))
    for name, value in rouge_scores(list(map(lead, documents)), summaries).items():
        assert metrics[f"test/{name}_lead3"] == pytest.approx(value, abs=1e-6)
        assert value > 0.4
    assert {"test/rouge1", "test/rouge2", "test/rougeL", "test/rougeLsum", "test/perplexity"} <= set(metrics)
    assert task.best_by() == ("val/rougeL", "max")


def test_inspect_says_how_long_each_side_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Short sources and long targets: together they would be longer than a source may be."""
    numbers = [" ".join(str(n * 7919 % 10007) for n in range(i, i + 8)) for i in range(40)]
    rows = [{"document": text[:20], "summary": text} for text in numbers]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = ["--data.max_length=32", "--data.max_target_length=16", "--data.test_share=0", "--data.vocab_size=300"]
    network = f"--model.overrides={json.dumps(tiny('bart'))}"
    assert main(["inspect", "--model=Summarization", f"--data.train={source}", network, *sizes]) == 0
    told = {line[:40].strip(): line[40:] for line in capsys.readouterr().out.splitlines()}
    assert told["sources longer than max_length"] == "0.00%"
    assert float(told["targets longer than max_target_length"].rstrip("%")) > 50
    assert {"tokens of a source, median, longest", "tokens of a target, median, longest"} <= told.keys()
    assert "rows longer than max_length" not in told
