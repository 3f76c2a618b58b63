"""Blobs and manifests over `file://` and `s3://`."""
