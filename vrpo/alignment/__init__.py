"""Alignment losses on hidden tokens: none, REPA, VRPO, iREPA, HASTE. Knows no process."""
