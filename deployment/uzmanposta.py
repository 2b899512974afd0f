#!/usr/bin/python3
"""For cron lines of the older script: in its place, this hands over to the installed command `uzmanposta`."""

import os
import sys

COMMAND = "/opt/mailferry/current/bin/uzmanposta"

try:
    os.execv(COMMAND, [COMMAND, *sys.argv[1:]])
except OSError as error:
    sys.exit(f"{COMMAND}: {error.strerror}. Install mailferry: sudo ./deployment/deploy.sh install")
