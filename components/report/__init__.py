"""One self-contained HTML page per run: what was done, what was learnt, what it looks like."""
