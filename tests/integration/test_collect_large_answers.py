"""Answers without an end, and small ones that unpack to gigabytes: they cost no more than `max_answer_bytes`."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support_events import OUTGOING, RECENT, SIGN_INS, a_site, section
from support_fork import Forked, mailferry
from support_memory import peak

from mailferry.testing.population import Traits
from mailferry.testing.provider import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
#: What the server would send at most: far more than it may get rid of.
END = 512 * MIB
#: A file in the folder of the process that is measured.
PEAK = "peak"


class Sender:
    """Answers every request with one body, piece by piece, as long as the client takes it."""

    def __init__(self, head: bytes, piece: bytes) -> None:
        self.sent = 0
        self._head, self._piece = head, piece
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                with client, contextlib.suppress(OSError):
                    client.settimeout(10)
                    client.recv(65_536)
                    client.sendall(
                        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + self._head + b"\r\n"
                    )
                    while self.sent < END:
                        client.sendall(b"%x\r\n%b\r\n" % (len(self._piece), self._piece))
                        self.sent += len(self._piece)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture(params=["endless", "gzip bomb"])
def sender(request: pytest.FixtureRequest) -> Iterator[Sender]:
    if request.param == "endless":
        made = Sender(b"Content-Type: application/json\r\n", b" " * 65_536)
    else:
        # A member of gzip after the other, each 4 MiB of blanks.
        made = Sender(b"Content-Encoding: gzip\r\n", gzip.compress(b" " * (4 * MIB), 9))
    yield made
    made.close()


def measured(*arguments: str) -> None:
    """Work of a process: the command; the most memory that it took, KiB, is left in PEAK."""
    try:
        mailferry(*arguments)
    finally:
        Path(PEAK).write_text(str(peak()))


def test_an_answer_without_an_end_is_not_read_to_it(tmp_path: Path, sender: Sender) -> None:
    config = tmp_path / "uzmanposta.ini"
    options = {"start_time": RECENT, "list_retries": 0, "audit": "off"}
    config.write_text(section(SIGN_INS, f"http://127.0.0.1:{sender.port}/logs", **options))
    ran = Forked(measured, "collect", "--config", str(config), "--all", "--json", folder=tmp_path).finished()
    assert ran.returncode == 1
    assert "max_answer_bytes" in json.loads(ran.stdout)["sections"][0]["error"]
    peak = int((tmp_path / PEAK).read_text())
    assert peak < 300 * 1024, "KiB: 64 MiB of answer, twice while it is put together, and the program"
    assert sender.sent < 100 * MIB


def test_a_detail_that_is_too_large_costs_its_event_only_the_detail(tmp_path: Path) -> None:
    def large(path: str, body: bytes) -> bytes:
        return body if "starttime" in path else body[:-1] + b',"more":"' + b"x" * 300_000 + b'"}'

    some = Traits(rate=0.05, start=RECENT, end=RECENT + 300, detail_bytes=50)
    with a_site(tmp_path, {OUTGOING: some}, Settings(rewrite=large)) as site:
        site.configure(max_answer_bytes=200_000)
        metrics = site.collect().of(OUTGOING).metrics
        assert 0 < metrics.stand_ins == metrics.events == len(site.lines(OUTGOING))
        assert all("max_answer_bytes = 200,000" in one["error"] for one in site.errors(OUTGOING))
