"""Worlds whose every measure is known in closed form: what the estimators are held against.

Notation (beside that of `levels`)
    a, s      alpha and 1 - alpha of a level; snr = a / s = exp(level)
    p_k       weight of class k of a mixture, m_k its mean (d,), v_k its variance per coordinate
    r_k       posterior of class k given x; G_k = a v_k + s, the variance of x within class k
    S         power spectrum of a stationary field (h, w), the eigenvalues of its covariance
    rho       snr of the two-class channel along the line between its means, a M^2 / G with means at distance
              2 M

Everything is exact but two one-dimensional Gaussian averages, by Gauss-Hermite quadrature with 128 nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sow.dynamics.measures.levels import Array, Condition, alpha_of
from sow.method import noise


class Drawn(NamedTuple):
    """Clean samples (n, ...) and the class of each (n,)."""

    x0: Tensor
    classes: Tensor


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Classes k with weights (K,), means (K, d) and variances (K,) per coordinate, all of one float dtype.

    Variance 0 makes every class a point: `of_points` is the empirical measure of a training set.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    @classmethod
    def of_points(cls, points: Tensor) -> GaussianMixture:
        """The empirical measure of `points` (n, d): its denoiser is the one that has memorised them."""
        n = len(points)
        return cls(points.new_full((n,), 1 / n), points, points.new_zeros(n))

    def sample(self, count: int, generator: torch.Generator) -> Drawn:
        """`count` samples (count, d) and their classes."""
        classes = _pick(self.weights.expand(count, -1), generator)
        n = noise.randn((count, self.means.shape[1]), generator, self.means.device, self.means.dtype)
        return Drawn(self.means[classes] + self.variances[classes, None].sqrt() * n, classes)

    def posterior(self, x: Tensor, level: float) -> Tensor:
        """p(k | x) as (B, K)."""
        alpha = alpha_of(level)
        spread = alpha * self.variances + 1 - alpha
        distance = torch.cdist(x, alpha**0.5 * self.means, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        logits = self.weights.log() - distance / (2 * spread) - x.shape[1] / 2 * spread.log()
        return logits.softmax(1)

    def within(self, x: Tensor, level: float) -> Tensor:
        """E[x_0 | x, k] as (B, K, d)."""
        alpha = alpha_of(level)
        gain = alpha**0.5 * self.variances / (alpha * self.variances + 1 - alpha)
        return self.means + gain[:, None] * (x[:, None] - alpha**0.5 * self.means)

    def denoise(self, x: Tensor, level: float, condition: Condition = None) -> Tensor:
        """E[x_0 | x], or E[x_0 | x, k] where `condition` names one class k per row."""
        if condition is not None:
            rows = torch.arange(len(x), device=x.device)
            return self.within(x, level)[rows, torch.as_tensor(condition, device=x.device)]
        return torch.einsum("bk,bkd->bd", self.posterior(x, level), self.within(x, level))

    def resample(self, x: Tensor, level: float, generator: torch.Generator) -> Drawn:
        """An exact draw from p(x_0 | x) for every row: what a perfect stochastic sampler ends at."""
        alpha = alpha_of(level)
        classes = _pick(self.posterior(x, level), generator)
        rows = torch.arange(len(x), device=x.device)
        variance = self.variances * (1 - alpha) / (alpha * self.variances + 1 - alpha)
        n = noise.randn(x.shape, generator, x.device, x.dtype)
        return Drawn(self.within(x, level)[rows, classes] + variance[classes, None].sqrt() * n, classes)

    def jacobian(self, x: Tensor, level: float) -> Tensor:
        """dE[x_0 | x] / dx as (B, d, d): sqrt(a) / s times the posterior covariance
        of x_0, hence symmetric."""
        alpha = alpha_of(level)
        posterior, within = self.posterior(x, level), self.within(x, level)
        off = within - torch.einsum("bk,bkd->bd", posterior, within)[:, None]
        variance = self.variances * (1 - alpha) / (alpha * self.variances + 1 - alpha)
        own = (posterior @ variance)[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return alpha**0.5 / (1 - alpha) * (own + torch.einsum("bk,bkd,bke->bde", posterior, off, off))


@dataclass(frozen=True)
class TwoClasses:
    """Closed forms of the mixture of two equal classes with means +-m, |m| = `half`,
    and `variance` per coordinate."""

    half: float
    variance: float

    def mixture(self, dimension: int, dtype: torch.dtype = torch.float64) -> GaussianMixture:
        """The mixture itself, m along (1, ..., 1)."""
        m = torch.full((dimension,), self.half / dimension**0.5, dtype=dtype)
        half = torch.full((2,), 0.5, dtype=dtype)
        return GaussianMixture(half, torch.stack([m, -m]), torch.full((2,), self.variance, dtype=dtype))

    def rho(self, level: float) -> float:
        """snr of the class given x."""
        alpha = alpha_of(level)
        return alpha * self.half**2 / (alpha * self.variance + 1 - alpha)

    def information(self, level: float) -> float:
        """I(Z; x) in nats: log 2 - E log(1 + exp(-2 (rho + sqrt(rho) n)))."""
        rho = self.rho(level)
        return math.log(2) - _average(lambda n: np.logaddexp(0, -2 * (rho + rho**0.5 * n)))

    def rate(self, level: float) -> float:
        """dI(Z; x) / dlevel in nats: 1/2 E[1 - tanh(rho + sqrt(rho) n)] drho / dlevel."""
        rho, snr = self.rho(level), math.exp(level)
        slope = snr * self.half**2 / (1 + snr * self.variance) ** 2
        return 0.5 * slope * _average(lambda n: 1 - np.tanh(rho + rho**0.5 * n))

    def kept(self, level: float) -> float:
        """P(a draw from p(x_0 | x) has the class of the start) = E p(z | x)."""
        rho = self.rho(level)
        return _average(lambda n: 1 / (1 + np.exp(-2 * (rho + rho**0.5 * n))))

    @property
    def speciation(self) -> float:
        """Level at which x = 0 turns unstable along m under the score: snr (|m|^2 - v) = 1;
        nan where it never does."""
        excess = self.half**2 - self.variance
        return -math.log(excess) if excess > 0 else math.nan

    @property
    def top_variance(self) -> float:
        """Largest eigenvalue of the data's covariance."""
        return self.half**2 + self.variance


@dataclass(frozen=True, eq=False)
class GaussianChannel:
    """x_0 = gain y + sqrt(variance) n, coordinate by coordinate, y standard normal: a text that says
    something of each pixel."""

    gain: Tensor
    variance: Tensor

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` pairs (x_0, y), both (count, *shape)."""
        shape = (count, *self.gain.shape)
        y = noise.randn(shape, generator, self.gain.device, self.gain.dtype)
        n = noise.randn(shape, generator, self.gain.device, self.gain.dtype)
        return self.gain * y + self.variance.sqrt() * n, y

    def denoise(self, x: Tensor, level: float, condition: Condition = None) -> Tensor:
        """E[x_0 | x], or E[x_0 | x, y] with `condition` y like x."""
        alpha = alpha_of(level)
        if condition is None:
            mean, variance = torch.zeros_like(x), self.variance + self.gain**2
        else:
            mean, variance = self.gain * torch.as_tensor(condition), self.variance
        return mean + alpha**0.5 * variance / (alpha * variance + 1 - alpha) * (x - alpha**0.5 * mean)

    def information(self, level: float) -> Tensor:
        """I(x; y) of each coordinate in nats: 1/2 log(1 + snr Var x_0) - 1/2 log(1 + snr Var[x_0 | y])."""
        snr = math.exp(level)
        return 0.5 * (torch.log1p(snr * (self.variance + self.gain**2)) - torch.log1p(snr * self.variance))


@dataclass(frozen=True, eq=False)
class GaussianField:
    """A stationary Gaussian field on a torus, one channel, by its power `spectrum` S (h, w);
    images are (B, 1, h, w)."""

    spectrum: Tensor

    @classmethod
    def exponential(cls, height: int, width: int, length: float, white: float = 0.0) -> GaussianField:
        """Covariance exp(-r / length) at distance r on the torus, plus `white` at r = 0;
        negative powers are set to 0."""
        covariance = torch.exp(-torus_distance(height, width) / length)
        covariance[0, 0] += white
        return cls(torch.fft.fft2(covariance).real.clamp(min=0))

    @property
    def covariance(self) -> Tensor:
        """Covariance (h, w) with the pixel at (0, 0)."""
        return torch.fft.ifft2(self.spectrum).real

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` fields."""
        n = noise.randn((count, 1, *self.spectrum.shape), generator, "cpu", self.spectrum.dtype)
        return self._filter(n, self.spectrum.sqrt())

    def denoise(self, x: Tensor, level: float, condition: Condition = None) -> Tensor:
        """E[x_0 | x]: the Wiener filter. It has no use for a condition."""
        alpha = alpha_of(level)
        return self._filter(x, alpha**0.5 * self.spectrum / (alpha * self.spectrum + 1 - alpha))

    def kernel(self, level: float) -> Tensor:
        """The Wiener filter's kernel (h, w): row of its Jacobian for the pixel at (0, 0)."""
        alpha = alpha_of(level)
        return torch.fft.ifft2(alpha**0.5 * self.spectrum / (alpha * self.spectrum + 1 - alpha)).real

    def reach(self, level: float) -> float:
        """r_eff = sum r |W| / sum |W| of the kernel, in pixels."""
        kernel = self.kernel(level).abs()
        return float((torus_distance(*kernel.shape) * kernel).sum() / kernel.sum())

    def posterior_spectrum(self, level: float) -> Tensor:
        """Spectrum of x_0 given x: S / (1 + snr S)."""
        return self.spectrum / (1 + math.exp(level) * self.spectrum)

    def resample(self, x: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """An exact draw from p(x_0 | x) for every row."""
        n = noise.randn(x.shape, generator, "cpu", x.dtype)
        return self.denoise(x, level) + self._filter(n, self.posterior_spectrum(level).sqrt())

    def information(self, level: float) -> float:
        """I(x_0; x) in nats: 1/2 sum log(1 + snr S)."""
        return float(torch.log1p(math.exp(level) * self.spectrum).sum()) / 2

    def change_covariance(self, level: float) -> Tensor:
        """Covariance (h, w) of x_0' - x_0, x_0' drawn from p(x_0 | x): twice that of x_0 given x."""
        return 2 * torch.fft.ifft2(self.posterior_spectrum(level)).real

    @staticmethod
    def _filter(x: Tensor, response: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * response).real


@dataclass(frozen=True, eq=False)
class Convolution:
    """A linear denoiser of known radius R: one `kernel` (2R+1, 2R+1), zero padding,
    for any number of channels."""

    kernel: Tensor

    def denoise(self, x: Tensor, level: float, condition: Condition = None) -> Tensor:
        """The convolution of x (B, C, h, w), the same at every level."""
        channels, radius = x.shape[1], len(self.kernel) // 2
        weight = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        return torch.nn.functional.conv2d(x, weight, padding=radius, groups=channels)

    def non_locality(self, radius: int) -> float:
        """e_l for white input far from the border: the share of the kernel's energy further than
        l from its centre."""
        size, middle = len(self.kernel), len(self.kernel) // 2
        off = (torch.arange(size) - middle).abs()
        outside = torch.maximum(off[:, None], off[None]) > radius
        energy = self.kernel**2
        return float(energy[outside].sum() / energy.sum())


def torus_distance(height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Euclidean distance (h, w) of every pixel of a torus from the one at (0, 0)."""
    rows, columns = (torch.arange(n, dtype=dtype) for n in (height, width))
    rows, columns = torch.minimum(rows, height - rows), torch.minimum(columns, width - columns)
    return torch.hypot(rows[:, None], columns[None])


def _pick(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One index per row of `probabilities` (n, K), by inversion of a uniform draw."""
    n = noise.randn((len(probabilities), 1), generator, probabilities.device, probabilities.dtype)
    uniform = torch.special.ndtr(n)
    return (probabilities.cumsum(1) < uniform).sum(1).clamp(max=probabilities.shape[1] - 1)


def _average(of: Callable[[Array], Array]) -> float:
    """E f(n) over a standard normal n."""
    nodes, weights = _gauss_hermite()
    return float((of(nodes) * weights).sum())


@cache
def _gauss_hermite() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(128)
    return nodes, weights / math.sqrt(2 * math.pi)
