"""The plan: what of a model one card carries, made before anything is loaded, checked, and put into words."""
