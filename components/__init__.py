"""What runs inside containers: one folder per pipeline step, and `common` for what they share."""
