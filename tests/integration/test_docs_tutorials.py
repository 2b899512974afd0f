"""The tutorials, followed word by word in an empty folder: blocks marked `sh run`, and what they must print.

In a block marked `text output` each line must be printed by the block before it, in that order, where `…` stands for
anything; a line that is `…` alone says that there may be others between. Standard error is not shown there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support_fork import Forked, mailferry

from mailferry import postgres_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailferry.config.database import DatabaseSettings

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(sh run|text output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "--- the end of a block ---"


@pytest.fixture
def empty_folder() -> Iterator[Path]:
    """One that the private PostgreSQL's user can reach, whichever user that is."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="mailferry-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow(30)
@pytest.mark.parametrize("name", ["events", "complete", "mailbox", "columns"])
def test_a_newcomer_who_follows_the_tutorial_sees_what_it_shows(name: str, empty_folder: Path) -> None:
    found = BLOCK.findall((DOCS / "tutorials" / f"{name}.md").read_text("utf-8"))
    script = "".join(f"{text}echo '{END}'\n" for kind, text in found if kind == "sh run")
    programs = [Path(sys.executable).parent, *(one.folder for one in postgres_programs.installed()[:1])]
    path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
    # A session of its own: whatever the tutorial leaves running ends with it.
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=empty_folder,
        env={"PATH": path, "LC_ALL": "C.UTF-8", "HOME": str(empty_folder), "TZ": "UTC"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, said = process.communicate(timeout=100)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.communicate()
    assert process.returncode == 0, said
    assert "Traceback" not in said, said

    outputs = iter(printed.split(f"{END}\n"))
    output = ""
    for kind, text in found:
        if kind == "sh run":
            output = next(outputs)
        else:
            assert_shows(output, text)


def assert_shows(output: str, expected: str) -> None:
    lines = iter(output.splitlines())
    for line in expected.splitlines():
        if line != "…":
            pattern = ".*".join(map(re.escape, line.split("…")))
            assert any(re.fullmatch(pattern, one) for one in lines), (
                f"{line!r} is not in, or not there:\n{output}"
            )


def test_the_statements_of_the_postgresql_page_give_every_right_that_is_needed(
    new_database: Callable[..., DatabaseSettings],
) -> None:
    """Run as the page has them, but for names of roles and databases, which the server's tests share."""
    page = (DOCS / "how-to" / "postgresql.md").read_text("utf-8")
    of_their_own, of_others, for_readers = re.findall(
        r"^```sql run\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    settings = new_database(template=False)
    role, reader = f"role_{settings.name}", f"reader_{settings.name}"

    def renamed(text: str) -> str:
        text = text.replace("DATABASE mail ", f"DATABASE other_{settings.name} ").replace("reporting", reader)
        return re.sub(r"(ROLE|OWNER|AUTHORIZATION|TO) mailferry\b", rf"\1 {role}", text)

    where = {"host": settings.host, "port": str(settings.port), "user": settings.user}
    with psycopg.connect(make_conninfo(**where, dbname=settings.name), autocommit=True) as conn:
        try:
            for statement in filter(str.strip, renamed(of_their_own).split(";")):
                conn.execute(statement.encode())
            conn.execute(f"CREATE ROLE {reader} LOGIN".encode())
            conn.execute(b"CREATE TABLE tracking_data (hawb text, status text)")
            conn.execute(renamed(of_others).encode())
            made = {"host": settings.host, "port": settings.port, "user": role}
            for name in (f"other_{settings.name}", settings.name):
                answer = check(f"{name}", made)
                assert "FAILED" not in answer, answer
                assert "can be written; table public.tracking_data" in answer
            conn.execute(renamed(for_readers).encode())
            with psycopg.connect(make_conninfo(**{**where, "user": reader}, dbname=settings.name)) as reading:
                assert reading.execute("SELECT count(*) FROM mailferry.jobs").fetchone() == (0,)
        finally:
            conn.execute(f"DROP DATABASE IF EXISTS other_{settings.name}".encode())
            for name in (role, reader):
                conn.execute(f"DROP OWNED BY {name}".encode())
                conn.execute(f"DROP ROLE {name}".encode())


def check(name: str, made: dict[str, object]) -> str:
    """What `mailferry check` says of this database."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("new", "cur", "tmp"):
            Path(folder, "Maildir", part).mkdir(parents=True)
        variables = {
            "EMAIL_MAILDIR": "Maildir",
            "APP_BASE_DIR": "data",
            "DB_CREATE_TABLE": "true",
            "DB_HOST": made["host"],
            "DB_PORT": made["port"],
            "DB_USERNAME": made["user"],
            "DB_NAME": name,
        }
        own = {"PATH": os.environ["PATH"], **{key: str(value) for key, value in variables.items()}}
        done = Forked(mailferry, "check", folder=Path(folder), variables=own).finished()
    return done.stdout + done.stderr
