"""What became of every message and file: jobs, leases, records."""
