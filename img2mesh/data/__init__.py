"""Textured objects and their rendered views, and the preparation of submitted pictures."""
