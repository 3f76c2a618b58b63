"""From a distance field to mesh files: extraction, repair, atlas, texture, files, preview."""
