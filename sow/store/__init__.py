"""Results kept by their content, in memory and on disk, and files that appear whole."""
