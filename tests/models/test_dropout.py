"""Dropout by 16 bits an element."""

import pytest
import torch
from torch import nn

from ptm_lightning.models.dropout import Dropout, draw_kept, dropped_share, use_fast_dropout

SHAPE = torch.Size((300, 401))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.25, 0.5, 0.9])
def test_so_many_are_dropped(share: float):
    torch.manual_seed(0)
    dropped = 1 - draw_kept(SHAPE, share).double()
    deviation = (share * (1 - share) / SHAPE.numel()) ** 0.5
    assert dropped.mean().item() == pytest.approx(share, abs=4 * deviation)
    by_place_in_the_number = dropped.flatten()[: SHAPE.numel() // 4 * 4].view(-1, 4).mean(0)
    torch.testing.assert_close(by_place_in_the_number, torch.full((4,), share).double(), rtol=0, atol=8 * deviation)


def test_neighbours_are_independent():
    torch.manual_seed(0)
    kept = draw_kept(SHAPE, 0.5).double().flatten()
    for distance in (1, 2, 3, 4, 401):
        assert abs(torch.corrcoef(torch.stack([kept[distance:], kept[:-distance]]))[0, 1]) < 0.012


def test_the_share_is_a_multiple_of_a_65536th():
    assert dropped_share(0.1) == 6554 / 65536
    assert dropped_share(0.5) == 0.5
    assert dropped_share(1e-7) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_left_is_scaled_in_output_and_gradient(dtype: torch.dtype):
    torch.manual_seed(1)
    values = torch.randn(SHAPE).to(dtype).requires_grad_()
    output = Dropout(0.1)(values)
    output.backward(torch.ones_like(output))
    torch.manual_seed(1)
    torch.randn(SHAPE)
    kept = draw_kept(SHAPE, 0.1)
    scale = 1 / (1 - 6554 / 65536)
    assert output.dtype == values.grad.dtype == dtype
    torch.testing.assert_close(output, (values * kept * scale).to(dtype))
    torch.testing.assert_close(values.grad, (kept * scale).to(dtype))


def test_it_is_a_function_of_torchs_generator():
    dropout, values = Dropout(0.3), torch.ones(SHAPE)
    torch.manual_seed(5)
    first, second = dropout(values), dropout(values)
    torch.manual_seed(5)
    assert torch.equal(dropout(values), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_by_no_share():
    values = torch.randn(7, 3)
    assert torch.equal(Dropout(0.0)(values), values)


def test_all_is_dropped_by_the_whole_share():
    assert not Dropout(1.0)(torch.randn(7, 3)).any()


def test_evaluation_drops_nothing():
    values = torch.randn(7, 3)
    assert Dropout(0.5).eval()(values) is values


def test_a_networks_own_are_replaced_and_their_kin_are_not():
    network = nn.Sequential(nn.Dropout(0.2), nn.ModuleList([nn.Dropout(0.3), nn.Dropout1d(0.4)])).eval()
    use_fast_dropout(network)
    assert [type(module) for module in network.modules() if hasattr(module, "p")] == [Dropout, Dropout, nn.Dropout1d]
    assert [module.p for module in network.modules() if hasattr(module, "p")] == [0.2, 0.3, 0.4]
    assert not any(module.training for module in network.modules())
