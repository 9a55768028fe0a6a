"""The first step: one configuration for all stages, the base model and the data's sources brought into the store."""
