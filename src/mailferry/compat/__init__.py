"""The older tools' command lines, as their users type them."""
