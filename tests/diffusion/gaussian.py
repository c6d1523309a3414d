"""A problem with a known answer: clean latents that are N(mean, spread²), place by place."""

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class Gaussian:
    mean: float = 0.7
    spread: float = 0.4

    def estimate(self, x, alpha, sigma):
        """E[z | x]."""
        gain = alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)

    def denoiser(self, x, time):
        """v on the cosine path."""
        time = time.reshape(-1, *(1,) * (x.ndim - 1))
        alpha, sigma = jnp.cos(time * (jnp.pi / 2)), jnp.sin(time * (jnp.pi / 2))
        return (alpha * x - self.estimate(x, alpha, sigma)) / sigma

    def consistent(self, x, time):
        """The v that leads from x to the end of its own path, as a consistency model's does."""
        time = time.reshape(-1, *(1,) * (x.ndim - 1))
        alpha, sigma = jnp.cos(time * (jnp.pi / 2)), jnp.sin(time * (jnp.pi / 2))
        return (alpha * x - self.follow(x, (alpha, sigma), (1.0, 0.0))) / sigma

    def flow(self, x, time):
        """v on the straight path."""
        time = time.reshape(-1, *(1,) * (x.ndim - 1))
        return (x - self.estimate(x, 1 - time, time)) / time

    def deviation(self, alpha, sigma):
        return (alpha**2 * self.spread**2 + sigma**2) ** 0.5

    def follow(self, x, here, there):
        """Where the probability-flow ODE takes x from level (α, σ) to another."""
        standard = (x - here[0] * self.mean) / self.deviation(*here)
        return there[0] * self.mean + self.deviation(*there) * standard
