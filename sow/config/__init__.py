"""From a command line to typed components."""
