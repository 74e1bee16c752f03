"""The file that tells which site each case comes from: a table that a spreadsheet writes, or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection
from pathlib import Path

from diffaug.errors import DiffaugError


def read_sites(file: Path, cases: Collection[str], excluded: Collection[str] = ()) -> dict[str, str]:
    """Read which site each case comes from.

    Args:
        file: JSON `{"case": "site"}`, or a table with the columns `case` and `site` and any others, separated by commas,
            semicolons or tabs.
        cases: Ids of the scans; others in the file are ignored, and said so.
        excluded: Ids that are known and must not be seen; they are ignored silently.

    Returns:
        Site of each case that has one.

    Raises:
        DiffaugError: If the file cannot be read, is something else, gives a case two sites, or names no scan.
    """
    sites: dict[str, str] = {}
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
        for case, site in _from_json(text) if file.suffix.casefold() == ".json" else _from_table(text):
            if sites.setdefault(case, site) != site:
                raise ValueError(f"case {case} has the sites {sites[case]} and {site}")
    except (OSError, ValueError, csv.Error) as error:
        raise DiffaugError(
            f"{file}: not a list of sites ({error}), expected a table with the columns case and site, or JSON of "
            '{"case": "site"}; fix it'
        ) from error
    if not sites.keys() & set(cases):
        raise DiffaugError(
            f"{file}: none of its {len(sites)} ids is a scan to fit, expected ids such as {min(cases)}; fix it"
        )
    if unknown := sites.keys() - set(cases) - set(excluded):
        print(f"sites: {file} names {len(unknown)} unknown cases ({min(unknown)} ...), which are ignored")
    return {case: site for case, site in sites.items() if case in cases}


def _from_json(text: str) -> list[tuple[str, str]]:
    content = json.loads(text)
    if not isinstance(content, dict) or not all(isinstance(site, str) and site for site in content.values()):
        raise ValueError("found something else than a site for each case")
    return list(content.items())


def _from_table(text: str) -> list[tuple[str, str]]:
    lines = text.splitlines()
    separator = max(",;\t", key=(lines or [""])[0].count)
    header, *rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator) if row] or [[]]
    if missing := {"case", "site"} - set(header):
        raise ValueError(f"found the columns {', '.join(header) or 'none'}, and no {min(missing)}")
    if short := [row for row in rows if len(row) != len(header)]:
        raise ValueError(f"found {len(short[0])} cells in the row of {short[0][0]}, and {len(header)} columns")
    pairs = [(row[header.index("case")], row[header.index("site")]) for row in rows]
    return [(case, site) for case, site in pairs if site]  # an empty cell is unknown
