"""Stage 3, reward model: a scalar head on an adapter learns which of two answers people prefer."""
