"""The turn from learning to memorising: found where it is, and nowhere else."""

import pytest

from diffaug.training.overfitting import Watch, find_onset

WATCH = Watch(loss="held_out", limits={"copies": 0.25}, patience=3)


def history(losses, copies=None):
    copies = copies or [0.0] * len(losses)
    return [{"held_out": loss, "copies": share} for loss, share in zip(losses, copies, strict=True)]


def test_a_falling_loss_never_stops():
    for length in range(1, 30):
        onset = find_onset(history([1 / n for n in range(1, length + 1)]), WATCH)
        assert (onset.best, onset.stop, onset.why) == (length - 1, False, "")


def test_a_loss_that_rises_stops_after_the_patience_and_its_minimum_is_kept():
    losses = [1.0, 0.8, 0.7, 0.75, 0.8, 0.85, 0.9]
    stops = [find_onset(history(losses[: n + 1]), WATCH).stop for n in range(len(losses))]
    assert stops == [False] * 5 + [True] * 2
    assert find_onset(history(losses), WATCH).best == 2
    assert find_onset(history(losses), WATCH).why == "held_out"


def test_a_loss_that_stays_level_goes_on():
    assert not find_onset(history([1.0, 0.7, *[0.703] * 10]), WATCH).stop


def test_copies_stop_a_fit_whose_loss_still_falls():
    losses = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    onset = find_onset(history(losses, [0, 0, 0, 0.5, 0.6, 0.9]), WATCH)
    assert (onset.best, onset.stop, onset.why) == (2, True, "copies")


def test_one_bad_look_at_copies_is_forgiven():
    losses = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    onset = find_onset(history(losses, [0, 0.5, 0, 0, 0.0, 0]), WATCH)
    assert (onset.best, onset.stop) == (5, False)


def test_if_everything_is_a_copy_the_first_weights_are_kept():
    onset = find_onset(history([1.0, 0.9, 0.8, 0.7], [1, 1, 1, 1]), WATCH)
    assert (onset.best, onset.stop, onset.why) == (0, True, "copies")


def test_a_figure_that_was_not_measured_limits_nothing():
    onset = find_onset([{"held_out": 1.0}, {"held_out": 0.5}], WATCH)
    assert (onset.best, onset.stop) == (1, False)


def test_a_missing_loss_is_an_error_not_a_guess():
    with pytest.raises(KeyError):
        find_onset([{"copies": 0.0}], WATCH)
