"""Which PostgreSQL to use: a given one, by its parts or by one URL, or the private one in the data folder."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path  # noqa: TC003 - pydantic needs the type when the model is made
from typing import Literal, Self

from pydantic import SecretStr, field_validator, model_validator

from mailferry.config.settings import Settings, setting

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


def is_local(host: str) -> bool:
    """Whether a libpq host (or a comma-separated list of them) never leaves this machine.

    Loopback addresses and names, and unix sockets: an absolute folder, or `@` for the abstract namespace.
    """
    return all(_is_local(one.strip()) for one in host.split(","))


def _is_local(host: str) -> bool:
    if not host or host[0] in "/@" or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class DatabaseSettings(Settings):
    """With neither `url` nor `host`, the private server in `data_dir` is meant.

    `url` holds everything by itself; `sslmode` given beside it has the last word.
    """

    host: str = setting("", "server, or folder of its socket", variable="DB_HOST", personal=True)
    port: int = setting(5432, "port", variable="DB_PORT", ge=1, le=65535)
    name: str = setting("", "database", variable="DB_NAME", personal=True)
    user: str = setting("", "user", variable="DB_USERNAME", personal=True)
    password: SecretStr = setting(SecretStr(""), "password", variable="DB_PASSWORD")
    sslmode: SslMode | None = setting(
        None,
        "as libpq knows it; left out: `require`, or `prefer` where the host is local",
        variable="DB_SSLMODE",
    )
    url: SecretStr | None = setting(None, "postgresql://, in place of the parts", variable="DB_URL")
    temp_schema: str = setting("temp_processing", "schema of the staging tables", variable="DB_TEMP_SCHEMA")
    pool_min: int = setting(1, "connections kept open", ge=0, le=100)
    #: A run takes up to three: to be the only one, to load, and to renew its claim meanwhile.
    pool_max: int = setting(4, "connections at most", variable="DB_POOL_SIZE", ge=3, le=100)
    #: Reading and copying one workbook is one statement.
    statement_timeout: float = setting(1800, "seconds that one statement may take", gt=0, le=86_400)
    lock_timeout: float = setting(300, "seconds to wait for another session's lock", gt=0, le=86_400)
    #: The private server lives in its folder `postgres`.
    data_dir: Path | None = None

    @property
    def private(self) -> bool:
        """Whether the private server is meant."""
        return self.url is None and not self.host

    @field_validator("url")
    @classmethod
    def _url_is_libpq(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql:// (a driver such as +psycopg2 is not part of it)")
        return url

    @field_validator("temp_schema")
    @classmethod
    def _schema_is_a_name(cls, name: str) -> str:
        if not name or len(name.encode()) > 63 or "\0" in name:
            raise ValueError("must be a schema name of 1 to 63 bytes")
        if name.startswith("pg_"):
            raise ValueError("must not start with pg_, PostgreSQL keeps those names for itself")
        return name

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.pool_min > self.pool_max:
            raise ValueError(f"`pool_min` {self.pool_min} is more than `pool_max` {self.pool_max}")
        if self.url is not None:
            return self
        if self.host:
            missing = [option for option in ("name", "user") if not getattr(self, option)]
            if missing:
                raise ValueError(f"a database host is given, but no {' and no '.join(missing)}")
        elif self.data_dir is None:
            raise ValueError("neither a database host nor a data folder for the private one is given")
        return self
