"""The reference of mailbox feeds: what services of this kind are usually built of.

The workbook is read once to be looked at and once to be loaded (pandas on openpyxl), goes into a staging table with
`to_sql(method="multi")`, and from there into the table by one upsert.

reference_pandas.py URL TABLE FILE
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from shipments import COLUMNS, KEY, upsert_sql

# Not among the locked packages of development, so the type checker never sees them.
pandas: Any = import_module("pandas")
sqlalchemy: Any = import_module("sqlalchemy")


def main(url: str, table: str, path: str) -> None:
    looked_at = pandas.read_excel(path, engine="openpyxl")
    missing = {name for name, _ in COLUMNS} - set(looked_at.columns)
    if missing:
        raise SystemExit(f"columns are missing: {missing}")
    frame = pandas.read_excel(path, engine="openpyxl").drop_duplicates(KEY, keep="last")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        frame.to_sql("staged", connection, if_exists="replace", index=False, method="multi", chunksize=1000)
        connection.execute(sqlalchemy.text(upsert_sql(table, "staged")))
        connection.execute(sqlalchemy.text("DROP TABLE staged"))


if __name__ == "__main__":
    main(*sys.argv[1:])
