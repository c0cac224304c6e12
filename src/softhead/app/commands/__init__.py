"""The commands, a file for each group of them; `app/cli.py` puts them together."""
