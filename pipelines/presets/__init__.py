"""Ready configurations: tiny-cpu (the example), smollm2-cpu, t4x4-1b."""
