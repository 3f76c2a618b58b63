"""The six stages, in the order in which one image passes through them; each module runs alone with `python -m`."""

NAMES = ("prepare", "multiview", "coarse_neus", "decode", "refit_neus", "export_mesh")
