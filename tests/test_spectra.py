"""alpha-ReQ and LiDAR against NumPy in float64, spectra that are known, and input that has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax import diagnostics, sharding
from ssljax.types import BadInputError
from tests.oracles.losses_oracles import normals

alpha_req = jax.jit(diagnostics.alpha_req, static_argnums=1)
lidar = jax.jit(diagnostics.lidar)


def alpha_by_hand(z, first=6, last=100, smallest=1e-9):
    """By `numpy.polyfit`, whose weights multiply the residuals."""
    z = np.asarray(z, np.float64)
    eigenvalues = np.linalg.eigvalsh(np.cov(z.T))[::-1][: len(z) - 1]
    eigenvalues = eigenvalues[eigenvalues > smallest]
    ranks = np.arange(1, len(eigenvalues) + 1)
    first = first if np.sum((ranks >= first) & (ranks <= last)) >= 3 else 1
    fitted = (ranks >= first) & (ranks <= last)
    return -np.polyfit(np.log(ranks[fitted]), np.log(eigenvalues[fitted]), 1, w=ranks[fitted] ** -0.5)[0]


def lidar_by_hand(z, delta=1e-4):
    z = np.asarray(z, np.float64)
    count, views, width = z.shape
    means, middle = z.mean(1), z.mean((0, 1))
    between = sum(np.outer(mean - middle, mean - middle) for mean in means) / (count - 1)
    pairs = [(row, mean) for rows, mean in zip(z, means, strict=True) for row in rows]
    within = sum(np.outer(row - mean, row - mean) for row, mean in pairs) / (count * (views - 1))
    values, vectors = np.linalg.eigh(within + delta * np.eye(width))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    found = np.maximum(np.linalg.eigvalsh(root @ between @ root), 0)[::-1][: min(count, width)]
    share = found / found.sum() + 1e-7
    return np.exp(-np.sum(share * np.log(share)))


def with_spectrum(eigenvalues, rows, seed=0):
    """Centred rows whose covariance has exactly these eigenvalues."""
    random, width = np.random.default_rng(seed), len(eigenvalues)
    left = random.normal(size=(rows, width))
    left = np.linalg.qr(left - left.mean(0, keepdims=True))[0]
    right = np.linalg.qr(random.normal(size=(width, width)))[0]
    return ((left * np.sqrt((rows - 1) * np.asarray(eigenvalues))) @ right).astype(np.float32)


@pytest.mark.parametrize(("rows", "width"), [(24, 10), (16, 20), (200, 130)])
def test_alpha_by_hand_on_every_mesh(each_mesh, rows, width):
    (z,) = normals(rows, (rows, width))
    np.testing.assert_allclose(alpha_req(sharding.shard(jnp.asarray(z))), alpha_by_hand(z), rtol=1e-4)


@pytest.mark.parametrize(("count", "views", "width"), [(8, 3, 5), (16, 2, 12), (8, 2, 40)])
def test_lidar_by_hand_on_every_mesh(each_mesh, count, views, width):
    centres, noise = normals(count, (count, 1, width), (count, views, width))
    z = centres + 0.3 * noise
    np.testing.assert_allclose(lidar(sharding.shard(jnp.asarray(z))), lidar_by_hand(z), rtol=1e-3)


@settings(deadline=None, max_examples=8)
@given(st.integers(3, 30), st.integers(2, 30), st.integers(0, 9))
def test_alpha_of_any_shape_is_the_hand_s(rows, width, seed):
    (z,) = normals(seed, (rows, width))
    got = float(diagnostics.alpha_req(jnp.asarray(z)))
    np.testing.assert_allclose(got, alpha_by_hand(z), rtol=2e-3, atol=2e-3)


@settings(deadline=None, max_examples=8)
@given(st.integers(2, 12), st.integers(2, 5), st.integers(1, 30), st.integers(0, 9))
def test_lidar_of_any_shape_is_the_hand_s_and_in_its_range(count, views, width, seed):
    centres, noise = normals(seed, (count, 1, width), (count, views, width))
    z = centres + noise
    got = float(diagnostics.lidar(jnp.asarray(z)))
    np.testing.assert_allclose(got, lidar_by_hand(z), rtol=1e-2)
    assert 1 - 1e-5 < got < min(count - 1, width) + 1e-3


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_alpha_of_a_power_law_is_its_exponent(exponent):
    z = with_spectrum(np.arange(1, 129.0) ** -exponent, 300)
    np.testing.assert_allclose(alpha_req(z), exponent, atol=1e-3)
    np.testing.assert_allclose(alpha_req(1000 * z + 3), exponent, atol=1e-3)


def test_alpha_does_not_look_at_ranks_outside_the_range_or_below_rounding():
    eigenvalues = np.arange(1, 129.0) ** -1.0
    eigenvalues[:5], eigenvalues[100:] = 50, 1e-3
    z = with_spectrum(eigenvalues, 300)
    np.testing.assert_allclose(alpha_req(z), 1, atol=1e-3)
    assert abs(float(alpha_req(z, (1, 128))) - 1) > 0.1
    # forty directions, copied into three times as many columns: the other eigenvalues are rounding
    narrow = with_spectrum(np.arange(1, 41.0) ** -1.0, 300)
    np.testing.assert_allclose(alpha_req(np.tile(narrow, 3) + 5), 1, atol=1e-2)


def test_alpha_of_few_eigenvalues_starts_at_the_first():
    z = with_spectrum(np.arange(1, 8.0) ** -1.5, 50)
    np.testing.assert_allclose(alpha_req(z), 1.5, atol=1e-3)


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_lidar_counts_the_directions_in_which_pictures_differ(directions):
    random = np.random.default_rng(0)
    centres = np.zeros((400, 1, 16))
    centres[:, :, :directions] = random.normal(size=(400, 1, directions))
    z = (centres + 1e-2 * random.normal(size=(400, 4, 16))).astype(np.float32)
    np.testing.assert_allclose(lidar(z), directions, rtol=0.03)


def test_lidar_does_not_count_directions_of_the_views():
    random = np.random.default_rng(1)
    noise = random.normal(size=(200, 5, 16)) * np.r_[np.full(2, 0.05), np.full(14, 30.0)][None, None]
    z = noise + np.r_[np.ones(2), np.zeros(14)][None, None] * 10 * random.normal(size=(200, 1, 16))
    assert lidar(z.astype(np.float32)) < 2.1
    assert diagnostics.rankme(jnp.asarray(z.reshape(1000, 16), jnp.float32)) > 14


@pytest.mark.parametrize("rows", [np.full((32, 24), 0.1), np.zeros((32, 24)), np.tile(normals(0, (1, 24))[0], (32, 1))])
def test_equal_rows_decay_at_once_and_have_one_direction(each_mesh, rows):
    z = sharding.shard(jnp.asarray(rows, jnp.float32))
    assert alpha_req(z) == np.inf
    views = sharding.shard(jnp.asarray(np.repeat(rows[:, None], 3, 1), jnp.float32))
    np.testing.assert_allclose(lidar(views), 1, atol=1e-4)


def test_a_collapse_with_rounding_is_still_one():
    random = np.random.default_rng(0)
    row = random.normal(size=24)
    z = (row[None, None] + 1e-8 * random.normal(size=(64, 4, 24))).astype(np.float32)
    np.testing.assert_allclose(lidar(z), 1, atol=1e-4)
    assert alpha_req(z.reshape(-1, 24)) == np.inf
    line = np.outer(np.linspace(1, 2, 64), row).astype(np.float32)
    assert alpha_req(line) == np.inf


def test_a_picture_in_equal_views_is_no_division_by_zero():
    (centres,) = normals(3, (20, 1, 6))
    z = np.repeat(centres, 3, 1)
    np.testing.assert_allclose(lidar(z), lidar_by_hand(z), rtol=1e-3)


def test_float32_is_as_good_as_float64_and_nan_stays():
    z = with_spectrum(np.arange(1, 65.0) ** -1.2, 256)
    views = z[:64, None] + 0.1 * normals(5, (64, 4, 64))[0]
    narrow = float(alpha_req(z)), float(lidar(views))
    with jax.enable_x64(True):
        wide = float(alpha_req(np.float64(z))), float(lidar(np.float64(views)))
    np.testing.assert_allclose(narrow, wide, rtol=1e-3)
    z[3, 3] = np.nan
    assert np.isnan(alpha_req(z))
    assert np.isnan(lidar(z.reshape(64, 4, 64)))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: diagnostics.alpha_req(jnp.ones((1, 4))), "three rows"),
        (lambda: diagnostics.alpha_req(jnp.ones((2, 4))), "three rows"),
        (lambda: diagnostics.alpha_req(jnp.ones((9, 1))), "two columns"),
        (lambda: diagnostics.alpha_req(jnp.ones((9, 4)), (0, 5)), r"ranks=\(0, 5\)"),
        (lambda: diagnostics.alpha_req(jnp.ones((9, 4)), (5, 5)), r"ranks=\(5, 5\)"),
        (lambda: diagnostics.lidar(jnp.ones((9, 4))), r"\(9, 4\)"),
        (lambda: diagnostics.lidar(jnp.ones((1, 5, 4))), "two pictures"),
        (lambda: diagnostics.lidar(jnp.ones((5, 1, 4))), "two views"),
        (lambda: diagnostics.lidar(jnp.ones((5, 2, 4)), delta=0.0), "delta=0.0"),
    ],
)
def test_too_few_rows_are_refused(call, named):
    with pytest.raises(BadInputError, match=named):
        call()
