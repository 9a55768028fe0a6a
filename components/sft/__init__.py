"""Stage 2, supervised fine-tuning: the model learns to answer, and to stop."""
