"""What holds files without being one: S/MIME, winmail.dat, forwarded messages, uuencode. Bytes in, parts out; no I/O but reading."""
