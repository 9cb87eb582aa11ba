from dataclasses import replace

import levers
import measuring
import peers
import pytest
import suites
import torch
from agreement import built
from clock import Job
from ptm_lightning.tasks import MaskedLM

from ptm_lightning.levers import LEVERS, is_on
from ptm_lightning.models import rows
from ptm_lightning.optim import adamw


def off(name: str, job: Job) -> dict[str, float]:
    return levers.work(replace(job, what=name))


def test_without_buckets_rows_are_padded(job: Job) -> None:
    assert off(levers.ALL_ON, job)["padding"] < 0.05 < 0.2 < off("length buckets", job)["padding"]


def test_logits_everywhere_are_the_same_at_the_targets(job: Job) -> None:
    data, task = peers.our_data(job), MaskedLM(backbone=job.folder)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    network = built(task, data).eval()
    widths: list[int] = []
    network.get_output_embeddings().register_forward_hook(
        lambda module, given, found: widths.append(found[..., 0].numel())
    )
    few = task.logits_at_targets(batch)
    with levers.LEVERS["logits at targets"]():
        torch.testing.assert_close(task.logits_at_targets(batch), few)
    assert widths == [len(batch["targets"]), batch["input_ids"].numel()]
    assert rows.parameters_of_rows(network) > 0
    with levers.LEVERS["last layer at targets"]():
        assert rows.parameters_of_rows(network) == 0
        torch.testing.assert_close(task.logits_at_targets(batch), few)


def test_adamw_isn_t_fused() -> None:
    network = torch.nn.Linear(2, 2)
    with levers.LEVERS["fused AdamW"]():
        assert not adamw(network, 1e-3, 0.01, (0.9, 0.98), 1e-6).defaults["fused"]
    assert adamw(network, 1e-3, 0.01, (0.9, 0.98), 1e-6).defaults["fused"]


@pytest.mark.parametrize("name", LEVERS)
def test_what_fit_can_do_without(name: str, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(peers, "prepare_cpu", lambda: seen.append({each for each in LEVERS if not is_on(each)}))
    assert off(name, job)["tokens_per_second"] > 0
    assert seen == [{name}]
    assert all(map(is_on, LEVERS))


def test_the_table_has_a_line_for_each(
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    speeds = dict.fromkeys(levers.LEVERS, 5.0) | {levers.ALL_ON: 10.0, levers.PEER: 2.0}
    monkeypatch.setattr(measuring, "work", lambda file, job: {"tokens_per_second": speeds[job.what]})
    suites.levers(job, ["fp32"], pairs=1)
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[-4 if "goal" not in line else -6] for line in lines] == ["2.00"] * 8 + ["5.00"]
