"""The audit's encoder: sees what blurs and roughens, goes on where it was stopped, and survives the disk."""

import numpy as np
import pytest
import torch

from blobs import blob
from diffaug.audit import fit_feature_space as fitting
from diffaug.audit.feature_space import FeatureSpace
from diffaug.audit.fit_feature_space import fit_feature_space
from diffaug.copies.changes import change
from diffaug.training.devices import start_fabric

SHAPE = (20, 24, 22)
CASES = tuple(range(20))


def scan(number: int) -> np.ndarray:
    return (blob(number) / 1100 * 2 - 1)[None].astype(np.float32)


def fitted(folder, steps) -> FeatureSpace:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "FEATURE_STEPS", {"cpu": steps})
        return fit_feature_space(
            lambda case: scan(int(case)),
            [str(n) for n in CASES],
            shape=SHAPE,
            mirror=2,
            fabric=start_fabric("cpu"),
            folder=folder,
        )


def features(encoder, volumes):
    with torch.no_grad():
        return encoder.features(torch.from_numpy(np.stack(volumes))).numpy()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> FeatureSpace:
    torch.set_num_threads(1)
    return fitted(tmp_path_factory.mktemp("encoder"), 60)


def test_features_tell_blur_and_noise_that_the_vector_is_taught_to_overlook(encoder):
    rng = np.random.default_rng(0)
    sharp = features(encoder, [scan(n) for n in CASES])
    spread = sharp.std(0) + 1e-6
    for kind in ("smoothed", "noisy"):
        changed = features(encoder, [change(kind, scan(n), rng, 2) for n in CASES])
        assert np.abs((changed.mean(0) - sharp.mean(0)) / spread).max() > 2


@torch.no_grad()
def test_two_views_of_a_scan_are_more_alike_than_two_scans(encoder):
    rng = np.random.default_rng(1)
    plain, changed = (
        encoder(torch.from_numpy(np.stack(views)))
        for views in ([scan(n) for n in CASES], [change("mirrored", scan(n), rng, 2) for n in CASES])
    )
    alike = plain @ changed.T
    assert alike.diag().mean() > alike.mean() + 0.1


def test_same_seed_same_encoder_and_it_survives_the_disk(tmp_path):
    a, b = (fitted(folder, 4) for folder in (tmp_path / "a", tmp_path / "b") if folder.mkdir() is None)
    a.save(tmp_path / "encoder.safetensors")
    loaded = FeatureSpace.load(tmp_path / "encoder.safetensors")
    volumes = [scan(3), scan(4)]
    assert np.array_equal(features(a, volumes), features(b, volumes))
    assert np.allclose(features(a, volumes), features(loaded, volumes), atol=1e-4), "but for the order of sums"


def test_a_broken_file_is_refused(encoder, tmp_path, refusal):
    file = tmp_path / "encoder.safetensors"
    encoder.save(file)
    file.write_bytes(file.read_bytes()[:1000])
    assert "not a whole encoder" in refusal(FeatureSpace.load, file)
    file.write_text("something else")
    assert "not a whole encoder" in refusal(FeatureSpace.load, file)
