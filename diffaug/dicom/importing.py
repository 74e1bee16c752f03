"""Imports DICOM studies: looks at every instance, tells what is taken and passed over, and writes the taken volumes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm import tqdm

from diffaug.dicom.decoding import decoded
from diffaug.dicom.headers import Header, read_header
from diffaug.dicom.pseudonyms import Pseudonyms
from diffaug.dicom.requests import EVERYWHERE, ImportRequest
from diffaug.dicom.rules import Rules
from diffaug.dicom.sources import list_sources, opened, printable
from diffaug.dicom.stacks import Stack, stacks_of
from diffaug.errors import DiffaugError, times
from diffaug.files import LOCK, atomic_path, locked, write_json
from diffaug.nnunet.dataset_json import channels_and_ending, read_dataset_json
from diffaug.scans.readings import is_ct
from diffaug.scans.scan import Scan, to_images, write_image

ENDING = ".nii.gz"
NAMELESS = "(no description)"
INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Found:
    """What studies hold.

    Attributes:
        stacks: Volumes that are taken.
        passed: What is passed over, and why.
        others: Files that are no instances.
    """

    stacks: tuple[Stack, ...]
    passed: tuple[tuple[Header, str], ...]
    others: int

    def summary(self) -> list[str]:
        """Tell what is taken and passed over.

        Returns:
            A line for all that is alike, what is taken first.
        """
        taken = Counter(
            f"{printable(s.header.description) or NAMELESS}, {s.header.modality} {s.plane}, {times(s.size)} voxels of "
            f"{times(s.geometry.spacing)} mm"
            for s in self.stacks
        )
        passed = Counter(
            f"{printable(h.description) or NAMELESS}, {printable(h.modality) or '?'}: {printable(why)}"
            for h, why in self.passed
        )
        both = (("taken", taken), ("passed over", passed))
        lines = [f"{kind:>12} {count:>5} x {text}" for kind, found in both for text, count in found.most_common()]
        return [*lines, *([f"{'':>12} {self.others:>5} x files that are no DICOM instances"] if self.others else [])]

    def listing(self, cases: Sequence[str]) -> pd.DataFrame:
        """Tell of each volume who it is of, for whoever keeps the key.

        Args:
            cases: Case ids of the taken ones.

        Returns:
            A row for each, taken or not.
        """
        both = [(s.header, case, "") for s, case in zip(self.stacks, cases, strict=True)]
        both += [(header, "", why) for header, why in self.passed]
        columns = ["patient", "study", "series", "description", "case", "why"]
        rows = [
            tuple(map(printable, (h.patient, h.study, h.series, h.description, case, why))) for h, case, why in both
        ]
        return pd.DataFrame(rows, columns=columns)


def find(request: ImportRequest) -> Found:
    """Look at every instance.

    Args:
        request: What was asked.

    Returns:
        What was found.

    Raises:
        DiffaugError: If a path is missing, or nothing in it is an instance.
    """
    rules = Rules.parse(request.series)
    sources = list_sources(request.studies)
    series: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    others = 0
    looking = tqdm(opened(sources), "looking at files", total=len(sources), unit="file", ascii=True)
    for source, content in looking:
        if (header := read_header(source, content)) is None:
            others += 1
        else:
            series[header.patient, header.study, header.series].append(header)
    if not series:
        raise DiffaugError(
            f"{request.studies[0]}: found {len(sources)} files and none of them DICOM, expected studies; fix the path"
        )
    stacks: list[Stack] = []
    passed: list[tuple[Header, str]] = []
    for headers in series.values():
        try:
            made, lacking = stacks_of(headers)
        except Exception as error:  # headers of a kind that nobody has thought of cost their own series alone
            made, lacking = [], [(headers[0], f"has headers that make no volume ({type(error).__name__})")]
        stacks += made
        passed += lacking
    why = rules.choose(stacks)
    passed += [(stacks[number].header, reason) for number, reason in why.items()]
    taken = tuple(stack for number, stack in enumerate(stacks) if number not in why)
    return Found(taken, tuple(passed), others)


def import_studies(request: ImportRequest, dataset: Path) -> Path:
    """Write the taken volumes as cases of an nnU-Net raw dataset; what a killed call has written stays.

    Args:
        request: What was asked.
        dataset: The raw dataset's folder; a new one gets a `dataset.json`.

    Returns:
        The folder of images.

    Raises:
        DiffaugError: If nothing is taken, the dataset has other channels, or the key is missing.
    """
    key_file = (request.key or Path(f"{dataset.name}_dicom_key.json")).resolve()
    if key_file.is_relative_to(dataset.resolve()):
        raise DiffaugError(
            f"--key {key_file}: lies in the dataset, which may be passed on, expected another place; fix it"
        )
    if key_file.suffix != ".json":
        raise DiffaugError(f"--key {key_file}: expected a name that ends in .json; fix the option")
    names = Pseudonyms(key_file, dataset.name)  # what is wrong with the key or the dataset is told before the long look
    if (dataset / "dataset.json").is_file():
        read_dataset_json(dataset)
    found = find(request)
    print("\n".join(found.summary()), flush=True)
    if not found.stacks:
        raise DiffaugError(f"{request.studies[0]}: no volume is taken, expected some; above stands why, see --series")
    modalities = sorted({stack.header.modality for stack in found.stacks})
    if len(modalities) > 1:
        raise DiffaugError(
            f"{request.studies[0]}: {' and '.join(modalities)} would be taken, expected one kind; choose with --series "
            f"modality={modalities[0]}"
        )
    folder = dataset / request.into
    if request.dry_run:
        return folder
    with _locked(dataset):
        _require_fitting(dataset, modalities[0], key_file)
        cases = [names.case(stack) for stack in found.stacks]
        names.save()  # before any volume: a case that nobody can be told from would be worse than none
        failed = _write_all(found.stacks, cases, folder)
        with atomic_path(key_file.with_name(f"{key_file.stem}_volumes.csv")) as temporary:
            found.listing(cases).to_csv(temporary, index=False)
    for told in failed:
        print(f"import-dicom: passed over: {told}", flush=True)
    if len(failed) == len(cases):
        raise DiffaugError(f"{request.studies[0]}: no volume could be decoded, expected whole instances; get them anew")
    return folder


@contextmanager
def _locked(dataset: Path) -> Iterator[None]:
    """Keep other processes out, and leave no lock file behind: it names this machine."""
    with locked(dataset):
        try:
            yield
        finally:
            (dataset / LOCK).unlink(missing_ok=True)


def _write_all(stacks: Sequence[Stack], cases: Sequence[str], folder: Path) -> list[str]:
    """Write the volumes that are not there yet, and tell of those that cannot be decoded.

    What was imported once may have been moved since, to be labelled or to test with.
    """
    files = [folder / f"{case}_0000{ENDING}" for case in cases]
    places = [folder.parent / name for name in EVERYWHERE]
    left = [number for number, file in enumerate(files) if not any((place / file.name).is_file() for place in places)]
    failed = []
    reading = decoded([stacks[number] for number in left])
    done = len(files) - len(left)
    for place, scan in tqdm(reading, "writing volumes", len(files), initial=done, unit="volume", ascii=True):
        if isinstance(scan, Scan):
            _write(scan, files[left[place]])
        else:
            failed.append(str(scan))
    return failed


def _write(scan: Scan, file: Path) -> None:
    """Write voxels and geometry and nothing else, as whole numbers where they are."""
    (image,) = to_images(scan)
    voxels = scan.voxels
    if np.array_equal(np.round(voxels), voxels) and INT16.min <= voxels.min() and voxels.max() <= INT16.max:
        image = sitk.Cast(image, sitk.sitkInt16)
    write_image(image, file)


def _require_fitting(dataset: Path, modality: str, key_file: Path) -> None:
    """Require a dataset of one such channel, or begin one."""
    file = dataset / "dataset.json"
    if not file.is_file():
        info = {"channel_names": {"0": modality}, "labels": {"background": 0}, "numTraining": 0, "file_ending": ENDING}
        write_json(file, info)  # labels and numTraining are for whoever draws masks
        return
    channels, ending = channels_and_ending(read_dataset_json(dataset))
    if len(channels) != 1 or ending != ENDING or is_ct(channels[0]) != is_ct(modality):
        raise DiffaugError(
            f"{file}: has channels {', '.join(channels)} in {ending}, expected {modality} alone in {ENDING}; "
            "import into a dataset of its own"
        )
    there = [image for name in EVERYWHERE for image in (dataset / name).glob("P*V*_0000.nii.gz")]
    if there and not key_file.is_file():
        raise DiffaugError(
            f"{key_file}: no such file, but {dataset.name} holds imported volumes, expected their key; name it with --key"
        )
