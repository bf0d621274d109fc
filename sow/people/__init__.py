"""The embedded world: drawn people in scenes, their captions, and the models trained on them."""
