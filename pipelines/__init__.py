"""What composes the steps and drives them: pipelines, presets, examples, command line."""
