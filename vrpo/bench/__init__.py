"""Measurements of speed and memory, against others' implementations where there are some."""
