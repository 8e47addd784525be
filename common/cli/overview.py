"""The page of a folder that holds all ladders, from what is on the disk."""

import os
from pathlib import Path

from common.engine.errors import UserError
from common.engine.records import NoRecords, Records
from common.engine.standing import FILE, WAITING, Standings
from common.report.overview import OfAll
from ladders import LADDERS, load


def read_all(folder: Path, page: Path) -> list[OfAll]:
    """The folder's ladders in order, for a page that will stand at `page`. Raises UserError."""
    found = []
    for name, standing in Standings.read(folder).ladders.items():
        if name not in LADDERS or load(name).purpose is None:
            raise UserError(f"{folder / FILE}: names a ladder {name!r}, which is none of all")
        ladder, place = load(name), folder / name
        records = [] if standing.status == WAITING else records_in(place)
        if records and records[0]["ladder"] != ladder.name:
            raise UserError(f"{place}: records of the ladder {records[0]['ladder']}, not {name}")
        link = Path(os.path.relpath(place.absolute(), page.absolute().parent)).as_posix()
        found.append(
            OfAll(name=name, ladder=ladder, standing=standing, records=records, place=link)
        )
    return found


def records_in(folder: Path) -> list[dict]:
    """The last run's of a ladder; none where nothing was recorded."""
    path = folder / "records.jsonl"
    if not os.path.lexists(path):
        return []
    try:
        return Records(path).read()
    except NoRecords:
        return []
