"""The demo of mailbox feeds: real messages with real workbooks in a Maildir, loaded into the private PostgreSQL."""

from __future__ import annotations

import mailbox
import subprocess
import sys
from email.message import EmailMessage
from typing import TYPE_CHECKING

from mailferry import database
from mailferry.config import service
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAILFERRY = [sys.executable, "-m", "mailferry"]
HEADER = ("HAWB No", "Consignee", "Pieces", "Weight (kg)", "Delivered")
FIRST = [
    ("00012345", "Ünal Lojistik, İzmir", 3, 41.5, "2026-01-30"),
    ("00012346", "Example Ltd", 1, 0.8, "31.01.2026"),
    ("00012347", "Example GmbH", 12, 260, None),
]
CORRECTION = [
    ("00012346", "Example Ltd", 2, 1.9, "31.01.2026"),
    ("00012347", "Example GmbH", 12, 260, "2026-02-01"),
]
FAULTY = [
    ("00012348", "Example Ltd", "three", 7, None),
    (None, "nobody", 1, 1, None),
    ("00012349", "Example SpA", 5, 9.25, None),
    ("00012350", "Example Ltd", 1, 2, None),
    ("00012351", "Example Ltd", 4, 3, None),
]


def run(folder: Path) -> bool:
    """Show it; True where table and jobs are as they must be."""
    folder.mkdir(parents=True)
    inbox = mailbox.Maildir(folder / "Maildir")
    config = folder / "config.env"
    config.write_text(
        "EMAIL_MAILDIR=Maildir\nAPP_BASE_DIR=data\nDB_UNIQUE_KEY=hawb_no\nDB_TARGET_TABLE=shipments\nDB_CREATE_TABLE=true\n"
    )
    print(
        "\nMailbox feeds: a Maildir, a private PostgreSQL that starts when needed, six messages with workbooks\n"
    )

    deliver(inbox, folder, "Track and Trace: shipments", "shipments.xlsx", FIRST)
    _show("the first message", config)
    deliver(inbox, folder, "Track and Trace: correction", "correction.xlsx", CORRECTION)
    deliver(inbox, folder, "Track and Trace: correction, again", "copy of correction.xlsx", CORRECTION)
    deliver(inbox, folder, "Track and Trace: some odd rows", "odd.xlsx", FAULTY)
    deliver(inbox, folder, "Track and Trace: broken", "broken.xlsx", FIRST, cut=700)
    deliver(inbox, folder, "Lunch on Friday", "menu.xlsx", FIRST)
    _show(
        "a correction, the same again, odd rows, a broken file, and a message about something else",
        config,
    )

    print("\nmailferry jobs list")
    subprocess.run([*MAILFERRY, "jobs", "list", "--config", str(config)], check=True)
    rows, rejects = _tables(config)
    print("\nthe table shipments")
    for row in rows:
        print("  " + "  ".join(f"{value!s:<20}"[: 24 if len(str(value)) > 20 else 20] for value in row))
    print("\nrejected rows")
    for reject in rejects:
        print("  row {}, column {}: {} ({!r})".format(*reject))
    print(f"\nlook at    {folder / 'data'} (processed/, failed/), and {config}")
    unread = sum("S" not in message.get_flags() for message in inbox)
    keys = [row[0] for row in rows]
    good = (
        keys == [f"000123{number}" for number in (45, 46, 47, 49, 50, 51)]
        and len(rejects) == 2
        and unread == 2
    )
    good = good and rows[1][2] == 2
    what = "Every row is there once, the correction counts, and what was refused is on record."
    print(f"\n{what if good else 'THAT WENT WRONG.'}")
    return good


def deliver(
    inbox: mailbox.Maildir, folder: Path, subject: str, name: str, rows: Sequence[object], cut: int = 0
) -> None:
    """A message with a workbook of these rows, of which only the first `cut` bytes arrive."""
    book = xlsx(folder / name, Tab(name="Shipments", rows=[("Weekly report",), (), HEADER, *rows]))
    content = book.read_bytes()
    book.unlink()
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ops@example.com", "data@example.org", subject
    message.set_content("See the attached workbook.")
    message.add_attachment(
        content[: cut or None], maintype="application", subtype="octet-stream", filename=name
    )
    inbox.add(message)


def _show(what: str, config: Path) -> None:
    print(f"--- {what}: mailferry load")
    sys.stdout.flush()
    subprocess.run([*MAILFERRY, "load", "--config", str(config)], check=False, stderr=subprocess.DEVNULL)


def _tables(config: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    (feed,) = service.read([config]).mailboxes
    with database.connect(feed.database) as pool, database.transaction(pool) as conn:
        columns = "hawb_no, consignee, pieces, weight_kg, delivered, file_source"
        rows = conn.execute(f"SELECT {columns} FROM shipments ORDER BY hawb_no").fetchall()
        rejects = conn.execute(
            'SELECT "row", "column", reason, value FROM mailferry.rejected_rows ORDER BY id'
        ).fetchall()
    return rows, rejects
