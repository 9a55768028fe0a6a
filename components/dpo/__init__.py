"""Direct preference optimisation: the policy learns from pairs at once, without a reward model or rollouts."""
