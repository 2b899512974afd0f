"""The variables of `config.env` and the environment, and the settings that they fill."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """Where a variable's value goes."""

    #: "mailbox", "oauth", "database", "feed", "service", or "" for what this module sees to itself.
    model: str
    field: str
    #: "text", "secret", "path" (from the file's folder), "file" (a path with a secret in it), "bool" or "number".
    kind: str = "text"


def _variables(model: str, **fields: str) -> dict[str, Variable]:
    """NAME="field" or NAME="field:kind"."""
    split = {name: value.partition(":") for name, value in fields.items()}
    return {
        name: Variable(model=model, field=field, kind=kind or "text")
        for name, (field, _, kind) in split.items()
    }


VARIABLES: dict[str, Variable] = {
    **_variables(
        "mailbox",
        EMAIL_HOST="host",
        EMAIL_PORT="port:number",
        EMAIL_USERNAME="username",
        EMAIL_PASSWORD="password:secret",  # noqa: S106 - a field's name
        EMAIL_USE_SSL="ssl:bool",
        EMAIL_ALLOW_PLAINTEXT="allow_plaintext:bool",
        EMAIL_CA_FILE="ca_file:path",
        EMAIL_AUTH="auth",
        EMAIL_MAILDIR="path:path",
        EMAIL_FOLDER="folder",
        EMAIL_SUBJECT_FILTER="subject_filter",
        EMAIL_SENDER_FILTER="sender_filter",
        EMAIL_ATTACHMENT_FILTER="name_filter",
        EMAIL_MARK="mark",
        EMAIL_MARK_COMPLETED="mark_completed",
        EMAIL_MARK_FAILED="mark_failed",
        EMAIL_MAX_FILE_BYTES="max_file_bytes:number",
        EMAIL_TIMEOUT="read_timeout:number",
    ),
    **_variables(
        "oauth",
        EMAIL_OAUTH_PROVIDER="provider",
        EMAIL_OAUTH_CLIENT_ID="client_id",
        EMAIL_OAUTH_CLIENT_SECRET="client_secret:secret",  # noqa: S106 - a field's name
        EMAIL_OAUTH_TENANT="tenant",
        EMAIL_OAUTH_REFRESH_TOKEN="refresh_token:secret",  # noqa: S106 - a field's name
        EMAIL_OAUTH_TOKEN_ENDPOINT="token_endpoint",  # noqa: S106 - a field's name
        EMAIL_OAUTH_SCOPE="scope",
        EMAIL_OAUTH_TOKEN_FILE="token_file:path",  # noqa: S106 - a field's name
    ),
    **_variables(
        "database",
        DB_URL="url:secret",
        DB_HOST="host",
        DB_PORT="port:number",
        DB_NAME="name",
        DB_USERNAME="user",
        DB_PASSWORD="password:secret",  # noqa: S106 - a field's name
        DB_SSLMODE="sslmode",
        DB_TEMP_SCHEMA="temp_schema",
        DB_POOL_SIZE="pool_max:number",
    ),
    **_variables(
        "feed",
        DB_TARGET_TABLE="target_table",
        DB_UNIQUE_KEY="unique_key",
        DB_KEY_WIDTH="key_width:number",
        DB_UNKNOWN_COLUMNS="unknown_columns",
        FILE_SHEET="sheet",
        FILE_MAX_REJECTED="max_rejected:number",
        FILE_RETENTION_DAYS="retention_days:number",
        APP_NAME="name",
        APP_BASE_DIR="base_dir:path",
        MAX_CONCURRENT_JOBS="max_concurrent_jobs:number",
        SCHEDULE_INTERVAL_HOURS="schedule_hours:number",
        APP_SCHEDULE="schedule",
        APP_HOST="host",
        LOG_LEVEL="log_level",
    ),
    **_variables(
        "service",
        MAILFERRY_HOST="host",
        MAX_CONCURRENT_FEEDS="max_concurrent_feeds:number",
        LOG_DIR="log_dir:path",
        LOG_FORMAT="log_format",
    ),
    **_variables(
        "",
        DEBUG="debug:bool",
        EMAIL_PASSWORD_FILE=":file",  # noqa: S106 - a file's name
        EMAIL_OAUTH_CLIENT_SECRET_FILE=":file",  # noqa: S106 - a file's name
        EMAIL_OAUTH_REFRESH_TOKEN_FILE=":file",  # noqa: S106 - a file's name
        DB_URL_FILE=":file",
        DB_PASSWORD_FILE=":file",  # noqa: S106 - a file's name
    ),
}
_NO_BATCHES = "a file is one COPY and one upsert in one transaction, whatever its size"
#: Variables of the file that older services were tuned by and that nothing asks for any more; why not.
UNNEEDED = {
    "BATCH_SIZE": _NO_BATCHES,
    "DB_BATCH_SIZE": _NO_BATCHES,
    "CHUNK_SIZE": "spreadsheets are streamed, in pieces that bound the memory by themselves",
    "DB_MAX_OVERFLOW": "DB_POOL_SIZE is the most connections there can be",
}
SECRETS = tuple(name for name, variable in VARIABLES.items() if variable.kind == "secret")
