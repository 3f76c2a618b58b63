"""The fault tests use the S3 server of the integration tests."""

from tests.integration.conftest import s3

__all__ = ["s3"]
