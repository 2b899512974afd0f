"""`python -m uzmanposta`."""

from mailferry.compat.uzmanposta import main

main()
