"""What steps share.

The contract that every step keeps: configuration, artifacts, store, errors, logs, without torch at import time. And
what training, evaluation and inference have in common.
"""
