"""The U-Net: any size, no cell left out, and as large as MONAI's."""

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from diffaug.generator.unet import UNet


def unet(**changes):
    torch.manual_seed(0)
    settings = {"in_channels": 5, "out_channels": 2, "channels": [8, 16, 16], "blocks": 1, "attention": True}
    made = UNet(**{**settings, **changes}).eval()
    for parameter in made.parameters():  # MONAI's blocks begin with zeros, which hide what would be wrong
        torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 13, 9), (5, 6, 7), (3, 4, 3), (1, 2, 1)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_output_is_as_large_as_the_input_whatever_that_is(size, blocks):
    assert unet(blocks=blocks)(torch.randn(2, 5, *size), torch.tensor([1.0, 500.0])).shape == (2, 2, *size)


def test_every_cell_reaches_every_other_through_the_deepest_level():
    x = torch.randn(1, 5, 9, 6, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(unet()(x, torch.ones(1))[0, 0, 0, 0, 0], x)
    assert (gradient.abs().sum(1) > 0).all()


def test_noise_level_is_told_apart():
    x = torch.randn(1, 5, 6, 6, 6).expand(3, -1, -1, -1, -1)
    a, b, c = unet()(x, torch.tensor([-300.0, -299.0, 900.0]))
    assert (a - b).abs().max() > 1e-5
    assert (a - c).abs().max() > (a - b).abs().max()


def test_it_has_about_the_parameters_of_monais_unet():
    ours = sum(p.numel() for p in unet(channels=[32, 64, 128]).parameters())
    monai = DiffusionModelUNet(
        spatial_dims=3,
        in_channels=5,
        out_channels=2,
        channels=(32, 64, 128),
        num_res_blocks=1,
        attention_levels=(False, False, True),
        num_head_channels=32,
        norm_num_groups=8,
    )
    assert ours == pytest.approx(sum(p.numel() for p in monai.parameters()), rel=0.1)
