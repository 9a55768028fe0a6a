"""What several tests share: a toy world that a tiny model learns in seconds, and helpers to run steps."""
