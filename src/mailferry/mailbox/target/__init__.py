"""The table that rows go to, and the upsert."""
