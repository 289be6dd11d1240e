"""The method benchmark: the search rule, the verdict, their tables and figures.

Nothing here imports torch.
"""
