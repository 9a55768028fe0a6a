"""Runs a step: as a process of this machine, or as a job of a cluster. The pipeline's components call nothing else."""
