"""Fifty faults at random among three hosts, with traffic all the while: nothing lost, nothing twice, in order."""

from __future__ import annotations

import os
import time
from random import Random
from typing import TYPE_CHECKING

import pytest
from support_fleet import a_fleet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fixtures_dovecot import Account

    from mailferry.config.database import DatabaseSettings

FAULTS = 50


@pytest.mark.slow(150)
def test_fifty_random_faults_lose_nothing_and_double_nothing(
    tmp_path: Path, new_database: Callable[..., DatabaseSettings], account: Account, server_folder: Path
) -> None:
    """To see a failure again: MAILFERRY_SEED=<the seed that was printed> pytest ..."""
    seed = int(os.environ.get("MAILFERRY_SEED", time.time_ns() % 1_000_000))
    print(f"seed {seed}")
    random = Random(seed)
    with a_fleet(tmp_path, new_database(template=False), account, server_folder, seed=seed) as fleet:
        fleet.begin()
        for number in range(FAULTS):
            print(f"{number}: {fleet.fault(random)}")
            time.sleep(random.uniform(0, 1.5))
        fleet.end()
        fleet.assert_exactly_once()
