"""The documentation as a site: `python -m tools.site` writes build/docs from docs/, README.md,
conf/ and the docstrings."""
