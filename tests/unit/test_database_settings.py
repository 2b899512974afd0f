"""Which database is meant, how it is reached, and what its errors ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import ValidationError

from mailferry import database
from mailferry.config.database import DatabaseSettings, is_local
from mailferry.errors import Reject, Retry, Stop


def given(**changes: object) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"host": "db.example.com", "name": "n", "user": "u", **changes})


@pytest.mark.parametrize(
    "host", ["", "localhost", "LOCALHOST", "127.0.0.1", "127.8.8.8", "::1", "/run/postgresql", "@x"]
)
def test_a_host_that_never_leaves_the_machine_is_local(host: str) -> None:
    assert is_local(host)
    assert database.parameters(given(host=host or "localhost"))["sslmode"] == "prefer"


@pytest.mark.parametrize(
    "host",
    ["db.example.com", "10.0.0.1", "localhost.example.com", "127.0.0.1,db.example.com", "0.0.0.0", "::"],
)
def test_any_other_host_is_asked_for_tls(host: str) -> None:
    assert not is_local(host)
    assert database.parameters(given(host=host))["sslmode"] == "require"


def test_the_setting_has_the_last_word_on_tls() -> None:
    assert database.parameters(given(sslmode="verify-full"))["sslmode"] == "verify-full"
    url = "postgresql://u:p@db.example.com/n?sslmode=disable"
    assert database.parameters(DatabaseSettings(url=url))["sslmode"] == "disable"
    assert database.parameters(DatabaseSettings(url=url, sslmode="require"))["sslmode"] == "require"
    assert database.parameters(DatabaseSettings(url="postgresql://db.example.com/n"))["sslmode"] == "require"
    assert database.parameters(DatabaseSettings(url="postgresql:///n?host=/run/pg"))["sslmode"] == "prefer"


def test_a_local_name_with_a_far_address_is_asked_for_tls() -> None:
    url = "postgresql://localhost/n?hostaddr=10.0.0.1"
    assert database.parameters(DatabaseSettings(url=url))["sslmode"] == "require"


def test_without_host_and_url_the_private_server_is_meant_and_needs_a_folder() -> None:
    assert DatabaseSettings(data_dir=Path("data")).private
    assert not given().private
    with pytest.raises(ValidationError, match="data folder"):
        DatabaseSettings()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "no name"),
        ({"user": ""}, "no user"),
        ({"url": "postgresql+psycopg2://u:p@h/n"}, "postgresql://"),
        ({"temp_schema": ""}, "1 to 63"),
        ({"temp_schema": "ş" * 32}, "1 to 63"),
        ({"temp_schema": "pg_temp"}, "pg_"),
        ({"pool_min": 5, "pool_max": 4}, "more than `pool_max`"),
        ({"port": 0}, "port"),
        ({"sslmode": "yes"}, "sslmode"),
        ({"hots": "x"}, "hots"),
    ],
)
def test_a_mistake_is_reported(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        given(**changes)


def test_no_secret_is_shown_by_settings_or_errors() -> None:
    settings = given(password="hunter2", url="postgresql://u:hunter2@h/n")
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(ValidationError) as caught:
        DatabaseSettings(url="mysql://u:hunter2@h/n")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Stop) as stopped:
        database.parameters(DatabaseSettings(url="postgresql://u:hunter2%zz@h/n"))
    assert "hunter2" not in str(stopped.value)
    assert stopped.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.DeadlockDetected("x"), Retry),
        (psycopg.errors.SerializationFailure("x"), Retry),
        (psycopg.errors.DiskFull("x"), Retry),
        (psycopg.errors.AdminShutdown("x"), Retry),
        (psycopg.errors.CannotConnectNow("x"), Retry),
        (psycopg.errors.LockNotAvailable("x"), Retry),
        (psycopg.errors.QueryCanceled("x"), Retry),
        (psycopg.errors.ReadOnlySqlTransaction("x"), Retry),
        (psycopg.errors.InvalidPassword("x"), Stop),
        (psycopg.errors.InvalidCatalogName("x"), Stop),
        (psycopg.errors.InsufficientPrivilege("x"), Stop),
        (psycopg.errors.UndefinedTable("x"), Stop),
        (psycopg.errors.CheckViolation("x"), Reject),
        (psycopg.errors.NumericValueOutOfRange("x"), Reject),
        (psycopg.errors.RaiseException("x"), Reject),
        (psycopg.errors.TooManyColumns("x"), Reject),
        (psycopg.OperationalError("server closed the connection unexpectedly"), Retry),
        (psycopg.OperationalError("FATAL:  the database system is starting up"), Retry),
        (psycopg.OperationalError("FATAL:  sorry, too many clients already"), Retry),
        (psycopg.OperationalError("Connection refused"), Retry),
        (psycopg.OperationalError('FATAL:  password authentication failed for user "u"'), Stop),
        (psycopg.OperationalError('FATAL:  database "n" does not exist'), Stop),
        (psycopg.OperationalError("server does not support SSL, but SSL was required"), Stop),
        (psycopg.OperationalError('no pg_hba.conf entry for host "h"'), Stop),
        (psycopg.InterfaceError("the connection is closed"), Retry),
    ],
)
def test_an_error_says_what_to_do_about_it(error: psycopg.Error, kind: Any) -> None:
    assert type(database.translated(error)) is kind


def test_advisory_locks_fit_a_signed_bigint_and_tell_names_apart() -> None:
    keys = {database.advisory_key("table", a, b) for a, b in [("a", "bc"), ("ab", "c"), ("", "abc")]}
    assert len(keys) == 3
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [name[:4] for name, _ in database.migrations()] == [
        f"{n:04}" for n in range(1, len(database.migrations()) + 1)
    ]
