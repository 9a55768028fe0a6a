"""Stage 1, continued pre-training: the base learns the language of a domain from plain documents."""
