"""Images in, arrays out: sources, HDF5 arrays, and which samples a step takes."""
