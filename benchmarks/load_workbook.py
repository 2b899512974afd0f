"""Loads workbooks one after the other as a mailbox feed does, each in one transaction, and prints JSON: what it took.

load_workbook.py [--declared] CONNINFO TABLE KEY FILE...
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from shipments import RULES

from mailferry.mailbox.target import table, upsert
from mailferry.mailbox.target.origins import Origin
from mailferry.mailbox.workbook.contract import RowContract
from mailferry.mailbox.workbook.formats import kind_of
from mailferry.mailbox.workbook.reader import Reader
from mailferry.mailbox.workbook.values import Counts

if TYPE_CHECKING:
    from mailferry.config.columns import ColumnRule


def load(
    conn: psycopg.Connection, reader: Reader, name: str, key: str, path: Path, rules: tuple[ColumnRule, ...]
) -> Counts:
    """One workbook, committed."""
    with conn.transaction():
        table.lock(conn, name)
        target = table.Target.inspect(conn, name, key)
        columns = target.columns if target else ()
        contract = RowContract(
            key=key, columns=columns, reserved=(table.SOURCE, table.PROCESSED), rules=rules
        )
        with reader.open(path, kind_of(path), contract) as sheet:
            target = target or table.create(conn, name, key, sheet.new)
            names = [column.name for column in sheet.columns]
            return upsert.load(conn, target, names, sheet.chunks, Origin(file=path.name)).counts


def peak_mb() -> float:
    """This process's own; what rusage says begins with the size of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def main(conninfo: str, name: str, key: str, *paths: str, rules: tuple[ColumnRule, ...]) -> None:
    seconds = []
    total = Counts()
    with psycopg.connect(conninfo) as conn, Reader() as reader:
        for path in paths:
            begun = time.monotonic()
            counts = load(conn, reader, name, key, Path(path), rules)
            seconds.append(time.monotonic() - begun)
            total.read += counts.read
            total.inserted += counts.inserted
            total.updated += counts.updated
            total.unchanged += counts.unchanged
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = {
        "read": total.read,
        "inserted": total.inserted,
        "updated": total.updated,
        "unchanged": total.unchanged,
        "seconds": seconds,
        "parent_mb": peak_mb(),
        "child_mb": children.ru_maxrss * 1024 / 1e6,
        "child_cpu": children.ru_utime + children.ru_stime,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    declared = sys.argv[1] == "--declared"
    main(*sys.argv[1 + declared :], rules=RULES if declared else ())
