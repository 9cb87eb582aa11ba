"""What the last screen of a run says."""

import pytest

from ptm_lightning.summary import gains


@pytest.mark.parametrize("name", ["bits_per_byte", "mlm_bits_per_byte"])
def test_gains_are_shown_under_whatever_name_a_part_has_them(name: str):
    metrics = {f"val/law/{name}": {0: 2.0, 9: 1.5}, f"start/law/{name}": {0: 1.8}, "val/law/loss": {0: 3.0}}
    assert [line.split() for line in gains(metrics)][1:] == [["law", "1.8000", "1.5000", "0.3000"]]


def test_a_task_without_parts_has_no_table():
    assert gains({"val/mlm_bits_per_byte": {0: 2.0}, "val/bits_per_byte": {0: 2.0}}) == []
