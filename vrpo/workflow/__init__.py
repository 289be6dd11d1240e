"""What a workflow needs around its jobs: checks before the first one, and results that are kept."""
