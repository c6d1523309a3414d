"""The published samplers in PyTorch, on a small network, with noise that is handed to them.

One flat dictionary of arrays: ``state/<name>`` of the network and the noise, ``<case>/output`` and,
where the library makes its own levels, ``<case>/levels``. Imported only where the ``parity`` extra is
installed. k-diffusion and stable-audio-tools bring much that is not needed here and are no part of
that extra: with ``pip install --no-deps k-diffusion==0.1.1 stable-audio-tools==0.0.19`` their cases
run too.
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

Recording = dict[str, np.ndarray]

STEPS = 8
SHAPE = (2, 6, 3)


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
    """Every case whose library is installed; float64 inside, the noise and the outputs float32."""
    rng = np.random.default_rng(0)
    mix, tell = (rng.normal(size=size).astype(np.float32) for size in ((3, 3), (3,)))
    noise = rng.normal(size=(STEPS + 1, *SHAPE)).astype(np.float32)
    record = {"state/mix": mix, "state/tell": tell, "state/noise": noise}
    for package, cases in LIBRARIES.items():
        if importlib.util.find_spec(package):
            record |= cases(Network(mix, tell), torch.from_numpy(noise).double())
    return {key: array.astype(np.float32) for key, array in record.items()}


def _k_diffusion(network: Network, noise: torch.Tensor) -> Recording:
    package = _alone("k_diffusion")
    sampling = importlib.import_module(f"{package.__name__}.sampling")
    external = importlib.import_module(f"{package.__name__}.external")
    sigmas = sampling.get_sigmas_polyexponential(STEPS, 0.3, 500.0)
    record = {}
    for name in ("dpmpp_3m_sde", "dpmpp_2m_sde", "dpmpp_2m", "heun"):
        draw = _later(noise)
        options = {"noise_sampler": lambda *_, n=draw: next(n)} if "sde" in name else {}
        output = getattr(sampling, f"sample_{name}")(
            external.VDenoiser(network),
            noise[0] * sigmas[0],
            sigmas.double(),
            disable=True,
            **options,
        )
        record |= {f"{name}/output": output.numpy(), f"{name}/levels": sigmas.numpy()}
    return record


def _diffusers(network: Network, noise: torch.Tensor) -> Recording:
    module = importlib.import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")
    scheduler = module.CosineDPMSolverMultistepScheduler()
    scheduler.set_timesteps(STEPS)
    draw = _later(noise)
    scheduler.noise_sampler = lambda *_: next(draw)
    x = noise[0] * scheduler.sigmas[0]
    for time in scheduler.timesteps:
        v = network(scheduler.scale_model_input(x, time), time.repeat(len(x)))
        x = scheduler.step(v, time, x).prev_sample
    return {"diffusers/output": x.numpy(), "diffusers/levels": scheduler.sigmas.numpy()}


def _audio_diffusion(network: Network, noise: torch.Tensor) -> Recording:
    module = importlib.import_module("audio_diffusion_pytorch.diffusion")
    return {"v_sampler/output": module.VSampler(network)(noise[0], num_steps=STEPS).numpy()}


def _stable_audio(network: Network, noise: torch.Tensor) -> Recording:
    path = _folder("stable_audio_tools") / "inference" / "sampling.py"
    spec = importlib.util.spec_from_file_location("stable_audio_sampling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"k_diffusion": types.ModuleType("k_diffusion")}):
        spec.loader.exec_module(module)
    record = {}
    for name, run in (
        ("ddim", lambda: module.sample(network, noise[0], STEPS, 0.5)),
        ("pingpong", lambda: module.sample_flow_pingpong(network, noise[0], STEPS)),
    ):
        draw = _later(noise)
        with mock.patch.object(torch, "randn_like", lambda _, n=draw: next(n)):
            record[f"{name}/output"] = run().numpy()
    return record


LIBRARIES: dict[str, Callable[[Network, torch.Tensor], Recording]] = {
    "k_diffusion": _k_diffusion,
    "diffusers": _diffusers,
    "audio_diffusion_pytorch": _audio_diffusion,
    "stable_audio_tools": _stable_audio,
}


def _later(noise: torch.Tensor) -> Iterator[torch.Tensor]:
    """What the steps add, one after the other."""
    return iter(noise[1:])


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _alone(package: str) -> types.ModuleType:
    """The package under another name and past its own imports: its training is not needed here."""
    alone = types.ModuleType(f"{package}_alone")
    alone.__path__ = [str(_folder(package))]
    return sys.modules.setdefault(alone.__name__, alone)


REFERENCES: dict[str, Callable[[], Recording]] = {"published": published}


def run(name: str) -> Recording:
    """Compute one reference without gradients."""
    with torch.no_grad():
        return REFERENCES[name]()
