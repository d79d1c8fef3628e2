from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vlae_codec.models.config import VLAEConfig
from vlae_codec.models.decoder import DepthwiseBlock
from vlae_codec.models.depthwise import RectifiedDepthwise


def layer_of_torch(p: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    kernel = F.pad(weights, (0, 2)).view(-1, 1, 3, 5)
    return F.relu(F.conv2d(F.pad(F.relu(p), (2, 2, 2, 0)), kernel, bias, groups=len(kernel)))


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 12), (16, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torch(size: tuple[int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(size[0])
    p = torch.randn(3, 48, *size).to(torch.bfloat16).contiguous(memory_format=layout)
    leaves = [p, 0.3 * torch.randn(48, 13), 0.3 * torch.randn(48)]
    gradient = torch.randn(3, 48, *size).to(torch.bfloat16)
    mine = [leaf.clone().requires_grad_() for leaf in leaves]
    out = RectifiedDepthwise.apply(*mine)
    out.backward(gradient)
    theirs = [leaf.float().requires_grad_() for leaf in leaves]
    expected = layer_of_torch(*theirs)
    expected.backward(gradient.float())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=1e-6)
    for one, other in zip(mine, theirs, strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("channels", [4, 8, 12])
def test_blocks_of_any_width_are_trained_in_bfloat16(channels: int) -> None:
    torch.manual_seed(0)
    block = DepthwiseBlock(VLAEConfig(channels=channels, blocks=1, z_channels=0, depthwise=True))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    h = torch.randn(2, channels, 6, 7)
    gradients = []
    for enabled in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            block(h.to(torch.bfloat16) if enabled else h).float().square().sum().backward()
        gradients.append([p.grad for p in block.parameters()])
    for exact, rounded in zip(*gradients, strict=True):
        assert exact is not None
        assert rounded is not None
        assert (exact - rounded).norm() < 0.05 * exact.norm()
