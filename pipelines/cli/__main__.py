"""`python -m pipelines.cli`, for where another `rlhf` is on PATH."""

from pipelines.cli import main

if __name__ == "__main__":
    main(prog_name="rlhf")
