"""Source rows → one normal form → token tables: what every training stage reads."""
