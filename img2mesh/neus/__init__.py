"""Native NeuS: a signed distance on a sparse band of voxels, fitted to posed views. Conventions: docs/conventions.md.

`config` says what can be set and imports no torch, `fit` is the entry, `surface` is what it returns.
"""
