"""Scores of a mesh against the true one under four protocols, by name.

Numbers of different papers do not compare, because each moves, samples and counts in its own way. Here one pair of meshes is
scored in all of them. +y is up.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial import cKDTree

from img2mesh.metrics.mesh import compare_surfaces, sample_surface
from img2mesh.metrics.visible import (
    Bools,
    Floats,
    Triangles,
    carved,
    caster,
    depth_maps,
    first_hits,
    grid_centres,
    normalisation,
    thinned,
    visible_points,
    volume_iou,
)

Scores = dict[str, float]

# Of the F-score under our protocol, in units of the longest side.
THRESHOLDS = (0.02, 0.05)
# SyncDreamer's sixteen cameras: azimuths 22.5 degrees apart.
SYNC_VIEWS, SYNC_ELEVATION_DEG, SYNC_DISTANCE, SYNC_FOCAL_PX, SYNC_SIZE_PX = 16, 30.0, 1.5, 280.0, 256
SYNC_GRID = 64
# Pairs further apart than this are no correspondences of ICP. MVDiffusion++ does not say what it took.
ICP_REACH, ICP_STEPS = 0.1, 100
SPAR3D_THRESHOLDS = (0.1, 0.2, 0.5)
SPAR3D_POINTS = 10_000
# Azimuths, elevations and rolls that are tried, and points that suffice to tell which of them is best.
SEARCH_STEPS, SEARCH_POINTS, SEARCH_KEPT = (24, 24, 12), 128, 8


def score_visible(mesh: Triangles, truth: Triangles) -> Scores:
    """Ours, made for objects that are not closed: each mesh centred with its longest side 1, no ICP.

    Points and solids are what depth maps from 42 directions show: Chamfer distance is the mean of the two mean distances to the
    nearest point; the solid is what the same maps do not carve away, at 64^3; F-scores are named by their thresholds.
    """
    maps = [depth_maps(m.moved(*normalisation(m))) for m in (mesh, truth)]
    points, true_points = (visible_points(m) for m in maps)
    return {
        "chamfer": compare_surfaces(points, true_points, threshold=THRESHOLDS[0]).chamfer,
        "volume_iou": volume_iou(carved(maps[0]), carved(maps[1])),
        **f_scores(points, true_points, THRESHOLDS),
    }


def score_syncdreamer(mesh: Triangles, truth: Triangles) -> Scores:
    """SyncDreamer's: both meshes moved as one, such that the truth is centred with its longest side 1.

    Points come from perspective depth maps (16 azimuths, elevation 30 degrees, distance 1.5, focal length 280 px at 256 px),
    thinned to one a cube of side 0.01; Chamfer distance is the mean of the two mean distances. The solid is the inside by
    parity of crossings, on 64^3 points over [-1, 1]^3, of which the object fills at most an eighth.

    Their sign comes from mesh2sdf, which counts crossings along one axis; here along rays of open3d's choice. For closed meshes
    that is the same. Their true points come from Blender's depth maps through the same cameras.

    Source: Liu et al., SyncDreamer, 2023, and the evaluation code published with it.
    """
    offset, scale = normalisation(truth)
    moved, moved_truth = mesh.moved(offset, scale), truth.moved(offset, scale)
    return _sync_scores(moved, moved_truth, sync_points(moved), sync_points(moved_truth))


def score_mvdiffusion_plus_plus(mesh: Triangles, truth: Triangles) -> Scores:
    """MVDiffusion++'s: SyncDreamer's scores after the mesh has been registered to the truth by ICP.

    Each mesh is first centred with its longest side 1 by itself, since methods with other frames are what ICP is there for. ICP
    is rigid, between the points that are scored. Reach and steps of ICP are not published: here 0.1 and 100.

    Source: Tang et al., MVDiffusion++, 2024, section 5; SyncDreamer's sampling and grid.
    """
    moved, moved_truth = (m.moved(*normalisation(m)) for m in (mesh, truth))
    true_points = sync_points(moved_truth)
    transform = register(sync_points(moved), true_points)
    aligned = Triangles(vertices=moved.vertices @ transform[:3, :3].T + transform[:3, 3], faces=moved.faces)
    return _sync_scores(aligned, moved_truth, sync_points(aligned), true_points)


def score_spar3d(mesh: Triangles, truth: Triangles) -> Scores:
    """SPAR3D's: each mesh centred with its longest side 2, turned as fits best, then ICP; 10,000 points by area, no volume.

    SPAR3D has published no evaluation code. Its tables have Chamfer distance and F-scores at 0.1, 0.2 and 0.5. From the
    published evaluation of ZeroShape, by its first author: 10,000 points spread by area, Chamfer distance as the mean of the
    two mean distances, and the best of 24 azimuths, 24 elevations and 12 rolls. Our reading, since thresholds and values then
    fit together: the longest side is 2. Our choice: rotations are ranked by 128 points, and the best eight refined by ICP.

    Source: Huang et al., SPAR3D, 2025; Huang et al., ZeroShape, 2023.
    """
    points, true_points = (
        2 * sample_surface(m.moved(*normalisation(m)).vertices, m.faces, SPAR3D_POINTS, seed=seed)
        for seed, m in enumerate((mesh, truth))
    )
    best = min((_turned(points, true_points, r) for r in _likely_rotations(points, true_points)), key=lambda p: p[0])[1]
    return {
        "chamfer": compare_surfaces(best, true_points, threshold=0.1).chamfer,
        **f_scores(best, true_points, SPAR3D_THRESHOLDS),
    }


PROTOCOLS: dict[str, Callable[[Triangles, Triangles], Scores]] = {
    "img2mesh": score_visible,
    "syncdreamer": score_syncdreamer,
    "mvdiffusion++": score_mvdiffusion_plus_plus,
    "spar3d": score_spar3d,
}


def f_scores(points: Floats, truth: Floats, thresholds: Sequence[float]) -> Scores:
    """Harmonic mean of the shares of points within each threshold of the other surface, named `f_score_<threshold>`."""
    ahead, back = cKDTree(truth).query(points)[0], cKDTree(points).query(truth)[0]
    scores: Scores = {}
    for threshold in thresholds:
        precision, recall = float((ahead <= threshold).mean()), float((back <= threshold).mean())
        scores[f"f_score_{threshold:g}"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return scores


def _sync_scores(mesh: Triangles, truth: Triangles, points: Floats, true_points: Floats) -> Scores:
    return {
        "chamfer": compare_surfaces(points, true_points, threshold=0.05).chamfer,
        "volume_iou": volume_iou(parity_solid(mesh), parity_solid(truth)),
    }


def sync_points(mesh: Triangles) -> Floats:
    """Points [point, 3] of the mesh that SyncDreamer's sixteen cameras see, thinned."""
    scene, pixels = caster(mesh), np.arange(SYNC_SIZE_PX) + 0.5 - SYNC_SIZE_PX / 2
    down, across = np.meshgrid(pixels / SYNC_FOCAL_PX, pixels / SYNC_FOCAL_PX, indexing="ij")
    local = np.stack([across, down, np.ones_like(down)], axis=-1).reshape(-1, 3)
    elevation, found = np.radians(SYNC_ELEVATION_DEG), []
    for azimuth in np.arange(SYNC_VIEWS) * 2 * np.pi / SYNC_VIEWS:
        right = np.array([np.cos(azimuth), 0.0, -np.sin(azimuth)])
        forward = -np.array([np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)])
        directions = local @ np.stack([right, np.cross(forward, right), forward])
        origins = np.broadcast_to(-SYNC_DISTANCE * forward, directions.shape)
        depth = first_hits(scene, origins, directions)
        hit = np.isfinite(depth)
        found.append(origins[hit] + depth[hit, None] * directions[hit])
    return thinned(np.concatenate(found))


def parity_solid(mesh: Triangles, *, side: int = SYNC_GRID) -> Bools:
    """Which points of a grid over [-1, 1]^3 are inside: most of three rays from there cross the mesh an odd number of times."""
    import open3d

    centres = np.ascontiguousarray(grid_centres(side, half_extent=1.0), dtype=np.float32)
    inside = caster(mesh).compute_occupancy(open3d.core.Tensor.from_numpy(centres), nthreads=1, nsamples=3).numpy()
    return np.asarray(inside > 0.5).reshape(side, side, side)


def register(points: Floats, truth: Floats) -> Floats:
    """The rigid transform [4, 4] that ICP finds from the points to the truth, started from the identity."""
    import open3d

    registration = open3d.pipelines.registration
    clouds = [open3d.geometry.PointCloud(open3d.utility.Vector3dVector(p)) for p in (points, truth)]
    answer = registration.registration_icp(
        clouds[0],
        clouds[1],
        ICP_REACH,
        np.eye(4),
        registration.TransformationEstimationPointToPoint(),
        registration.ICPConvergenceCriteria(max_iteration=ICP_STEPS),
    )
    return np.array(answer.transformation, dtype=np.float64)


def _likely_rotations(points: Floats, truth: Floats) -> Floats:
    """The rotations [rotation, 3, 3] of the search whose Chamfer distance between few points is least, best first."""
    from scipy.spatial.transform import Rotation

    azimuths, elevations, rolls = (np.arange(n) * turn / n for n, turn in zip(SEARCH_STEPS, (360, 180, 360), strict=True))
    elevations = elevations - 90
    angles = np.stack(np.meshgrid(azimuths, elevations, rolls, indexing="ij"), axis=-1).reshape(-1, 3)
    rotations = Rotation.from_euler("yxz", angles, degrees=True).as_matrix()
    few, few_true = points[:SEARCH_POINTS], truth[:SEARCH_POINTS]
    ahead = cKDTree(truth[: 4 * SEARCH_POINTS]).query(np.einsum("rij,pj->rpi", rotations, few))[0]
    back = cKDTree(points[: 4 * SEARCH_POINTS]).query(np.einsum("rji,pj->rpi", rotations, few_true))[0]
    order = np.argsort(ahead.mean(axis=1) + back.mean(axis=1), kind="stable")
    return np.asarray(rotations[order[:SEARCH_KEPT]])


def _turned(points: Floats, truth: Floats, rotation: Floats) -> tuple[float, Floats]:
    """Chamfer distance and points after one rotation of the search and ICP."""
    turned = points @ rotation.T
    transform = register(turned, truth)
    aligned: Floats = turned @ transform[:3, :3].T + transform[:3, 3]
    return compare_surfaces(aligned, truth, threshold=0.1).chamfer, aligned
