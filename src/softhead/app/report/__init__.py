"""``softhead report``: a page about a model and the rows that it is scored on."""
