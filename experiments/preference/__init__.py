"""The blinded survey of the human study, and its tally."""
