"""Event feeds: a provider's events -> ordered hourly files."""
