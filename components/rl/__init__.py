"""Stage 4, reinforcement learning: the policy writes, the reward model judges, PPO moves the one towards the other."""
