"""How information moves between the condition, the related region and the rest of an image while it is made."""
