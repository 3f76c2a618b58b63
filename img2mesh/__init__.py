"""img2mesh: a folder of pictures becomes clean textured meshes."""

__version__ = "0.1.0"
