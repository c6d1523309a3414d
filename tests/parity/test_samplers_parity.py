"""Samplers against the published libraries on the same noise, live or from a recording."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded import LIVE, cases, live, needs_torch, quick_jit, recorded, relative_error, state

from weavejax.diffusion.noise import given_noise
from weavejax.diffusion.samplers import SAMPLERS, begin, sample
from weavejax.diffusion.schedules import linear, polyexponential, straight

NAME = "samplers/published"
STEPS = 8
TABLES = {
    "dpmpp_3m_sde": SAMPLERS["dpmpp-3m-sde"](polyexponential(STEPS)),
    "dpmpp_2m_sde": SAMPLERS["dpmpp-2m-sde"](polyexponential(STEPS)),
    "dpmpp_2m": SAMPLERS["dpmpp-2m"](polyexponential(STEPS)),
    "heun": SAMPLERS["heun"](polyexponential(STEPS)),
    "diffusers": SAMPLERS["dpmpp-2m-sde"](polyexponential(STEPS)),
    "v_sampler": SAMPLERS["v-ddim"](linear(STEPS)),
    "ddim": SAMPLERS["ddim"](linear(STEPS), eta=0.5),
    "pingpong": SAMPLERS["pingpong"](straight(STEPS)),
}


@pytest.fixture(scope="module", params=["recorded", LIVE])
def reference(request):
    return recorded(NAME) if request.param == "recorded" else live(NAME)


def test_every_sampler_equals_its_published_code(reference):
    given = state(reference)
    mix, tell = jnp.asarray(given["mix"]), jnp.asarray(given["tell"])
    noise = given_noise(jnp.asarray(given["noise"]))

    def network(x, time):
        near = 0.5 * x + 0.25 * (jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1))
        mixed = jnp.matmul(near, mix, precision=jax.lax.Precision.HIGHEST)
        return jnp.tanh(mixed + time[:, None, None] * tell[None, None])

    found = cases(reference)
    assert found.keys() <= TABLES.keys()
    run = quick_jit(lambda table: sample(network, begin(table, noise), table, noise=noise))
    errors = {
        case: relative_error(np.asarray(run(TABLES[case])), parts["output"])
        for case, parts in found.items()
    }
    assert max(errors.values()) < 2e-6, errors


def test_levels_equal_those_of_the_libraries(reference):
    for case, parts in cases(reference).items():
        if "levels" in parts:
            np.testing.assert_allclose(
                polyexponential(STEPS).ratio, parts["levels"], rtol=2e-6, err_msg=case
            )


def test_the_recording_holds_every_case():
    assert cases(recorded(NAME)).keys() == TABLES.keys()


@pytest.mark.parity
@needs_torch
def test_the_recording_equals_the_live_run():
    kept, now = recorded(NAME), live(NAME)
    assert now.keys() <= kept.keys()
    for key, array in now.items():
        np.testing.assert_allclose(array, kept[key], rtol=1e-5, atol=1e-6, err_msg=key)
