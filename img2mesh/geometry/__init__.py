"""Cameras, rays, depth and epipolar geometry. Conventions: docs/conventions.md."""
