"""Messages with workbooks, and feeds to load them, for the tests of the mailbox loader."""

from __future__ import annotations

import os
import tempfile
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailferry.config.mailbox import MailboxSettings
from mailferry.config.mailbox_feed import MailboxFeed
from mailferry.testing.workbooks import Tab, xlsx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailferry.config.database import DatabaseSettings


#: Of most workbooks; the first is the key.
HEADER = ("HAWB", "Status", "Pieces")


def workbook(*rows: Sequence[object], name: str = "Sheet1") -> bytes:
    """An .xlsx of these rows, the first of which is the header."""
    with tempfile.TemporaryDirectory() as folder:
        return xlsx(Path(folder, "book.xlsx"), Tab(name=name, rows=rows)).read_bytes()


def mail(subject: str, *attachments: tuple[str, bytes], message_id: str = "", sender: str = "") -> bytes:
    """A message with these files."""
    message = EmailMessage()
    message["From"] = sender or "Sender <sender@example.com>"
    message["To"] = "processing@example.com"
    message["Subject"] = subject
    message["Message-ID"] = message_id or f"<{os.urandom(8).hex()}@example.com>"
    message.set_content("See the attachment.")
    for name, content in attachments:
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


class Maildir:
    """A Maildir on disk, with messages delivered a second apart."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0
        for name in ("new", "cur", "tmp"):
            (root / name).mkdir(parents=True)

    def deliver(self, message: bytes) -> str:
        self._count += 1
        name = f"{self._count}.test.host"
        path = self.root / "tmp" / name
        path.write_bytes(message)
        time = 1_700_000_000 + self._count
        os.utime(path, (time, time))
        path.rename(self.root / "new" / name)
        return name

    def flags(self) -> dict[str, str]:
        """Flags by unique name."""
        names = [path.name for folder in ("new", "cur") for path in (self.root / folder).iterdir()]
        return {name.partition(":2,")[0]: name.partition(":2,")[2] for name in sorted(names)}


def feed_of(base: Path, root: Path, database: DatabaseSettings, **changes: Any) -> MailboxFeed:
    """A feed of a Maildir; names of the mailbox's settings are taken for those."""
    mailbox: dict[str, Any] = {"kind": "maildir", "path": root}
    for name in list(changes):
        if name in MailboxSettings.model_fields and name != "name":
            mailbox[name] = changes.pop(name)
    values = {"name": "test", "mailbox": MailboxSettings(**mailbox), "database": database, "base_dir": base}
    values["create_table"] = True
    return MailboxFeed(**{**values, **changes})
