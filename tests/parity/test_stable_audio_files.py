"""Stable Audio Open's published files in and out: every key accounted for, every number back."""

from typing import Any

import numpy as np
import pytest
import seeded
from recorded import Recording, recorded

from weavejax.convert import FORMATS, detect, main
from weavejax.errors import UserError
from weavejax.models import stable_dit_names as names
from weavejax.weights.published import Converted, convert_file, restore_file
from weavejax.weights.safe import open_safetensors, save_safetensors

SECONDS = "conditioner.conditioners.seconds_"
BETA = "model.model.transformer.layers.1.ff_norm.beta"
INVERSE = "model.model.transformer.rotary_pos_emb.inv_freq"


def state(name: str) -> Recording:
    found = recorded(f"stable_audio/{name}")
    constant = {k.removeprefix("constant/"): a for k, a in found.items() if k.startswith("const")}
    return seeded.weights(seeded.unpack(found["shapes"])) | constant


def under(prefix: str, tensors: Recording) -> Recording:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def one_file(dit: Recording, oobleck: Recording, number: Recording) -> Recording:
    """As stable-audio-tools writes all of it."""
    return {
        **under("model.model.", dit),
        **under("pretransform.model.", oobleck),
        **under(f"{SECONDS}start.", number),
        **under(f"{SECONDS}total.", {key: tensor + 1 for key, tensor in number.items()}),
    }


def small(name: str) -> Recording:
    if name == "stable_audio":
        return one_file(state("dit_tools"), state("oobleck_tools"), state("number_tools"))
    if name == "seconds":
        number = state("number_diffusers")
        return under("start_number_conditioner.", number) | under("end_number_conditioner.", number)
    if name == "t5":
        found = state("t5")
        return {**found, "encoder.embed_tokens.weight": found["shared.weight"]}
    # Its heads are 64 wide, which the arrays do not tell.
    return state("oobleck_diffusers") if name == "oobleck" else diffusers_dit()


def diffusers_dit() -> Recording:
    tensors = state("dit_tools")
    config = names.sizes(tensors, "stable-audio-tools")
    params = names.from_torch(tensors, config, "stable-audio-tools")
    return names.to_torch(params, config, "diffusers")


def back(converted: Converted, name: str) -> dict[str, np.ndarray]:
    facts: Any = (converted.sizes, converted.spellings, converted.ties)
    return restore_file(converted.leaves, FORMATS[name], *facts)


@pytest.mark.parametrize("name", ["stable_audio", "stable_audio_dit", "oobleck", "seconds", "t5"])
def test_small_files_come_back_exactly(name: str, tmp_path: Any) -> None:
    tensors = small(name)
    assert detect(tensors, tmp_path) == name
    converted = convert_file(tensors, FORMATS[name])
    assert not converted.coverage.problems
    again = back(converted, name)
    assert again.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor, err_msg=key)
    if name == "t5":  # one embedding, held once or twice
        assert converted.ties
        del tensors["encoder.embed_tokens.weight"]
        assert not convert_file(tensors, FORMATS[name]).coverage.problems


def test_the_one_file_at_the_published_size_has_its_keys_and_counts() -> None:
    """Abstractly: arrays of one number, seen at the full shapes."""
    found = recorded("stable_audio/published_tools")
    whole = {
        name: {
            key: np.broadcast_to(np.float32(0), shape)
            for key, shape in seeded.unpack(found[f"{name}/shapes"]).items()
        }
        for name in ("dit", "oobleck", "number")
    }
    inverse = INVERSE.removeprefix("model.model.")
    whole["dit"][inverse] = state("dit_tools")[inverse]
    file = one_file(whole["dit"], whole["oobleck"], whole["number"])
    assert len(file) == 374 + 183 + 182 + 2 * 3
    converted = convert_file(file, FORMATS["stable_audio"])
    assert not converted.coverage.problems
    groups = {g.name: (g.keys, g.parameters) for g in converted.coverage.used}
    assert groups == {
        "dit": (374 - 73, 1_056_828_544),
        "oobleck": (183 + 182, 77_989_888 + 78_122_626),
        "seconds_start": (3, 198_272),
        "seconds_total": (3, 198_272),
    }
    assert [(g.keys, g.parameters) for g in converted.coverage.kept] == [(72, 72 * 1536), (1, 16)]
    assert converted.sizes["dit"]["norm_bias"] is False


def test_biases_that_are_not_zero_are_parameters_and_other_rotations_are_refused() -> None:
    tensors = small("stable_audio")
    biased = {**tensors, BETA: tensors[BETA] + 1}
    converted = convert_file(biased, FORMATS["stable_audio"])
    assert converted.leaves["dit/blocks_1/norm3/bias"].all()
    np.testing.assert_array_equal(back(converted, "stable_audio")[BETA], biased[BETA])
    with pytest.raises(UserError, match="not of base 10000"):
        convert_file({**tensors, INVERSE: 2 * tensors[INVERSE]}, FORMATS["stable_audio"])


def test_the_door_takes_them(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = small("seconds")
    save_safetensors(tmp_path / "in.safetensors", tensors, {})
    main([f"--from={tmp_path / 'in.safetensors'}", f"--out={tmp_path / 'weights'}"])
    assert "conditioners of seconds" in capsys.readouterr().out
    main([f"--from={tmp_path / 'weights'}", "--back", f"--out={tmp_path / 'out.safetensors'}"])
    again = open_safetensors(tmp_path / "out.safetensors")
    assert set(again) == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor)
