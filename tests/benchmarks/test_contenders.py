import pytest
from torch import nn

from benchmarks.assembled import assemble
from benchmarks.contenders import CELLS, CHANNELS, PARAMETERS, SHAPE, Monai, count_parameters, match_widths, resize_plan
from benchmarks.equal_time import flatten
from diffaug.errors import DiffaugError


def squares(widths):
    return nn.ModuleList(nn.Linear(wide, wide, bias=False) for wide in widths)


def test_matched_widths_keep_their_proportions():
    # 1:2:4 has 21 w^2 parameters
    assert match_widths(squares, (32, 64, 128), parameters=21 * 16**2) == (16, 32, 64)


def test_widths_off_by_more_than_the_tolerance_are_refused():
    with pytest.raises(DiffaugError, match="found none with 100 parameters"):
        match_widths(squares, (32, 64, 128), parameters=100)


@pytest.mark.slow
def test_all_denoisers_are_of_one_size_and_latent(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", "")  # restored afterwards
    assembled = assemble(tmp_path, SHAPE, resize_plan, cases=10)
    assert sorted(assembled.fits) == ["autoencoder", "denoiser", "refiner"]
    generator = assembled.generator
    assert (generator.plan.autoencoder["latent_channels"], *generator.plan.latent_shape) == (CHANNELS, *CELLS)
    assert count_parameters(generator.denoiser) == pytest.approx(PARAMETERS, rel=0.05)
    assert Monai().denoiser_parameters == pytest.approx(PARAMETERS, rel=0.05)
    volumes, *_ = generator.synthesise(0, [0], sampler="dpmpp", steps=2)
    assert volumes.shape == (1, 1, *SHAPE)


def test_figures_are_listed_by_their_path():
    nested = {"distances": {"kid": {"value": 0.5, "verdict": "near"}}, "none": None, "list": [1]}
    assert flatten(nested) == {"distances kid value": 0.5, "distances kid verdict": "near"}
