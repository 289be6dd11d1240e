"""From collected results to figures, tables and the report; nothing here imports torch."""
