"""Whatever the field, the mesh is closed, a 2-manifold, and wound outward."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from img2mesh.mesh.clean import clean
from img2mesh.mesh.extract import extract
from img2mesh.mesh.reduce import faults
from img2mesh.mesh.topology import defects


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), smoothing=st.floats(0.0, 3.0), level=st.floats(-0.5, 0.5))
def test_random_fields_become_sound_meshes(seed: int, smoothing: float, level: float) -> None:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(14, 14, 14)), smoothing)
    field = noise / noise.std() + level
    mesh = extract(field)
    assert defects(mesh, hollows=True) == ()
    assert faults(clean(mesh, faces=1000, speck_share=0.0).mesh) == ()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), zeros=st.floats(0.1, 0.6))
def test_fields_full_of_exact_zeros_become_sound_meshes(seed: int, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    field = np.where(rng.random((10, 10, 10)) < zeros, 0.0, rng.choice([-1.0, 1.0], size=(10, 10, 10)))
    field[5, 5, 5] = -1.0
    assert defects(clean(extract(field), faces=10_000, speck_share=0.0).mesh) == ()
