"""`python -m mailferry`."""

from mailferry.cli import main

main()
