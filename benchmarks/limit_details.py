"""The limit of fetching details: a bare aiohttp loop that appends the bodies of given URLs to a file.

limit_details.py URLS OUT KEY CONCURRENCY
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterator


async def main(urls: Iterator[str], out: BinaryIO, key: str, concurrency: int) -> None:
    async def work() -> None:
        for url in urls:
            async with session.get(url) as response:
                body = await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{response.status} for {url}")
            out.write(body + b"\n")

    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work() for _ in range(concurrency)))


if __name__ == "__main__":
    urls, out, key, concurrency = sys.argv[1:]
    with Path(out).open("ab") as file:
        asyncio.run(main(iter(Path(urls).read_text().split()), file, key, int(concurrency)))
