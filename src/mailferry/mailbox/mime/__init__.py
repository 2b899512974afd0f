"""The structure of a message: MIME, headers, transfer encodings. Bytes in, values out; no I/O but reading."""
