"""The older script's name, for `python -m uzmanposta`; the work is done by mailferry."""
