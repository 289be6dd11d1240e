"""Alignment losses on hidden tokens, from none to VRPO. Knows no process."""
