"""Protected workbooks, opened with the passwords of the feed. Imported late: few files need it.

Source: [MS-OFFCRYPTO] 2.3.4 (OOXML packages).
"""

from __future__ import annotations

import contextlib
import io
from typing import IO

from mailferry.errors import Reject
from mailferry.mailbox.workbook.book import damaged

#: What spreadsheet programs protect a file with, and open it with, where a person gave none ([MS-OFFCRYPTO] 2.3.5).
DEFAULT = "VelvetSweatshop"


def decrypted(file: IO[bytes], passwords: tuple[str, ...]) -> IO[bytes]:
    """The package in an encrypted .xlsx, .xlsm or .xlsb. Raises Reject where no password opens it."""
    with damaged("it"):
        from msoffcrypto.exceptions import InvalidKeyError
        from msoffcrypto.format.ooxml import OOXMLFile

        book = OOXMLFile(file)
        for password in (DEFAULT, *passwords):
            with contextlib.suppress(InvalidKeyError):
                book.load_key(password=password, verify_password=True)
                package = io.BytesIO()
                book.decrypt(package)
                package.seek(0)
                return package
    raise Reject(f"protected by a password; {_what_to_do(passwords)}")


def _what_to_do(passwords: tuple[str, ...]) -> str:
    if passwords:
        return "none in the feed's passwords_file opens it; add the password there, or have it sent without"
    return "have it sent without, or write the password into the feed's passwords_file"
