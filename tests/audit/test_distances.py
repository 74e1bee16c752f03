"""Set comparisons: known distributions give known figures, and verdicts follow the intervals."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from diffaug.audit.distances import (
    _scaled_by_others,
    calibrated_coverage,
    clipped_coverage,
    clipped_density,
    kernel_distance,
    set_distances,
)
from diffaug.audit.figures import Compared, Figure, compare_sets, spread_distances

FEATURES = 12


def normal(count, seed, mean=0.0, features=FEATURES):
    return np.random.default_rng(seed).normal(size=(count, features)) + mean


def verdicts(found):
    return {name: compared.verdict for name, compared in found.items()}


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.1, 0.0, 0.2, "at the floor"),
        (0.3, 0.2, 0.9, "at the floor"),  # equal to the worst of the floor
        (0.4, 0.25, 0.6, "near"),
        (0.4, 0.35, 0.6, "off"),
        (-5.0, -6.0, -4.0, "at the floor"),  # better than real halves are to each other
    ],
)
def test_verdict_follows_from_the_intervals(value, low, high, verdict):
    floor = Figure(0.1, -0.05, 0.3, 20)
    assert Compared(Figure(value, low, high, 20), floor, False).verdict == verdict
    mirrored = Compared(Figure(1 - value, 1 - high, 1 - low, 20), Figure(0.9, 0.7, 1.05, 20), True)
    assert mirrored.verdict == verdict
    assert mirrored.text(1).endswith(f"floor 0.9 (0.7 to 1.1): {verdict}")


def test_equal_distributions_are_at_the_floor_whatever_their_sizes():
    sizes = [(40, 40), (40, 120), (120, 40), (24, 24), (60, 30), (80, 80)]
    found = [set_distances(normal(n, 2 * i), normal(m, 2 * i + 1), i) for i, (n, m) in enumerate(sizes)]
    assert [compared.verdict for each in found for compared in each.values()].count("at the floor") >= 23
    for each, (n, m) in zip(found, sizes, strict=True):
        assert all(compared.figure.n == compared.floor.n == min(n, m) // 2 for compared in each.values())


def test_floor_and_figure_of_equal_distributions_agree_with_few_volumes_and_many_features():
    found = [set_distances(normal(60, i, features=128), normal(60, 99 + i, features=128), i) for i in range(6)]
    for name, tolerance in (("KID", 0.02), ("FID", 1.0), ("density", 0.06), ("coverage", 0.06)):
        difference = np.mean([each[name].figure.value - each[name].floor.value for each in found])
        assert abs(difference) < tolerance, name


def test_shifted_set_is_off():
    found = set_distances(normal(80, 0), normal(80, 1, mean=1.0), 0)
    assert verdicts(found) == dict.fromkeys(("KID", "FID", "density", "coverage"), "off")


def test_broken_feature_among_many_is_seen():
    synthetic = normal(80, 1, features=64)
    synthetic[:, 7] += 100
    found = set_distances(normal(80, 0, features=64), synthetic, 0)
    assert set(verdicts(found).values()) == {"off"}


def test_units_of_features_do_not_matter():
    units = np.logspace(-3, 3, FEATURES)
    one = set_distances(normal(40, 0), normal(40, 1), 0)
    other = set_distances(normal(40, 0) * units + 5, normal(40, 1) * units + 5, 0)
    for name in one:
        assert other[name].figure.value == pytest.approx(one[name].figure.value, rel=1e-5, abs=1e-8)


def test_feature_that_never_varies_in_real_volumes_changes_nothing():
    real, synthetic = normal(40, 0), normal(40, 1)
    flat = [np.concatenate([s, np.full((40, 1), 3.0)], 1) for s in (real, synthetic)]
    one, other = set_distances(real, synthetic, 0), set_distances(*flat, 0)
    assert other["FID"].figure.value == pytest.approx(one["FID"].figure.value)
    assert other["coverage"].figure.value == pytest.approx(one["coverage"].figure.value)


@pytest.mark.parametrize("kept", [0.25, 0.5, 0.75])
def test_dropped_modes_lower_coverage_by_their_share_and_leave_density(kept):
    def modes(seed, count):
        which = np.arange(240) % count  # four modes far apart
        return normal(240, seed, features=8) + 30 * np.eye(8)[which]

    found = set_distances(modes(0, 4), modes(1, int(4 * kept)), 0)
    assert found["coverage"].figure.value == pytest.approx(kept, abs=0.06)
    assert found["density"].figure.value > 0.93
    assert found["coverage"].verdict == ("near" if kept == 0.75 else "off")


@pytest.mark.parametrize("good", [0.25, 0.5, 0.75])
def test_noise_lowers_density_and_coverage_to_the_share_of_good_volumes(good):
    synthetic = normal(240, 1)
    synthetic[round(good * 240) :] += 40
    found = set_distances(normal(240, 0), synthetic, 0)
    assert found["density"].figure.value == pytest.approx(good, abs=0.08)
    assert found["coverage"].figure.value == pytest.approx(good, abs=0.08)


def test_outliers_among_real_volumes_do_not_inflate_density():
    real = normal(200, 0, features=4)
    real[:12] = normal(12, 1, features=4) * 20
    noise = normal(200, 2, features=4) * 6
    noise = noise[np.linalg.norm(noise, axis=1) > 8]
    within, across = cdist(real, real), cdist(real, noise)
    radii = np.sort(within, axis=1)[:, 5]
    unclipped = (across <= radii[:, None]).sum(0).mean() / 5
    assert unclipped > 0.5
    assert clipped_density(within, across) < 0.02


def test_one_volume_repeated_covers_only_its_surroundings():
    real = normal(200, 0, features=4)
    across = cdist(real, np.repeat(real.mean(0)[None], 200, 0))
    assert clipped_coverage(cdist(real, real), across) < 0.2


def test_calibration_inverts_what_good_volumes_give():
    rng = np.random.default_rng(0)
    real = [rng.uniform(size=(60, 2)) for _ in range(300)]
    for good in (12, 30, 48):
        raw = [clipped_coverage(cdist(r, r), cdist(r, rng.uniform(size=(good, 2)))) for r in real]
        assert calibrated_coverage(np.array([np.mean(raw)]), 60) == pytest.approx(good / 60, abs=0.02)
    assert calibrated_coverage(np.array([0.0, 1.0]), 60).tolist() == [0, 1]


def test_kernel_distance_of_two_points_is_exact():
    a, b = 0.5, -1.5
    kernels = (np.full((4, 4), (x * y + 1) ** 3) for x, y in ((a, a), (b, b), (a, b)))
    assert kernel_distance(*kernels) == pytest.approx((a * a + 1) ** 3 + (b * b + 1) ** 3 - 2 * (a * b + 1) ** 3)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    real, synthetic = normal(400, 0, features=2), normal(400, 1, features=2)
    for drawn in (real, synthetic):  # of exactly mean 0 and covariance 1, not only on average
        drawn -= drawn.mean(0)
        drawn @= np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T))).T
    synthetic = synthetic * (2.0, 0.5) + (1.0, -0.5)
    found = set_distances(real, synthetic, 0)["FID"].figure
    assert found.value == pytest.approx(1.25 + 1.0 + 0.25, rel=0.03)
    assert found.low < 2.5 < found.high


def test_interval_holds_the_value_of_large_sets():
    real, synthetic = normal(4000, 0, features=4), normal(4000, 1, 0.5, features=4)
    truth = kernel_distance(
        *((x @ y.T / 4 + 1) ** 3 for x, y in ((real, real), (synthetic, synthetic), (real, synthetic)))
    )
    found = [set_distances(normal(60, 9 + i, features=4), normal(60, 99 + i, 0.5, features=4), i) for i in range(8)]
    assert sum(each["KID"].figure.low <= truth <= each["KID"].figure.high for each in found) >= 7


def test_real_volumes_are_scaled_by_others_by_the_others():
    real, synthetic = normal(9, 0, 2.0) * 3, normal(5, 1)
    found = _scaled_by_others(real, synthetic)
    others = np.delete(real, 4, axis=0)
    assert found[4] == pytest.approx((real[4] - others.mean(0)) / others.std(0))
    assert found[9:] == pytest.approx((synthetic - real.mean(0)) / real.std(0))


def test_feature_that_is_silent_in_all_volumes_but_one_does_not_rule():
    real, synthetic = (np.concatenate([normal(40, seed), np.zeros((40, 1))], 1) for seed in (0, 1))
    real[3, -1] = synthetic[5, -1] = 1e-3
    found = set_distances(real, synthetic, 0)
    assert set(verdicts(found).values()) == {"at the floor"}
    assert found["FID"].floor.high < 15


def test_spread_distance_is_scipys_wasserstein_distance():
    features = normal(30, 0, features=3)
    a, b = np.arange(12), np.arange(15, 27)
    expected = [wasserstein_distance(features[a, i], features[b, i]) for i in range(3)]
    assert spread_distances(features, a, b) == pytest.approx(expected)


def test_halves_never_share_a_volume_and_are_of_one_size():
    def measure(a, b):
        assert len(a) == len(b) == 3
        assert not set(a) & set(b)
        assert a.max() < 9 <= b.min() or b.max() < 9
        return {"first": float(b.min() >= 9)}

    found = compare_sets(measure, 9, 7, seed=0)["first"]
    assert (found.figure.value, found.floor.value) == (1, 0)


def test_no_patient_has_scans_in_both_halves():
    owners = [f"p{i // 3}" for i in range(12)] + ["lone", "other"]

    def measure(a, b):
        assert len(a) == len(b) >= 4
        if b.max() < len(owners):
            assert not {owners[i] for i in a} & {owners[i] for i in b}
        return {"floor": float(b.max() < len(owners))}

    found = compare_sets(measure, len(owners), 12, seed=0, owners=owners)["floor"]
    assert (found.figure.value, found.floor.value) == (0, 1)
    assert found.figure.n >= 4


@pytest.mark.parametrize(("most", "others", "made"), [(9, 51, 10), (12, 88, 12), (25, 75, 20), (5, 3, 8)])
def test_a_patient_of_very_many_scans_leaves_halves_that_can_be_measured(most, others, made):
    owners = ["p"] * most + [f"q{i}" for i in range(others)]

    def measure(a, b):
        assert len(a) == len(b) >= 2
        assert b.max() >= len(owners) or not {owners[i] for i in a} & {owners[i] for i in b}
        return {"floor": float(len(a))}

    found = compare_sets(measure, len(owners), made, seed=0, owners=owners)["floor"]
    assert 2 <= found.figure.n <= found.figure.low <= made // 2, "the smallest half is counted"
    assert compare_sets(measure, 9, 8, seed=0, owners=["p"] * 8 + ["q"]) == {}, "one scan is no half"


def test_what_differs_is_seen_though_few_volumes_were_made_and_patients_have_many_scans():
    rng = np.random.default_rng(0)
    real = np.repeat(rng.normal(size=(10, 16)), 8, 0) + rng.normal(0, 0.3, (80, 16))
    made = rng.normal(size=(20, 16)) + 1.5
    owners = [f"p{i // 8}" for i in range(80)]
    assert set_distances(real, made, 0, owners)["KID"].verdict == "off"


def test_sets_drawn_alike_are_at_the_floor_though_each_patient_has_many_scans():
    def scans(seed):
        rng = np.random.default_rng(seed)
        return np.repeat(rng.normal(size=(10, 16)), 8, 0) + rng.normal(0, 0.3, (80, 16))

    owners = [f"p{i // 8}" for i in range(80)]
    blind, knowing = (
        [set_distances(scans(2 * i), scans(2 * i + 1), i, known)["KID"].verdict for i in range(6)]
        for known in (None, owners)
    )
    assert blind.count("off") >= 4, "here is what knowing patients is for"
    assert knowing.count("off") <= 1


def test_same_seed_same_figures_and_too_few_volumes_none():
    assert set_distances(normal(9, 0), normal(7, 1), 3) == set_distances(normal(9, 0), normal(7, 1), 3)
    assert set_distances(normal(3, 0), normal(30, 1), 0) == {}


@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_four_volumes_give_figures():
    found = set_distances(normal(4, 0, features=50), normal(5, 1, features=50), 0)
    assert all(np.isfinite([c.figure.value, c.figure.low, c.figure.high]).all() for c in found.values())
