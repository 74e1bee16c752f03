"""What a reader study may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffaug.options import option, seed_number


@dataclass(frozen=True)
class MakeRequest:
    """Which volumes a study shows, and where it is written.

    Attributes:
        real: Folder of scans, in place of a task's own.
        synthetic: Folder of synthetic volumes, in place of a task's own.
        out: Folder of the study, which readers are given as it is.
        key: Where the key is written, which says what is real and stays with you; beside the folder where nothing is named.
        real_count: Real volumes shown.
        synthetic_count: Synthetic volumes shown.
        channel: Number of the channel shown, from 0.
        title: What readers see above the page; it must not tell what they shall judge.
        texts: A translation of the page's texts; texts.json in the study's folder is what to translate.
        seed: Of choice and order; a number that readers could guess would tell them the order, so one is drawn by default.
    """

    real: Path | None = option(None, metavar="FOLDER")
    synthetic: Path | None = option(None, metavar="FOLDER")
    out: Path = option(Path("reader_study"), metavar="FOLDER")
    key: Path | None = option(None, metavar="FILE")
    real_count: int = 50
    synthetic_count: int = 50
    channel: int = 0
    title: str = ""
    texts: Path | None = option(None, metavar="FILE")
    seed: int | None = option(None, type=seed_number)

    @property
    def key_file(self) -> Path:
        """Where the key is written."""
        return self.key or self.out.resolve().parent / f"{self.out.resolve().name}_key.json"


@dataclass(frozen=True)
class ServeRequest:
    """Which study is served, for this machine alone.

    Attributes:
        study: Folder of the study.
        answers: Folder that answers are kept in.
        port: On 127.0.0.1; 0 takes a free one.
    """

    study: Path = option(Path("reader_study"), metavar="FOLDER")
    answers: Path = option(Path("reader_study_answers"), metavar="FOLDER")
    port: int = 8765


@dataclass(frozen=True)
class AnalyseRequest:
    """Which answers are analysed.

    Attributes:
        key: The key that was written beside the study.
        answers: A reader's answers, or a folder of several; may be repeated.
        out: Folder of the page and the tables.
        incomplete: Whether readers who have not answered everything count, with what they have answered.
    """

    key: Path = option(metavar="FILE")
    answers: tuple[Path, ...] = option(metavar="FILE")
    out: Path = option(Path("reader_study_results"), metavar="FOLDER")
    incomplete: bool = False
