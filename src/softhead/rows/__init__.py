"""Rows that need not fit in memory: files, folders and anything else that gives them block by block."""
