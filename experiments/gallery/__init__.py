"""Every image of a table side by side, as a static page."""
