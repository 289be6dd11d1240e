"""What a config implies: result paths, jobs, and the resolved config of each stage."""
