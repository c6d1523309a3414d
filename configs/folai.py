"""Fol·AI: stereo sound whose level follows a given envelope, of a given meaning.

Command:   python -m weavejax.train --config configs/folai.py
           which starts from configs/folai.py:base, after configs/gram.py and configs/oobleck.py
Hardware:  2 CPU cores, 8 GB
Time:      13 min 14 s, the base 16 min 52 s and about 9 min for the latents before it, on one core of
           an AMD EPYC, another training on the other
Result:    seeds 0, 1 and 2: E-L1 0.0016, 0.0018 and 0.0020 under true envelopes, 0.0052, 0.0053 and
           0.0053 under predicted ones, 0.0124, 0.0118 and 0.0120 without, 0.0095 for silence, of 64
           held-out clips; 6.4, 6.1 and 6.4 dB more under twice the envelope (stages of
           `launch/when.sh`); figures on a rendered world stand for no published benchmark

Variants:
  (default)   the second stage on the rendered world: clips of 4 s, stereo at 16 kHz, 125 latents; a
              control network of two blocks on the base of six that runs/folai-base has learnt, which
              stays as it is.
  base        the first stage: the base itself, on the latents of runs/oobleck, from captions and
              4 frames a second that the towers of runs/gram look at. model.latent_scale, the same in
              both stages, is what the results of that run call latents/scale.
  files, files-base   the same on your own clips with captions, in windows of 4.096 s, with towers
              that learn in the first stage: --config configs/folai.py:files --config.data.root=DIR
  smoke, smoke-base   both at their smallest, from nothing, for tests.
  published   the published control network, of 4 of 24 blocks, on Stable Audio Open and its
              autoencoder, and the published recipe: 44.1 kHz, windows of 215 latents, batch 48, AdamW
              at 1e-4, v at logit-normal times, 150 steps of dpmpp-3m-sde and a scale of 2 for what is
              said. Meaning is CLAP's embedding of the very sound in training, of a text or of another
              sound in generation; CAVP looks at 4 frames a second. `weavejax.convert` makes the
              folders of stable-audio-open-1.0's model.safetensors, of transformers'
              laion/clap-htsat-unfused and of Diff-Foley's first stage, then
              --config.init.weights=weights/stable_audio --config.init.parts.text=weights/clap
              --config.init.parts.audio=weights/clap --config.init.parts.vision=weights/cavp
              Evaluation means by the captions; by the clip's own sound, which is to know part of the
              answer, with --config.sample.prompt=audio.
              For folders of clips. It needs accelerators. On 16 × v5e a device holds 273 MiB of
              parameters, 93 MiB of the optimiser, and at its peak 5.86 of 15.75 GiB
              (`weavejax.plan --topology v5e:4x4 --fast`, libtpu 0.0.52); on 64 × v5p 169 MiB, 47 MiB
              and 4.06 of 95.74 GiB, three clips each (--topology v5p:4x4x4 --fast --config.batch=192
              --config.runtime.mesh.replica=2: CLAP's width divides over 32 devices).
  published-eva   the same with EVA-CLIP-g of GRAM's checkpoint in the place of CAVP,
              --config.init.parts.vision=weights/gram

What stays as it is (autoencoder; towers, in the second stage or without model.train_towers) can be run
once, for both stages, not at every step. With any variant, and the same init every time:

  python -m weavejax.extract --config configs/folai.py:base --out features/folai
  python -m weavejax.train --config configs/folai.py:base --config.inputs.kind=latents
         --config.inputs.root=features/folai --config.model.flip=False
  and the same for configs/folai.py

Training sees each clip as evaluation does: its first caption, the middle of its frames, its sound the
right way up. Samples of latents (parity), noise and what is left out are drawn as before; evaluation
hears the clips themselves. Features of other clips, inputs or networks are refused.
"""

from ml_collections import ConfigDict

VARIANTS = (
    *("", "base", "files", "files-base", "smoke", "smoke-base"),
    *("published", "published-eva"),
)


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant."""
    if variant not in VARIANTS:
        known = ", ".join(filter(None, VARIANTS))
        raise ValueError(f"no variant {variant!r}; there are {known}")
    name = variant.removesuffix("base").removesuffix("-")
    config = _world()
    if variant.endswith("base"):
        _base(config)
    if name in ("files", "published", "published-eva"):
        _files(config)
    if name == "smoke":
        _smoke(config)
    if name in ("published", "published-eva"):
        _published(config)
    if name == "published-eva":
        _eva(config)
    return config


def _world() -> ConfigDict:
    config = ConfigDict()
    config.system = "folai"
    config.seed = 0
    config.steps = 800
    config.batch = 16
    config.data = ConfigDict(
        {
            "source": "dataset",  # a folder under datasets/, or "files"
            "dataset": "datasets/foley_world",
            "options": {"train": 2048, "test": 256, "seed": 0},  # handed to the data set's builder
            "directory": "data",  # where prepared data sets are kept
            "local": "data/remote",  # where a directory or root on gs:// or s3:// is copied to
            "cache": "data/decoded",  # decode each clip once; "" decodes at every use
            "root": "",  # files: the folder of media
            "captions": "",  # files: the caption file; "" looks for captions.{csv,tsv,jsonl} there
            "holdout": 0.0,  # files: share of clips kept for evaluation; 0 evaluates on all
            "broken": 0.02,  # share of clips that may turn out unreadable before the run stops
        }
    )
    config.inputs = ConfigDict(
        {
            "kind": "moments",  # frames at a steady rate, sound and captions; or "latents" of them
            "root": "",  # latents: the directory of weavejax.extract
            "seconds": 4.0,  # of a window; a multiple of a latent's samples
            "windows": 1,  # of a clip, one after the other; beyond its end there is nothing to hear
            "fps": 4.0,
            "side": 112,  # pixels, of the frames that are kept; 0 leaves pictures out
            "size": 112,  # of which this square is shown: at random in training, else the middle
            "rate": 16_000,  # Hz
            "stereo": True,
            "onsets": 0,
            "listens": "window",  # CLAP, in training
            "audio_frames": 0,  # of what it listens to, 10 ms each; 0 leaves it out
            "mels": 64,
            "text_length": 40,
            # That of the text tower; "captions" trains one on the captions; or a folder or hub name.
            "tokenizer": "runs/gram/tokenizer.json",
        }
    )
    config.model = _model()
    config.loss = ConfigDict(
        {
            "times": "logit_normal",  # of the noise level; uniform, stratified
            "drop": {"when": 0.1, "what": 0.1},  # how often training goes without a dial
        }
    )
    config.sample = ConfigDict(
        {
            "sampler": "dpmpp-3m-sde",
            "steps": 20,
            "scales": (2.0, 1.0),  # of guidance, for when and what
            "lowest": 0.3,  # σ/α of the last level before clean
            "highest": 500.0,  # and of the first
            "overlap": 25,  # of the windows of a longer clip, latents
            "prompt": "text",  # clap: what evaluation means by; "audio": the clip's own sound
        }
    )
    # Where to start: converted weights (`weavejax.convert`) or a run, "" = random; regexes of
    # parameters that these need not fit; and, by prefix, what starts a part.
    config.init = ConfigDict(
        {
            "weights": "runs/folai-base",
            "partial": (),
            "parts": {"oobleck": "", "text": "", "vision": "", "audio": ""},
        }
    )
    config.optim = ConfigDict(
        {
            "lr": 1e-3,
            "warmup": 0.1,
            "schedule": "cosine",
            "b1": 0.95,
            "b2": 0.999,
            "eps": 1e-6,
            "weight_decay": 1e-3,
            "no_decay": "",
            "clip": 1.0,
            "groups": (),
            "average": 0.99,  # decay of the moving average of the parameters; 0 = off
        }
    )
    # Refuses steps that are not finite or lie far above the last ones: `runtime.guard`.
    config.guard = ConfigDict({"window": 128, "warmup": 32, "sigmas": 6.0, "limit": 10})
    # How a run is carried out, not what it computes: may change between a run and its resumption.
    config.runtime = ConfigDict(
        {
            "mesh": {"replica": 1, "data": -1, "model": 1},
            "workers": 1,  # decoding processes
            "prefetch": 8,  # batches each keeps ready
            "log_every": 20,
            "evaluate_every": 800,
            "evaluate_batch": 16,
            "save_every": 200,
            "keep": 2,
            "partial": (),  # regexes of parameters that a checkpoint need not fit
            "deadlines": {"step": 300.0, "phase": 3600.0, "data": 86400.0},  # s; 0 = none
            "storage": {"retry": 30.0, "alarm": 3, "timeout": 600.0},  # of failed saves, s
        }
    )
    return config


def _model() -> ConfigDict:
    # Of compute; parameters are float32 in any case, or bfloat16 where they are frozen. Attention by
    # "cudnn" is flash attention on NVIDIA; it takes bfloat16.
    compute = {"dtype": "float32", "scan": True, "remat": "none", "attention": "xla"}
    return ConfigDict(
        {
            "stage": "control",
            "profile": "better",  # of envelopes and latents; "parity": lagging, sampled, as published
            "latent_scale": 1.0,  # of latents, for the diffusion to see them with a deviation of 1
            "normalise": False,  # every window to a peak of 1, as published; levels count here
            # dB that the second stage learns every clip at, one drawn at every step. Towers and base
            # foretell a clip's own level well: only at others does the network learn to listen.
            "levels": (0.0, -6.0, 6.0),
            "flip": True,  # sound upside down, every other time in training
            "meaning": "text",  # what training means by: the captions; "clap": the very sound
            "train_towers": False,  # of text and frames, in the first stage
            "train_projections": True,  # from them to tokens, in the second stage too
            "oobleck": {
                "channels": 8,
                "multiples": (2, 4, 8, 16),
                "strides": (4, 4, 4, 8),  # 512 samples a latent
                "latent": 16,
                "dtype": "float32",
                "remat": False,
                "gain": 10.0,  # of the sound that it sees
            },
            "dit": {
                "width": 128,
                "layers": 6,
                "heads": 4,
                "kv_heads": 2,
                "mlp": 384,
                "cross_width": 96,
                "features": 64,
                "rotary": 16,
                **compute,
            },
            "control": {"layers": 2},  # of the base's, copied
            "seconds": {"low": 0.0, "high": 512.0, "features": 64},
            "text": {
                "kind": "bert",  # roberta, clip: with their own tokenizers
                "vocab": 512,
                "positions": 40,
                "types": 2,
                "width": 96,
                "layers": 2,
                "heads": 2,
                "mlp": 288,
                "dropout": 0.0,
            },
            "vision": {  # kinds clip, siglip, cavp: with the fields of their own configs
                "kind": "eva",
                "patch": 16,
                "width": 96,
                "layers": 3,
                "heads": 2,
                "mlp": 288,
            },
        }
    )


def _base(config: ConfigDict) -> None:
    config.steps = 1500
    config.model.stage = "base"
    config.init.weights = ""
    config.init.parts.update(
        {"oobleck": "runs/oobleck", "text": "runs/gram", "vision": "runs/gram"}
    )
    config.runtime.evaluate_every = 1500


def _files(config: ConfigDict) -> None:
    config.data.source = "files"
    config.inputs.update({"seconds": 4.096, "windows": 3, "tokenizer": "captions"})
    config.model.text.vocab = 8192
    config.model.train_towers = True
    config.init.parts.update({"text": "", "vision": ""})


def _smoke(config: ConfigDict) -> None:
    config.data.options.update({"train": 24, "test": 16})
    config.batch = 8
    config.steps = 6
    config.init.update({"weights": "", "parts": {"oobleck": "", "text": "", "vision": ""}})
    small = {"seconds": 0.512, "rate": 8_000, "side": 32, "size": 28, "tokenizer": "captions"}
    config.inputs.update(small)
    config.model.train_towers = True
    config.model.oobleck.update(
        {"channels": 4, "multiples": (1, 2), "strides": (4, 8), "latent": 4}
    )
    config.model.dit.update(
        {
            "width": 32,
            "layers": 3,
            "heads": 2,
            "kv_heads": 1,
            "mlp": 48,
            "cross_width": 32,
            "features": 16,
            "rotary": 8,
        }
    )
    config.model.seconds.features = 16
    config.model.text.update({"width": 32, "layers": 1, "mlp": 64})
    config.model.vision.update({"patch": 14, "width": 16, "layers": 1, "mlp": 32})
    config.sample.update({"steps": 2, "overlap": 16})
    config.runtime.update({"log_every": 2, "evaluate_every": 6, "save_every": 3, "workers": 0})


def _published(config: ConfigDict) -> None:
    config.steps = 100_000
    config.batch = 48
    config.inputs.update(
        {
            "seconds": 440_320 / 44_100,  # 215 latents: what 10 s come to
            "windows": 1,
            "side": 224,
            "size": 224,
            "rate": 44_100,
            "audio_frames": 1001,
            "text_length": 77,
            "tokenizer": "laion/clap-htsat-unfused",
        }
    )
    model = config.model
    compute = {"dtype": "bfloat16", "scan": True, "remat": "full"}
    model.update({"profile": "parity", "normalise": True, "levels": (0.0,), "meaning": "clap"})
    sizes = {"channels": 128, "multiples": (1, 2, 4, 8, 16), "strides": (2, 4, 4, 8, 8)}
    model.oobleck.update({**sizes, "latent": 64, "gain": 1.0})
    model.dit.update(
        {
            "width": 1536,
            "layers": 24,
            "heads": 24,
            "kv_heads": 12,
            "mlp": 6144,
            "cross_width": 768,
            "features": 256,
            "rotary": 32,
            **compute,
        }
    )
    model.control.layers = 4
    model.seconds.features = 256
    model.text = ConfigDict(
        {
            "kind": "roberta",
            "vocab": 50_265,
            "positions": 514,
            "types": 1,
            "width": 768,
            "layers": 12,
            "heads": 12,
            "mlp": 3072,
            "dropout": 0.0,
            "projection": 512,
            **compute,
        }
    )
    model.audio = ConfigDict(
        {
            "kind": "htsat",
            "side": 256,
            "patch": 4,
            "window": 8,
            "width": 96,
            "depths": (2, 2, 6, 2),
            "heads": (4, 8, 16, 32),
            "projection": 512,
            "dtype": "bfloat16",
        }
    )
    model.vision = ConfigDict(
        {
            "kind": "cavp",  # eva, clip, siglip
            "width": 64,
            "blocks": (3, 4, 6, 3),
            "temporal": (False, False, True, True),  # convolutions over frames
            "embedding": 512,
            "dtype": "bfloat16",
            "remat": False,
        }
    )
    config.init.update({"weights": "", "partial": ("^project_",)})
    config.loss.drop.update({"when": 0.0, "what": 0.1})
    config.sample.update({"steps": 150, "scales": (1.0, 2.0), "overlap": 43})
    config.optim.update({"lr": 1e-4, "warmup": 0, "schedule": "constant", "average": 0.0})
    config.runtime.update({"workers": 8, "evaluate_every": 10_000, "save_every": 1_000})


def _eva(config: ConfigDict) -> None:
    config.model.vision = ConfigDict(
        {
            "kind": "eva",
            "patch": 14,
            "width": 1408,
            "layers": 40,
            "heads": 16,
            "mlp": 6144,
            "head": 1024,
            "dtype": "bfloat16",
            "scan": True,
            "remat": "full",
        }
    )
