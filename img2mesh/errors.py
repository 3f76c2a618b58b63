"""Errors by who acts on them.

Img2MeshError
├── InputError       exit 2   the caller's data is wrong: fix it; never retried
├── ArtifactError    exit 3   a blob is missing or corrupt: its producer is run again
├── NumericalError   exit 4   not finite, or an empty level set: retried once with the next seed
└── TransientError   exit 75  network, storage, pre-emption: back off and try again

A message is one line: what was expected, what was found, which file or camera, and what to do.
"""

from typing import ClassVar


class Img2MeshError(Exception):
    """An error with a message for a person and an exit code for a script."""

    exit_code: ClassVar[int] = 1


class InputError(Img2MeshError):
    """The caller's data is wrong."""

    exit_code = 2


class ArtifactError(Img2MeshError):
    """A stored blob or manifest is missing, truncated or does not match its digest."""

    exit_code = 3


class NumericalError(Img2MeshError):
    """A computation gave a value that is not finite, or no surface at all."""

    exit_code = 4


class TransientError(Img2MeshError):
    """Something outside failed that may work when tried again."""

    exit_code = 75
