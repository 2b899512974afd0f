"""mailferry carries mail data safely into log files and databases: nothing lost, nothing twice, in order."""

__version__ = "0.1.0"
