"""The last measurement: the final model against the base on held-out prompts, loaded as a user would load it."""
