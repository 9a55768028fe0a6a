"""Runs a step: as a process of this machine now, as a PyTorchJob on a cluster. The KFP components call nothing else."""
