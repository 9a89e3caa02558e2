"""Random closed curves: the irregular shapes that same-different problems are about."""

import numpy as np
from jaxtyping import Float

Contour = Float[np.ndarray, "P 2"]  # points of a closed curve around the origin, the farthest at distance 1

POINTS = 72
ANGLES = 2 * np.pi * np.arange(POINTS) / POINTS
_HARMONICS = np.arange(1, 7)
_WAVES = np.exp(1j * np.outer(_HARMONICS, ANGLES))
_SPREAD = 0.34 / _HARMONICS**0.5
NARROWEST = 0.3  # of the widest radius
ALIKE = 0.12  # root mean square between two profiles under which the eye takes two shapes for one


def radial_profile(rng: np.random.Generator) -> Float[np.ndarray, " P"]:
    """Distance of a random smooth curve from the origin in each direction; the largest is 1.

    Six harmonics with random phases. Profiles that nearly touch the origin are drawn again.
    """
    while True:
        phases = rng.uniform(0, 2 * np.pi, len(_HARMONICS))
        strengths = _SPREAD * rng.uniform(0.3, 1.0, len(_HARMONICS))
        profile = 1.0 + ((strengths * np.exp(1j * phases)) @ _WAVES).real
        profile /= profile.max()
        if profile.min() >= NARROWEST:
            return profile


def different_profiles(rng: np.random.Generator, n: int) -> list[Float[np.ndarray, " P"]]:
    """``n`` profiles none of which looks like another, nor like its mirror image, however it is turned."""
    found: list[np.ndarray] = []
    while len(found) < n:
        profile = radial_profile(rng)
        if all(least_difference(profile, other) > ALIKE for other in found):
            found.append(profile)
    return found


def least_difference(a: Float[np.ndarray, " P"], b: Float[np.ndarray, " P"]) -> float:
    """Root mean square between two profiles, turned (and mirrored) so that it is least."""
    spectrum = np.fft.rfft(a)
    closest = -np.inf
    for other in (b, b[::-1]):
        closest = max(closest, float(np.fft.irfft(spectrum * np.fft.rfft(other).conj(), POINTS).max()))
    squared = (a @ a + b @ b - 2 * closest) / POINTS
    return float(np.sqrt(max(squared, 0.0)))


def contour(profile: Float[np.ndarray, " P"]) -> Contour:
    """The curve of a radial profile."""
    return profile[:, None] * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def turned(curve: Contour, angle: float) -> Contour:
    """The curve turned about the origin by ``angle`` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return curve @ np.array([[cos, sin], [-sin, cos]])


def mirrored(curve: Contour, axis: float) -> Contour:
    """The curve mirrored about the line through the origin at ``axis`` radians."""
    cos, sin = np.cos(2 * axis), np.sin(2 * axis)
    return curve @ np.array([[cos, sin], [sin, -cos]])


def inside(points: Float[np.ndarray, "N 2"], profile: Float[np.ndarray, " P"]) -> np.ndarray:
    """Which points lie inside the curve of a profile around the origin."""
    angles = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    radii = np.hypot(points[:, 0], points[:, 1])
    return radii < np.interp(angles, np.append(ANGLES, 2 * np.pi), np.append(profile, profile[0]))


def touching_distance(a: Float[np.ndarray, " P"], b: Float[np.ndarray, " P"], direction: float) -> float:
    """How far from curve ``a``, towards ``direction``, curve ``b`` has its centre when the two just touch."""
    step = np.array([np.cos(direction), np.sin(direction)])
    curve_a, curve_b = contour(a), contour(b)
    apart, together = float(a.max() + b.max()), 0.0
    for _ in range(9):
        distance = (apart + together) / 2
        shift = distance * step
        if inside(curve_b + shift, a).any() or inside(curve_a - shift, b).any():
            together = distance
        else:
            apart = distance
    return apart
