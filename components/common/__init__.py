"""The contract every step keeps: configuration, artifacts, store, errors, logs. No torch at import time."""
