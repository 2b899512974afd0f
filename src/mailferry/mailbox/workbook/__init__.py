"""Bytes to rows of cells: formats, the reading child, the row contract. All that the child imports is here."""
