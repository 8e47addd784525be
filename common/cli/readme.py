"""README's tables come from the records: python -m common.cli.readme writes them anew."""

import re
from pathlib import Path

from common.engine.errors import exit_on_user_error
from common.engine.machine import PROJECT
from common.engine.records import Records, write_atomically
from common.report.tables import to_brief_markdown
from ladders import of_records

READMES = ("README.md", "README.ja.md")
BLOCK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """The text with every marked table made anew from the records of the folder it names."""

    def table(match: re.Match) -> str:
        records = Records(PROJECT / match[2] / "records.jsonl").read()
        ladder = of_records(records)
        made = to_brief_markdown(records, ladder.workload, ladder.published())
        return f"{match[1]}\n{made}\n{match[3]}"

    return BLOCK.sub(table, text)


def renew_tables() -> list[Path]:
    """Write the tables anew; the files that changed."""
    changed = []
    for path in (PROJECT / name for name in READMES):
        text = path.read_text(encoding="utf-8")
        if (made := with_tables(text)) != text:
            write_atomically(path, made.encode())
            changed.append(path)
    return changed


if __name__ == "__main__":
    with exit_on_user_error():
        renew_tables()
