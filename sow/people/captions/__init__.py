"""The words of the embedded world: its attributes, captions of them, and captions read back."""
