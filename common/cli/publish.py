"""Keep a run for others: python -m steps.publish RUN [FOLDER]

Copies its records into a machine's folder below results/, to be committed, draws its tables and
pictures there, and makes README's tables anew.
"""

import json
from pathlib import Path

from common.cli.readme import renew_tables
from common.cli.runs import RESULTS, find_run, slug
from common.engine.errors import UserError
from common.engine.machine import device_text
from common.engine.options import Parser, output_folder, writable_folder
from common.engine.records import Records, as_records_of, is_file, sole_writer, write_atomically
from common.report.comparison import read_run
from common.report.files import write_results
from ladders import LADDERS, of_records

FACTS = {  # that a folder's runs have in common
    "ladder": lambda record: record["ladder"],
    "device": lambda record: device_text(record["machine"]),
}
NOT_KEPT = {"html"}  # large, and made from the records at any time


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m steps.publish", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", help="last, last-1, …, a folder, or a records.jsonl")
    where = "default: results/DEVICE, and in it a folder L for --ladder L"
    parser.add_argument("folder", nargs="?", type=output_folder, metavar="FOLDER", help=where)
    options = parser.parse_args(arguments)
    named = find_run(options.run)
    records = read_run(named)
    with as_records_of(named):
        ladder, folder = of_records(records), options.folder or usual_folder(records)
    writable_folder("FOLDER", folder)
    with sole_writer(folder):
        path = folder / "records.jsonl"
        refuse_others(path, records)
        lines = [json.dumps(record) + "\n" for record in records]
        write_atomically(path, "".join(lines).encode())
        written = write_results(records, folder, ladder, NOT_KEPT)
    for name in (path, *written.values(), *renew_tables()):
        print(name)
    return 0


def usual_folder(records: list[dict]) -> Path:
    """A machine's: GPUs by name, CPUs with how many cores there are."""
    machine, (ladder, *_) = records[0]["machine"], names(records)
    cores = f"-{machine['cpus_allowed']}-cores" if machine["device_type"] == "cpu" else ""
    folder = RESULTS / f"{slug(machine['device'])}{cores}"
    return folder if ladder == next(iter(LADDERS)) else folder / ladder


def names(records: list[dict]) -> list[str]:
    """What --ladder calls the records' ladder."""
    return [name for name, package in LADDERS.items() if package == records[0]["ladder"]]


def refuse_others(path: Path, records: list[dict]) -> None:
    """Raises UserError where the folder holds another ladder's run, or another machine's."""
    if not is_file(path):
        return
    there = Records(path).read()
    for fact, of in FACTS.items():
        if (old := of(there[0])) != (new := of(records[0])):
            raise UserError(
                f"FOLDER {path.parent}: holds a run of another {fact} ({old}, not {new})"
            )
