"""The same message through an IMAP server and from disk: the same parts, with the same names and contents."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailferry.config.mailbox import MailboxSettings
from mailferry.mailbox.source.imap import ImapMailbox
from mailferry.mailbox.source.maildir import MaildirMailbox
from mailferry.mailbox.workbook.inspector import Inspector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fixtures_dovecot import Account

    from mailferry.mailbox.source.message import Mailbox

_count = itertools.count(1)
_NAMES = st.sampled_from(
    [
        b"a.xlsx",
        b'"a b.xlsx"',
        b"a b.xlsx",
        b"a (b).xlsx",
        b'"a (b).xlsx"',
        b'"C:\\Temp\\report.xlsx"',
        b'"quoted \\" mark.xlsx"',
        b"\xde\xfd\xf0.xlsx",
        "Şubat çizelge.xlsx".encode(),
        b'"\xdeubat.xlsx"',
        b'"=?iso-8859-9?Q?=DEubat?= =?utf-8?Q?=C5=9Eube?=.xlsx"',
        b"=?utf-8?B?xZ51YmUueGxzeA==?=",
        b'"never closed.xlsx',
        b"",
        b'""',
        b"semi;colon.xlsx",
    ]
)
_PARAMETER = st.one_of(
    st.tuples(st.sampled_from([b"; filename=", b";filename =", b"; name=", b" filename="]), _NAMES).map(
        b"".join
    ),
    st.sampled_from(
        [
            b"",
            b"; filename*=utf-8''%C5%9Eubat.xlsx",
            b"; filename*0=long; filename*1=name.xlsx",
            b"; filename*0*=iso-8859-9'tr'%DE;\r\n filename*1=ube.xlsx",
            b"; filename*=no-such''%DE.xlsx; filename=plain.xlsx",
            b"; size=7; x",
        ]
    ),
)
_TYPE = st.sampled_from(
    [
        b"",
        b"Content-Type: text/plain; charset=iso-8859-9\r\n",
        b'Content-Type: text/html; charset="utf-8"\r\n',
        b"Content-Type: application/octet-stream (a comment)\r\n",
        b'Content-Type: application/vnd.ms-excel; name="in type.xls"\r\n',
        b"Content-Type: application\r\n",
        b"content-type:image/png;\r\n\tname=x.png\r\n",
    ]
)
_ENCODING = st.sampled_from(
    [
        (b"", b"plain words\r\n"),
        (
            b"Content-Transfer-Encoding: base64\r\n",
            base64.encodebytes(b"PK\3\4content").replace(b"\n", b"\r\n"),
        ),
        (b"Content-Transfer-Encoding: base64 (mime)\r\n", base64.encodebytes(b"PK\3\4b")),
        (b"Content-Transfer-Encoding: base64;\r\n", b"UEsDBA=="),
        (b"Content-Transfer-Encoding: Quoted-Printable\r\n", b"a=3Db=\r\nc\r\n"),
        (b"Content-Transfer-Encoding: 8bit\r\n", b"\xde\xfd\r\n"),
    ]
)


@st.composite
def _entity(draw: st.DrawFn) -> bytes:
    kind, (encoding, body) = draw(_TYPE), draw(_ENCODING)
    disposition = draw(st.sampled_from([b"", b"attachment", b"inline", b"form-data", b"Attachment (x)"]))
    header = kind + encoding
    if disposition:
        header += b"Content-Disposition: " + disposition + draw(_PARAMETER) + b"\r\n"
    return (header or b"X: y\r\n") + b"\r\n" + body


@st.composite
def _multipart(draw: st.DrawFn, inner: st.SearchStrategy[bytes]) -> bytes:
    named = draw(st.sampled_from([b'; boundary="%b"', b"; boundary=%b", b"; boundary=%b (c)", b""]))
    parts = draw(st.lists(inner, min_size=1, max_size=3))
    # of its own: with a boundary that is an outer one's too, each reader is right in its way
    boundary = hashlib.sha256(b"".join(parts)).hexdigest()[:12].encode()
    text = b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts)
    end = draw(st.sampled_from([b"--%b--\r\n", b""]))
    header = b"Content-Type: multipart/mixed" + (named % boundary if named else b"") + b"\r\n\r\n"
    return header + text + (end % boundary if end else b"")


@st.composite
def _forwarded(draw: st.DrawFn, inner: st.SearchStrategy[bytes]) -> bytes:
    return b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n" + draw(inner)


_MESSAGES = st.recursive(
    _entity(), lambda inner: st.one_of(_multipart(inner), _forwarded(inner)), max_leaves=6
)


@pytest.fixture(scope="module")
def inspector() -> Iterator[Inspector]:
    """One reading child for all messages."""
    with contextlib.closing(Inspector()) as opened:
        yield opened


def _parts(mailbox: Mailbox) -> list[tuple[object, ...]]:
    (ref,) = mailbox.find()
    summary = mailbox.summary(ref)
    assert summary
    found: list[tuple[object, ...]] = [(summary.subject, summary.sender)]
    for part in summary.parts:
        content = b"".join(mailbox.fetch(ref, part))
        found.append((part.section, part.mime, part.name, part.disposition, content))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entity=_MESSAGES,
    subject=st.sampled_from(
        [b"Track and Trace", b"Track and Trace \xdeube", b"Track and Trace =?utf-8?Q?=DE?="]
    ),
)
@pytest.mark.slow(20)
def test_imap_and_maildir_agree_part_by_part(
    account: Account, tmp_path: Path, inspector: Inspector, entity: bytes, subject: bytes
) -> None:
    message = (
        b"From: Depot <depot@example.com>\r\nSubject: " + subject + b"\r\nMIME-Version: 1.0\r\n" + entity
    )
    number = next(_count)
    root = tmp_path / str(number)
    for name in ("new", "cur", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "new" / "1.a.host").write_bytes(message)
    folder = f"m{number}"
    with account.client() as client:
        client.create_folder(folder)
    account.deliver(message, folder=folder)
    local = MaildirMailbox(MailboxSettings(kind="maildir", path=root), inspector=inspector)
    with contextlib.closing(ImapMailbox(account.settings(folder=folder))) as remote:
        assert _parts(remote) == _parts(local)
