"""The embedded world's models, trained and measured."""
