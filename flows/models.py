"""`img2mesh models pull`: published checkpoints, fetched once and converted."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from img2mesh.errors import InputError, TransientError
from img2mesh.models.home import pulled_home

# Repository on the hub, folder in it, and where the folder goes below a mirror.
PARTS = (
    ("flamehaze1115/wonder3d-v1.0", "unet", "unet"),
    ("flamehaze1115/wonder3d-v1.0", "vae", "vae"),
    ("flamehaze1115/wonder3d-v1.0", "image_encoder", "image_encoder"),
    ("flamehaze1115/wonder3d-v1.0", "scheduler", "scheduler"),
    ("stabilityai/stable-video-diffusion-img2vid", "vae", "svd/vae"),
)
# The commit that is fetched unless a person names another; the newest of a repository that is not listed.
REVISIONS = {"stabilityai/stable-video-diffusion-img2vid": "9cf024d5bfa8f56622af86c884f26a52f6676f2e"}
NOTICE = """\
The preset wonder3d uses weights that are not part of img2mesh and have licences of their own:

  flamehaze1115/wonder3d-v1.0 (UNet, autoencoder, image encoder): the model page says AGPL-3.0, though the authors' code is MIT.
    The AGPL asks you to offer your users the source if they use it over a network.
    Trained from lambdalabs/sd-image-variations-diffusers (CreativeML OpenRAIL-M) with CLIP ViT-L/14 (MIT).
  stabilityai/stable-video-diffusion-img2vid (temporal autoencoder): a licence by Stability AI with limits on commercial use.

Read them at https://huggingface.co/flamehaze1115/wonder3d-v1.0 and
https://huggingface.co/stabilityai/stable-video-diffusion-img2vid before you accept. About 3 GB are fetched.
"""


def pull(
    family: str,
    *,
    source: str | None,
    target: Path | None,
    accepted: bool,
    say: Callable[[str], None],
    revisions: Sequence[str] = (),
) -> Path:
    """Fetch and convert a family of published checkpoints.

    Args:
        family: `wonder3d`.
        source: A folder or s3://bucket/prefix laid out as on the hub; the hub itself if None.
        target: Folder of pulled weights, see `models.home.pulled_home`.
        accepted: Whether the person accepts the licences.
        say: Is told the notice, and what is being done.
        revisions: `repository@commit` of the hub to fetch instead of `REVISIONS`, or than the newest.

    Returns:
        The folder of the family's weights files.

    Raises:
        InputError: The family is unknown, the licences are not accepted, or the checkpoint is not what it should be.
        TransientError: The hub or the bucket is out of reach.
    """
    if family != "wonder3d":
        raise InputError(f"unknown family {family!r}: only wonder3d is published")
    say(NOTICE)
    if not accepted:
        raise InputError("nothing was fetched; to accept the licences above, run the command again with --accept-licence")
    folder = (target or pulled_home()) / family
    commits = REVISIONS | dict(map(_revision, revisions))
    with _checkpoint(source, commits, say) as (checkpoint, fetched):
        from img2mesh.models.published import convert

        digests = convert(checkpoint, folder, say, fetched)
    for name, sha256 in digests.items():
        say(f"{folder / name} sha256 {sha256}")
    if target is not None and target.resolve() != pulled_home().resolve():
        say(f"set IMG2MESH_WEIGHTS={target.resolve()} where it is to be used")
    return folder


def _revision(text: str) -> tuple[str, str]:
    repository, _, commit = text.partition("@")
    known = sorted({repository for repository, _, _ in PARTS})
    if repository not in known or not commit:
        raise InputError(f"unknown revision {text!r}: expected REPOSITORY@COMMIT with one of {', '.join(known)}")
    return repository, commit


@contextlib.contextmanager
def _checkpoint(
    source: str | None, commits: Mapping[str, str], say: Callable[[str], None]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder laid out as on the hub and the commit of each part; what was copied is removed afterwards."""
    if source is not None and not source.startswith("s3://"):
        folder = Path(source.removeprefix("file://"))
        if not folder.is_dir():
            raise InputError(f"{source} is no folder: give one that holds unet, vae, image_encoder, scheduler and svd/vae")
        yield folder, {}
        return
    with tempfile.TemporaryDirectory(prefix="img2mesh-pull-") as name:
        folder = Path(name)
        if source is None:
            yield folder, _from_hub(folder, commits, say)
        else:
            _from_bucket(source, folder, say)
            yield folder, {}


def _from_bucket(source: str, folder: Path, say: Callable[[str], None]) -> None:
    from img2mesh.storage import open_store

    store = open_store(source)
    for _, _, place in PARTS:
        for key in store.list(f"{place}/"):
            say(f"fetching {source.rstrip('/')}/{key}")
            data = store.read(key)
            if data is None:
                raise TransientError(f"{source.rstrip('/')}/{key} went away while it was fetched; try again")
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _from_hub(folder: Path, commits: Mapping[str, str], say: Callable[[str], None]) -> dict[str, str]:
    """Fetch through the hub's own client, which keeps a cache, resumes, and under HF_HUB_OFFLINE asks nobody.

    Returns:
        `repository@commit` of each part, by its place below the folder.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    fetched = {}
    for repository, part, place in PARTS:
        say(f"fetching {repository}/{part}")
        try:
            snapshot = snapshot_download(
                repository,
                revision=commits.get(repository),
                allow_patterns=[f"{part}/*"],
                ignore_patterns=["*.onnx", "*.msgpack"],
            )
        except GatedRepoError as error:
            raise InputError(
                f"{repository} asks you to accept its licence on its page and to log in (`hf auth login`)"
            ) from error
        except LocalEntryNotFoundError as error:
            offline = "HF_HUB_OFFLINE is set and" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached and"
            raise TransientError(f"{offline} {repository} is not in the cache; give a mirror with --from") from error
        except (HfHubHTTPError, OSError) as error:
            raise TransientError(
                f"cannot fetch {repository}: {str(error).splitlines()[0]}; try again, or use --from"
            ) from error
        destination = folder / place
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(Path(snapshot) / part, destination, copy_function=os.symlink)
        # The client names a snapshot's folder after its commit.
        fetched[place] = f"{repository}@{Path(snapshot).name}"
    return fetched
