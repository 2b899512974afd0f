"""The status page, its API and its health probes. Imported only where the page is served."""
