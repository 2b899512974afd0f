"""Configuration: one model; a reader for each format that people have."""
