"""What a run will take: memory of each GPU, time and transfers of every stage, computed before anything is started."""
