"""Making a copy detector: train the embedding, set the threshold by unseen scans, plant copies and count what is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from scipy.stats import beta

from diffaug.copies.changes import KINDS, apply, draw
from diffaug.copies.detector import BLIND, CopyDetector
from diffaug.copies.embedding import DIMENSIONS
from diffaug.copies.fit_embedding import EmbeddingObjective
from diffaug.engine.loop import Training, train
from diffaug.volumes.windows import centred, cut, scattered

FALSE_ALARMS = 0.05  # share of unseen real scans that may be taken for copies
VIEWS = {"whole": 3, "patch": 8}  # windows of each unseen scan
REACH = 2  # voxels that those of whole scans lie off the middle
PLANTED = 12  # training scans of which copies are planted
STEPS = {"cpu": 500, "cuda": 4000}
SEED = 0

Volume = Callable[[str], np.ndarray]


def fit_detector(
    volume: Volume,
    cases: Sequence[str],
    unseen: Sequence[str],
    *,
    shape: Sequence[int],
    mirror: int,
    field_of_view: str,
    fabric: Fabric,
    folder: Path,
    training: Training | None = None,
) -> CopyDetector:
    """Make the detector of a set of training scans.

    Args:
        volume: Gives a scan `(C, Z, Y, X)` in [-1, 1] of its own extent.
        cases: Ids of the scans that the generator was trained on.
        unseen: Ids of scans that it never saw.
        shape: Voxels (Z, Y, X) of a window.
        mirror: Array axis (0 to 2) that runs left-right.
        field_of_view: `whole`: a window holds the scan; `patch`: it lies anywhere in it.
        fabric: Device and processes.
        folder: Where a stopped training goes on from.
        training: How long and fast; None takes what suits the device.

    Returns:
        The detector.
    """
    steps = STEPS[fabric.device.type]
    training = training or Training(steps=steps, batch_size=fabric.world_size, learning_rate=2e-3, seed=SEED)
    torch.manual_seed(training.seed)
    objective = EmbeddingObjective(volume, cases, shape=shape, mirror=mirror)
    identity = [list(cases), list(shape), mirror, field_of_view]
    train(objective, objective.example, training, fabric=fabric, folder=folder, name="copies", identity=identity)
    empty = torch.zeros(0, DIMENSIONS), torch.zeros(0, dtype=torch.long)
    detector = CopyDetector(objective.embedding, *empty, (), tuple(shape), mirror, field_of_view).to(fabric.device)
    detector = detector.with_cases(volume, cases)
    _calibrate(detector, _score_unseen(detector, volume, unseen), _plant(detector, volume))
    return detector


def _score_unseen(detector: CopyDetector, volume: Volume, unseen: Sequence[str]) -> list[np.ndarray]:
    """Give the similarities of windows of every unseen scan."""
    scores = []
    for number, case in enumerate(unseen):
        scan = volume(case)
        generator = np.random.default_rng((SEED, number))
        whole = detector.field_of_view == "whole"
        windows = [centred(scan.shape[1:], detector.shape)] if whole else []
        while len(windows) < VIEWS[detector.field_of_view]:
            windows.append(scattered(scan.shape[1:], detector.shape, REACH if whole else 0, generator))
        views = torch.from_numpy(np.stack([cut(scan, window, detector.shape) for window in windows]))
        scores.append(np.array([found.similarity for found in detector.judge(views)]))
    return scores


def _plant(detector: CopyDetector, volume: Volume) -> dict[str, np.ndarray]:
    """Plant copies of every kind; give the similarity of each, or -1 where another scan was found than it was made of."""
    generator = np.random.default_rng(SEED)
    planted = {}
    for kind in KINDS:
        scores = []
        for source in generator.permutation(len(detector.cases))[:PLANTED]:
            scan = volume(detector.cases[source])
            window = centred(scan.shape[1:], detector.shape)
            if detector.field_of_view == "patch":
                window = scattered(scan.shape[1:], detector.shape, 0, generator)
            copy = apply(draw(kind, generator), scan, window, detector.shape, detector.mirror)
            (found,) = detector.judge(torch.from_numpy(copy)[None])
            scores.append(found.similarity if found.case == detector.cases[source] else -1.0)
        planted[kind] = np.array(scores)
    return planted


def _calibrate(detector: CopyDetector, unseen: list[np.ndarray], planted: dict[str, np.ndarray]) -> None:
    """Set the threshold so that few unseen scans lie above it; judge each of them by the threshold of the others.

    An unseen scan that is found again as surely as half of the planted copies is no unseen scan: the same person was
    scanned twice, or the scan is there twice. It would hide all copies, so it sets no threshold. Where not even half of the
    planted copies are ascribed to the right scan, the detector is blind and calls nothing a copy.
    """
    percent = 100 * (1 - FALSE_ALARMS)
    copies = np.concatenate(list(planted.values()))
    surely = float(np.median(copies))
    honest = [own for own in unseen if own.max() < surely or surely < 0]
    detector.known = len(unseen) - len(honest)
    if surely < 0:
        detector.threshold = BLIND
    elif honest:
        detector.threshold = float(np.percentile(np.concatenate(honest), percent, method="higher"))
    else:  # then only what copies look like can tell
        detector.threshold = float(np.percentile(copies, 100 * FALSE_ALARMS))
    alarms = 0.0
    for number, own in enumerate(honest):
        others = np.concatenate([scores for i, scores in enumerate(honest) if i != number] or [own])
        alarms += float(np.mean(own > np.percentile(others, percent, method="higher")))
    count = len(honest)  # views of one scan are no independent scans: the interval counts scans
    low = beta.ppf(0.025, alarms, count - alarms + 1) if alarms else 0.0
    high = beta.ppf(0.975, alarms + 1, count - alarms) if alarms < count else 1.0
    detector.false_alarms = (alarms / max(count, 1), float(low), float(high), count)
    detector.planted = {
        kind: (int((scores > detector.threshold).sum()), len(scores)) for kind, scores in planted.items()
    }
