"""Wonder3D's published cameras: two sets of poses under the same names, and the labels made from one of them.

Both sets are 3x4 matrices from the world to the camera, OpenGL axes, orthographic, in a world with z up whose unit is the
object's bounding-box diagonal; the frame spans 1.35 of it. The diagonal cameras stand at 1.8385 from the object, the others at
1.3. In the front camera's own frame the two sets are one and the same rig: about its y axis at 0, 45, 90, 180, 270 and 315
degrees, which is `cameras.VIEW_AZIMUTHS_DEG`.

`RECONSTRUCTION_POSES` is the set that surfaces are fitted with: the front camera looks along +y. `LABEL_POSES` is the same rig
turned about an oblique axis, so that the front camera stands 15 degrees above the horizon. The network's labels are differences
of its cameras' polar angles and azimuths, which change when a rig is turned: they say that the right view, 90 degrees from the
front, is 97 degrees away and 10 higher. The authors call this an error (issues 72 and 123 of their repository). The checkpoint
was trained with it, so it wants these numbers and no better ones; geometry never sees them.

Source: Long et al., Wonder3D, 2023, and its published code (xxlong0/Wonder3D at d894f82).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from img2mesh.geometry.cameras import Cameras

Row4 = tuple[float, float, float, float]
Matrix3x4 = tuple[Row4, Row4, Row4]

# Side of the orthographic frame, in diagonals of the object's bounding box.
ORTHO_SCALE = 1.35
# Each camera from the world: rotation and translation, OpenGL axes.
RECONSTRUCTION_POSES: dict[str, Matrix3x4] = {
    "front": (
        (1.0, 0.0, 0.0, 0.0),
        (0.0, -1.3435886e-07, 1.0000001, -1.7466651e-07),
        (0.0, -1.0000001, -1.3435886e-07, -1.3000001),
    ),
    "front_right": (
        (0.70710677, 0.7071068, 0.0, 1.1920929e-07),
        (0.0, -7.5876166e-08, 1.0000001, -9.863901e-08),
        (0.7071068, -0.7071068, -7.5876166e-08, -1.8384777),
    ),
    "right": (
        (-2.220446e-16, 1.0, 0.0, 2.8865798e-16),
        (0.0, -2.220446e-16, 1.0, 0.0),
        (1.0, 0.0, -2.220446e-16, -1.3),
    ),
    "back": (
        (-1.0000002, 0.0, 0.0, 0.0),
        (0.0, -1.3435886e-07, 1.0000001, 1.7466651e-07),
        (0.0, 1.0000001, -1.3435886e-07, -1.3000001),
    ),
    "left": (
        (-2.220446e-16, -1.0, 0.0, -2.8865798e-16),
        (0.0, -2.220446e-16, 1.0, 0.0),
        (-1.0, 0.0, -2.220446e-16, -1.3),
    ),
    "front_left": (
        (0.70710677, -0.7071068, 0.0, -1.1920929e-07),
        (0.0, -7.5876166e-08, 1.0000001, -9.863901e-08),
        (-0.7071068, -0.7071068, -7.5876166e-08, -1.8384777),
    ),
}
LABEL_POSES: dict[str, Matrix3x4] = {
    "front": (
        (0.52665836, -0.7410295, 0.41654074, 0.0),
        (5.865639e-08, 0.49000356, 0.87172043, 9.4623516e-08),
        (-0.85007703, -0.45909882, 0.25806454, -1.3000001),
    ),
    "front_right": (
        (0.97349894, -0.19935519, 0.1120597, -1.4156103e-07),
        (3.7902246e-09, 0.4900035, 0.8717205, -1.7722036e-07),
        (-0.22869164, -0.8486189, 0.47701788, -1.8384776),
    ),
    "right": (
        (0.85007703, 0.4590989, -0.25806445, 5.9604645e-08),
        (-4.257411e-08, 0.4900035, 0.8717205, -9.0060674e-08),
        (0.52665836, -0.74102956, 0.41654074, -1.3000001),
    ),
    "back": (
        (-0.5266583, 0.7410295, -0.41654074, -5.9604645e-08),
        (5.865639e-08, 0.49000356, 0.87172043, -9.4623516e-08),
        (0.85007703, 0.45909882, -0.25806448, -1.3000001),
    ),
    "left": (
        (-0.85007715, -0.4590989, 0.25806445, 0.0),
        (-4.257411e-08, 0.4900035, 0.8717205, 9.0060674e-08),
        (-0.52665836, 0.74102956, -0.41654083, -1.3000001),
    ),
    "front_left": (
        (-0.2286917, -0.848619, 0.4770179, -2.4586916e-07),
        (9.085838e-09, 0.49000347, 0.87172055, 1.2056957e-07),
        (-0.973499, 0.19935517, -0.112059765, -1.838478),
    ),
}
# Polar angle and azimuth of each of `LABEL_POSES` relative to the front, radians; the azimuth in [0, 2 pi).
LABEL_ANGLES_RAD: dict[str, tuple[float, float]] = {
    "front": (0.0, 0.0),
    "front_right": (-0.23624035948148325, 0.8123775062080356),
    "right": (-0.1686187057177988, 1.693489778395175),
    "back": (0.5220365262258044, 3.1415926964096164),
    "left": (0.6906553380278071, 4.835082480343642),
    "front_left": (0.3733138948791861, 5.5860105729413165),
}


def published_cameras(poses: dict[str, Matrix3x4], *, size_px: int) -> Cameras:
    """The cameras of a published set in this project's frame: that of the set's front camera, half the frame being 1.

    Args:
        poses: `RECONSTRUCTION_POSES` or `LABEL_POSES`.
        size_px: Width and height of the square images.
    """
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    camera_from_world = [torch.cat([torch.tensor(pose, dtype=torch.float64), bottom]) for pose in poses.values()]
    opengl_from_opencv = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    # The front camera's axes about the object's centre are the world's here.
    front_from_world = torch.eye(4, dtype=torch.float64)
    front_from_world[:3, :3] = camera_from_world[0][:3, :3]
    placed = torch.stack([front_from_world @ torch.linalg.inv(pose) @ opengl_from_opencv for pose in camera_from_world])
    placed[:, :3, 3] *= 2 / ORTHO_SCALE
    count = len(poses)
    return Cameras(
        projection="orthographic",
        world_from_camera=placed.float(),
        focal_px=torch.full((count,), size_px / 2),
        centre_px=torch.full((count, 2), size_px / 2),
        width_px=size_px,
        height_px=size_px,
    )


def polar_and_azimuth(poses: dict[str, Matrix3x4]) -> Float[Tensor, "view 2"]:
    """Spherical coordinates of each camera's centre, relative to the front's, radians; the azimuth in [0, 2 pi)."""
    matrices = torch.tensor(list(poses.values()), dtype=torch.float64)
    centres = -(matrices[:, :, :3].mT @ matrices[:, :, 3:])[..., 0]
    polar = torch.acos(centres[:, 2] / centres.norm(dim=1))
    azimuth = torch.atan2(centres[:, 1], centres[:, 0])
    # A front that rounding puts a hair below zero is not a whole turn away.
    turned = (azimuth - azimuth[0]).remainder(2 * torch.pi)
    return torch.stack([polar - polar[0], torch.where(turned > 2 * torch.pi - 1e-6, 0, turned)], dim=1)
