"""Texts that a gateway puts in place of a file that it took out."""

from __future__ import annotations

import re

from mailferry.mailbox.mime.headers import fold

#: So long a notice may be, in bytes.
MOST_NOTICE = 64 * 1024
#: Names that gateways give their notices: the file's own with a text's extension, or plain words.
_NAME = re.compile(
    r"\.(xlsx|xlsm|xlsb|xls|ods|csv|zip)[ ._-]*(removed|deleted|blocked)?\.(txt|html?)$"
    r"|^(attachment|file)?s?[ ._-]*(removed|deleted|blocked|stripped|replaced|quarantined)[ ._\w-]*\.(txt|html?)$"
    r"|^(malware|virus|threat|warning)[ ._\w-]*\.(txt|html?)$",
    re.IGNORECASE,
)
#: Both are of folded text, in which the four Turkish i are one letter.
_FILE = r"(attachments?|files?|documents?|ek(?:i|ler|leri)?|dosya(?:si|lari?)?|[\w .()-]{1,80}\.(?:xlsx?|xlsm|xlsb|ods|csv|zip))"
_GONE = (
    r"(removed|stripped|scrubbed|deleted|blocked|quarantined|replaced|withheld|detached"
    r"|kaldiril\w*|silin\w*|engellen\w*|çikaril\w*|karantina\w*)"
)
_TEXT = re.compile(rf"\b{_FILE}\b[^.\n]{{0,120}}\b{_GONE}\b", re.IGNORECASE)
_MARKUP = re.compile(r"<[^<>]{0,500}>")


def notice(name: str, text: str) -> str:
    """What to do where an attached text says that a file was taken out; "" where it does not.

    `text` is the beginning of it. A text that is named like a notice is one, whatever the language.
    """
    plain = " ".join(_MARKUP.sub(" ", text).split())[:2000]
    if not (_TEXT.search(fold(plain)) or _NAME.search(name)):
        return ""
    return (
        f"a notice in place of a file that a mail gateway took out ({plain[:200]!r}): have the file released there,"
        " or sent again"
    )
