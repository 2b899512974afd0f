"""`python -m trackandtrace.main_service`."""

from mailferry.compat.trackandtrace import main

if __name__ == "__main__":
    main()
