"""The paper's tables: rows, their groups, the images made once, and the intervals."""
