"""What SyncFusion's sound is to be: one token, from a text encoder that learns with it or from CLAP.

As published (Comunità et al., arXiv 2310.15247) it is LAION-CLAP's embedding (Wu et al., arXiv
2211.06687), of length 1, its towers frozen: in training of the sound of one hit of the window itself,
in generation of a text, or of a sound that is to be resembled. Both kinds keep one contract.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from weavejax.errors import UserError
from weavejax.ops.transformer import Rule, fan_in
from weavejax.systems.base import Batch, Params, never, under
from weavejax.systems.encoders import Tower, make_tower

PROMPTS = ("text", "audio")
TINY = 1e-24  # of a squared length


class Meaning(Protocol):
    """From a batch to the condition's token."""

    def spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape of one example's and type of every array of a batch that it looks at."""
        ...

    def init(self, key: Array) -> dict[str, Any]:
        """Parameters, by part of the system."""
        ...

    def token(self, params: Params, batch: Batch, key: Array | None) -> Array:
        """The token [B, 1, embedding]; `key` None: as generation takes it, without dropout."""
        ...

    def known(self, batch: Batch, *, training: bool) -> Array:
        """Which examples have a meaning, bool [B]."""
        ...

    def frozen(self, path: str) -> bool:
        """Whether a parameter of the system stays as it is."""
        ...

    def rules(self) -> tuple[Rule, ...]:
        """Sharding table."""
        ...

    def flops(self) -> dict[str, float]:
        """Of a training example's forward pass, by part."""
        ...


class LearntText:
    """A text encoder and a projection, which learn with the rest: ours, where there is no CLAP."""

    def __init__(self, config: Any) -> None:
        self.text: Tower = make_tower("text", config)
        self.length, self.width = config.inputs.text_length, config.model.unet.embedding
        self.frozen = never

    def spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Texts."""
        return {"text": ((self.length,), jnp.int32), "text_mask": ((), jnp.bool_)}

    def init(self, key: Array) -> dict[str, Any]:
        """`text` and `project`."""
        blank = self.text.prepare(jnp.zeros((1, self.length), jnp.int32))
        text: Any = self.text.network.init(key, *blank, deterministic=True)
        kernel = fan_in(jax.random.fold_in(key, 1), (self.text.width, self.width), jnp.float32)
        return {"text": text["params"], "project": {"kernel": kernel}}

    def token(self, params: Params, batch: Batch, key: Array | None) -> Array:
        """Of the text."""
        inputs = self.text.prepare(batch["text"])
        tokens: Any = self.text.network.apply(
            {"params": params["text"]},
            *inputs,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )
        pooled = self.text.pool(tokens, *inputs)
        kernel = params["project"]["kernel"].astype(pooled.dtype)
        return jnp.matmul(pooled, kernel)[:, None]

    def known(self, batch: Batch, *, training: bool) -> Array:
        """Those with a text."""
        del training
        return batch["text_mask"]

    def rules(self) -> tuple[Rule, ...]:
        """Of the text encoder; the projection is copied."""
        return (*under("text", self.text.rules), (r"^project/kernel$", ()))

    def flops(self) -> dict[str, float]:
        """Of the text encoder."""
        return {"text": self.text.flops(self.length)}


class Clap:
    """Frozen CLAP: hits in training, texts or hits in generation.

    Raises:
      UserError: the towers have no joint space of the condition's width, or there are no hits.
    """

    def __init__(self, config: Any) -> None:
        if "audio" not in config.model:
            raise UserError('model.meaning "clap" needs an audio tower, model.audio')
        self.towers = {"text": make_tower("text", config), "audio": make_tower("audio", config)}
        inputs, width = config.inputs, config.model.unet.embedding
        for part, tower in self.towers.items():
            sizes: Any = tower.network
            if getattr(sizes.config, "projection", 0) != width:
                raise UserError(
                    f"model.{part}.projection, the width of CLAP's space, must be that of the "
                    f"condition, model.unet.embedding, {width}"
                )
        if not inputs.audio_frames:
            raise UserError('model.meaning "clap" needs the sound of hits: set inputs.audio_frames')
        if config.sample.prompt not in PROMPTS:
            raise UserError(
                f"sample.prompt {config.sample.prompt!r} is none of {', '.join(PROMPTS)}"
            )
        self.length, self.heard = inputs.text_length, (inputs.audio_frames, inputs.mels)
        self.audio_first = config.sample.prompt == "audio"

    def spec(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Texts, and mel spectrograms of hits."""
        return {
            "text": ((self.length,), jnp.int32),
            "text_mask": ((), jnp.bool_),
            "heard": (self.heard, jnp.float32),
            "heard_mask": ((), jnp.bool_),
        }

    def init(self, key: Array) -> dict[str, Any]:
        """`text` and `audio`: at random they mean nothing, see `config.init.parts`."""
        blank = {
            "text": jnp.zeros((1, self.length), jnp.int32),
            "audio": jnp.zeros((1, *self.heard)),
        }
        made = {}
        for number, (part, tower) in enumerate(self.towers.items()):
            inputs = tower.prepare(blank[part])
            found: Any = tower.network.init(
                jax.random.fold_in(key, number), *inputs, deterministic=True
            )
            made[part] = found["params"]
        return made

    def token(self, params: Params, batch: Batch, key: Array | None) -> Array:
        """Of the hit in training; else of `sample.prompt`'s kind, of the other where that lacks."""
        if key is not None:
            return self._embedding("audio", params, batch["heard"])
        given = {"text": "text", "audio": "heard"}
        found = {p: self._embedding(p, params, batch[n]) for p, n in given.items() if n in batch}
        if len(found) < 2:
            return next(iter(found.values()))
        return jnp.where(self._heard(batch)[:, None, None], found["audio"], found["text"])

    def known(self, batch: Batch, *, training: bool) -> Array:
        """Those with a hit in training; else those with a text or a hit."""
        if training:
            return batch["heard_mask"]
        masks = [batch[name] for name in ("text_mask", "heard_mask") if name in batch]
        return jnp.stack(masks).any(0)

    def _heard(self, batch: Batch) -> Array:
        """Whether it is the hit that counts, bool [B]."""
        if self.audio_first:
            return batch["heard_mask"]
        return batch["heard_mask"] & ~batch["text_mask"]

    def _embedding(self, part: str, params: Params, given: Array) -> Array:
        """float32 [B, 1, embedding], of length 1; without a gradient."""
        tower = self.towers[part]
        made: Any = tower.network.apply(
            {"params": params[part]}, *tower.prepare(given), deterministic=True, joint=True
        )
        made = jax.lax.stop_gradient(made).astype(jnp.float32)
        length = jnp.square(made).sum(-1, keepdims=True)
        return (made * jax.lax.rsqrt(jnp.maximum(length, TINY)))[:, None]

    def frozen(self, path: str) -> bool:
        """Both towers."""
        return path.startswith(("text/", "audio/"))

    def rules(self) -> tuple[Rule, ...]:
        """Of both towers."""
        return tuple(
            rule for part, tower in self.towers.items() for rule in under(part, tower.rules)
        )

    def flops(self) -> dict[str, float]:
        """Of the audio tower: training needs no other."""
        return {"audio": self.towers["audio"].flops(0)}


KINDS: dict[str, Any] = {"text": LearntText, "clap": Clap}


def make_meaning(config: Any) -> Meaning:
    """What `config.model.meaning` names.

    Raises:
      UserError: there is no such, or it does not fit the rest.
    """
    kind = config.model.meaning
    if kind not in KINDS:
        raise UserError(f"model.meaning {kind!r} is none of {', '.join(KINDS)}")
    made: Meaning = KINDS[kind](config)
    return made
