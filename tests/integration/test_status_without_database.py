"""`mailferry status` where the database cannot be asked."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from mailferry.commands.service import run_status

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_the_database_did_not_tell_is_called_unknown_not_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mailferry.toml"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        config.write_text(
            f'[database]\nhost = "127.0.0.1"\nport = {closed.getsockname()[1]}\nname = "a"\nuser = "a"\n'
            '[events.out]\napi_key = "0123456789abcdef"\ndestination = "table"\ntype = "outgoinglog"\n'
        )
        assert run_status([config], as_json=False) == 3
    out = capsys.readouterr().out
    assert "out: unknown\n" in out
    assert "Connection refused" in out
    assert "workers" not in out
