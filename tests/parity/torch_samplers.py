"""The published samplers in PyTorch, on a small network, with noise that is handed to them.

Each reference returns one flat dictionary of arrays: ``state/<name>`` of the network and the noise,
``<case>/output`` and, where the library makes its own levels, ``<case>/levels``. Imported only where
the ``parity`` extra is installed.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from audio_diffusion_pytorch.diffusion import VSampler
from diffusers.schedulers.scheduling_cosine_dpmsolver_multistep import (
    CosineDPMSolverMultistepScheduler,
)

Recording = dict[str, np.ndarray]

STEPS = 8
SHAPE = (2, 6, 3)


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


# Under names of their own, past the packages' own imports: training code that is not needed here.
K = types.ModuleType("k_diffusion_alone")
K.__path__ = [str(_folder("k_diffusion"))]
sys.modules[K.__name__] = K
k_sampling = importlib.import_module(f"{K.__name__}.sampling")
k_external = importlib.import_module(f"{K.__name__}.external")
_SPEC = importlib.util.spec_from_file_location(
    "stable_audio_sampling", _folder("stable_audio_tools") / "inference" / "sampling.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
stable_audio = importlib.util.module_from_spec(_SPEC)
with mock.patch.dict(sys.modules, {"k_diffusion": K}):
    _SPEC.loader.exec_module(stable_audio)


class Network(torch.nn.Module):
    """Mixes places and channels, and knows the time: v of x [B, T, C] and t [B]."""

    def __init__(self, mix: np.ndarray, tell: np.ndarray) -> None:
        """Of mix [C, C] and tell [C]."""
        super().__init__()
        self.mix, self.tell = torch.from_numpy(mix).double(), torch.from_numpy(tell).double()

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """tanh of the mixed neighbourhood, shifted by the time."""
        near = 0.5 * x + 0.25 * (torch.roll(x, 1, 1) + torch.roll(x, -1, 1))
        return torch.tanh(near @ self.mix + time.double()[:, None, None] * self.tell)


def published() -> Recording:
    """k-diffusion, diffusers, audio-diffusion-pytorch and stable-audio-tools, in float64."""
    rng = np.random.default_rng(0)
    mix, tell = (rng.normal(size=size).astype(np.float32) for size in ((3, 3), (3,)))
    given = rng.normal(size=(STEPS + 1, *SHAPE)).astype(np.float32)
    network, start = Network(mix, tell), torch.from_numpy(given[0]).double()

    def later() -> Iterator[torch.Tensor]:
        return iter(torch.from_numpy(given[1:]).double())

    record = {"state/mix": mix, "state/tell": tell, "state/noise": given}
    sigmas = k_sampling.get_sigmas_polyexponential(STEPS, 0.3, 500.0)
    for name in ("dpmpp_3m_sde", "dpmpp_2m_sde", "dpmpp_2m", "heun"):
        noise = later()
        options = {"noise_sampler": lambda *_, n=noise: next(n)} if "sde" in name else {}
        output = getattr(k_sampling, f"sample_{name}")(
            k_external.VDenoiser(network),
            start * sigmas[0],
            sigmas.double(),
            disable=True,
            **options,
        )
        record |= {f"{name}/output": output.numpy(), f"{name}/levels": sigmas.numpy()}

    scheduler = CosineDPMSolverMultistepScheduler()
    scheduler.set_timesteps(STEPS)
    noise = later()
    scheduler.noise_sampler = lambda *_: next(noise)
    x = start * scheduler.sigmas[0]
    for time in scheduler.timesteps:
        v = network(scheduler.scale_model_input(x, time), time.repeat(len(x)))
        x = scheduler.step(v, time, x).prev_sample
    record |= {"diffusers/output": x.numpy(), "diffusers/levels": scheduler.sigmas.numpy()}

    record["v_sampler/output"] = VSampler(network)(start, num_steps=STEPS).numpy()
    for name, run in (
        ("ddim", lambda: stable_audio.sample(network, start, STEPS, 0.5)),
        ("pingpong", lambda: stable_audio.sample_flow_pingpong(network, start, STEPS)),
    ):
        noise = later()
        with mock.patch.object(torch, "randn_like", lambda _, n=noise: next(n)):
            record[f"{name}/output"] = run().numpy()
    return {
        key: array.astype(np.float32) if array.dtype == np.float64 else array
        for key, array in record.items()
    }


REFERENCES: dict[str, Callable[[], Recording]] = {"published": published}


def run(name: str) -> Recording:
    """Compute one reference without gradients."""
    with torch.no_grad():
        return REFERENCES[name]()
