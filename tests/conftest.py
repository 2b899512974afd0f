"""The real parts that tests run against, one module each."""

from hypothesis import settings

# A busy machine is no failure: what is tested here is never how long it takes.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["fixtures_postgres", "fixtures_dovecot", "fixtures_logs", "fixtures_watch"]
