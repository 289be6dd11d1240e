"""Device, precision, process groups and what a machine is; knows nothing of networks."""
