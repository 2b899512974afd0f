"""The older service's name, for `python -m trackandtrace.main_service`; the work is done by mailferry."""
