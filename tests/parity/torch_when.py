"""The networks of SyncFusion, Video-Foley and CAVP's pictures in PyTorch, at small sizes.

As `torch_stable_audio`: weights are `seeded`. SyncFusion's are built from the packages that it is made
of, torchvision, audio-diffusion-pytorch and audio-encoders-pytorch; of Video-Foley's network and of
CAVP's there is no package, so they are put together from PyTorch's own layers under their published
names. Imported only where the ``parity`` extra is installed.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import seeded
import torch
from audio_diffusion_pytorch.components import UNetV0
from audio_encoders_pytorch import Encoder1d
from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

Recording = dict[str, np.ndarray]


def onset() -> Recording:
    """R(2+1)D without strides in time, an MLP on every frame; in evaluation and in training.

    Two stages, of two blocks and one: every kind of block is there.
    """
    model = _onset_net((8, 12), (2, 1), hidden=6)
    record = _seed(model)
    for case, shape in (("one", (1, 5, 20, 16, 3)), ("odd", (3, 4, 15, 17, 3))):
        video = _normal(shape, seed=shape[0])
        x = torch.from_numpy(video).permute(0, 4, 1, 2, 3)
        model.eval()
        record |= _case(case, {"video": video, "output": _frames(model, x).numpy()})
        model.train()
        record[f"{case}/training"] = _frames(model, x).numpy()
        for key, value in model.state_dict().items():
            if key.startswith("stem.1.running"):
                record[f"{case}/{key}"] = value.numpy().copy()
        _seed(model)
    return record


def onset_published() -> Recording:
    """Names and shapes at the published sizes, and how many parameters that is."""
    with torch.device("meta"):
        return _published(_onset_net((64, 128, 256, 512), (2, 2, 2, 2), hidden=128))


def _onset_net(widths: tuple[int, ...], blocks: tuple[int, ...], hidden: int) -> VideoResNet:
    class Whole(Conv2Plus1D):
        """With no stride in time."""

        def __init__(self, fed: int, width: int, middle: int, stride: int = 1) -> None:
            super().__init__(fed, width, middle, 1)
            self[0].stride = (1, stride, stride)

        @staticmethod
        def get_downsample_stride(stride: int) -> tuple[int, int, int]:
            return 1, stride, stride

    model = VideoResNet(BasicBlock, [Whole] * 4, [2, 2, 2, 2], R2Plus1dStem)
    if widths[0] != 64:
        model.stem[3] = nn.Conv3d(45, widths[0], (3, 1, 1), padding=(1, 0, 0), bias=False)
        model.stem[4] = nn.BatchNorm3d(widths[0])
        model.inplanes = widths[0]
        for number in range(1, 5):
            delattr(model, f"layer{number}")
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            stride = 2 if number > 1 else 1
            layer = model._make_layer(BasicBlock, Whole, width, count, stride)
            setattr(model, f"layer{number}", layer)
    model.avgpool = nn.AdaptiveAvgPool3d((None, 1, 1))
    model.fc = nn.Sequential(nn.Linear(widths[-1], hidden), nn.ReLU(), nn.Linear(hidden, 1))
    return model


def _frames(model: VideoResNet, x: torch.Tensor) -> torch.Tensor:
    x = model.stem(x)
    for number in range(1, 5):
        x = getattr(model, f"layer{number}", nn.Identity())(x)
    return model.fc(model.avgpool(x).flatten(2).mT)[..., 0]


def unet() -> Recording:
    """Three levels, the last of which attends to itself; guidance by the null condition."""
    net = UNetV0(
        dim=1,
        in_channels=1,
        channels=[8, 16, 16],
        factors=[1, 4, 2],
        items=[1, 2, 2],
        attentions=[0, 0, 1],
        cross_attentions=[1, 1, 1],
        context_channels=[2, 8, 16],
        attention_heads=2,
        attention_features=8,
        embedding_features=12,
        use_embedding_cfg=True,
        embedding_max_length=1,
        resnet_groups=4,
        modulation_features=32,
    )
    encoder = Encoder1d(
        in_channels=1,
        channels=2,
        multipliers=[1, 1, 4, 8],
        factors=[1, 4, 2],
        num_blocks=[2, 2, 2],
        resnet_groups=2,
    )
    record = _seed(nn.ModuleDict({"unet": net, "encoder": encoder}))
    for case, (batch, length) in (("one", (1, 64)), ("odd", (3, 40))):
        sound, noise = (
            _normal((batch, length, 1), 1),
            np.linspace(0.1, 0.9, batch, dtype=np.float32),
        )
        embedding = _normal((batch, 1, 12), 2)
        track = (_normal((batch, length, 1), 3) > 1.2).astype(np.float32)
        _, info = encoder(torch.from_numpy(track).mT, with_info=True)
        given = {
            "time": torch.from_numpy(noise),
            "embedding": torch.from_numpy(embedding),
            "channels": info["xs"][2:-1],
        }
        x = torch.from_numpy(sound).mT
        plain, guided = net(x, **given), net(x, **given, embedding_scale=3.0)
        arrays = {"sound": sound, "noise": noise, "embedding": embedding, "track": track}
        arrays |= {"output": plain.mT.numpy(), "guided": guided.mT.numpy()}
        record |= _case(case, arrays)
    return record


def unet_published() -> Recording:
    """Names and shapes at the published sizes, and how many parameters that is."""
    with torch.device("meta"):
        net = UNetV0(
            dim=1,
            in_channels=1,
            channels=[8, 32, 64, 128, 256, 512, 1024, 1024],
            factors=[1, 4, 4, 4, 2, 2, 2, 2],
            items=[1, 2, 2, 2, 2, 2, 2, 4],
            attentions=[0, 0, 0, 0, 1, 1, 1, 1],
            cross_attentions=[1] * 8,
            context_channels=[2, 8, 16, 32, 64, 128, 256, 256],
            attention_heads=8,
            attention_features=64,
            embedding_features=512,
            use_embedding_cfg=True,
            embedding_max_length=1,
        )
        encoder = Encoder1d(
            in_channels=1,
            channels=2,
            multipliers=[1, 1, 4, 8, 16, 32, 64, 128, 128],
            factors=[1, 4, 4, 4, 2, 2, 2, 2],
            num_blocks=[2] * 8,
            resnet_groups=2,
        )
        return _published(nn.ModuleDict({"unet": net, "encoder": encoder}))


class _Envelope(nn.Module):
    def __init__(self, features: int, frames: int, steps: int, classes: int, hidden: int) -> None:
        super().__init__()

        def layer() -> nn.Module:
            conv = nn.ModuleDict({"conv": nn.Conv1d(features, features, 5, padding=2)})
            return nn.ModuleList([conv, nn.BatchNorm1d(features)])

        self.convolutions = nn.ModuleList(layer() for _ in range(3))
        self.BiLSTM = nn.LSTM(features, hidden, 2, batch_first=True, bidirectional=True)
        self.BiLSTM_projs = nn.ModuleList(
            [nn.Linear(frames, steps), nn.Linear(2 * hidden, classes)]
        )
        self.onset_head = nn.ModuleList([nn.Linear(frames, frames), nn.Linear(2 * hidden, 1)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.mT
        for conv, norm in self.convolutions:
            x = torch.relu(norm(conv["conv"](x)))
        x, _ = self.BiLSTM(x.mT)
        envelope, onset = (
            channels(time(x.mT).mT) for time, channels in (self.BiLSTM_projs, self.onset_head)
        )
        return torch.relu(envelope), onset[..., 0]


def envelope() -> Recording:
    """With the onset head."""
    model = _Envelope(12, 7, 11, 5, 3)
    record = _seed(model)
    model.eval()
    for case, batch in (("one", 1), ("three", 3)):
        features = _normal((batch, 7, 12), batch)
        levels, onset = model(torch.from_numpy(features))
        arrays = {"features": features, "output": levels.numpy(), "onset": onset.numpy()}
        record |= _case(case, arrays)
    return record


def _unit(fed: int, width: int, kernel: tuple[int, int, int], stride: int = 1) -> nn.Module:
    """A convolution without bias and its norm, named as they are; padded to keep the size."""
    padding = tuple(size // 2 for size in kernel)
    conv = nn.Conv3d(fed, width, kernel, (1, stride, stride), padding, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm3d(width)))


class _Bottleneck(nn.Module):
    def __init__(self, fed: int, width: int, stride: int, first: int) -> None:
        super().__init__()
        self.conv1 = _unit(fed, width, (first, 1, 1))
        self.conv2 = _unit(width, width, (1, 3, 3), stride)
        self.conv3 = _unit(width, 4 * width, (1, 1, 1))
        if fed != 4 * width:
            self.downsample = _unit(fed, 4 * width, (1, 1, 1), stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class _Cavp(nn.Module):
    def __init__(self, width: int, blocks: tuple[int, ...], embedding: int) -> None:
        super().__init__()
        trunk = OrderedDict(conv1=_unit(3, width, (1, 7, 7), 2))
        fed = width
        for stage, count in enumerate(blocks):
            layer = []
            for number in range(count):
                stride, first = (2 if stage and not number else 1), (3 if stage > 1 else 1)
                layer.append(_Bottleneck(fed, width << stage, stride, first))
                fed = 4 * (width << stage)
            trunk[f"layer{stage + 1}"] = nn.Sequential(*layer)
        self.video_encoder = nn.ModuleDict(trunk)
        self.video_project_head = nn.Linear(fed, embedding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem, *layers = self.video_encoder.values()
        x = nn.functional.max_pool3d(torch.relu(stem(x)), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for layer in layers:
            x = layer(x)
        x = self.video_project_head(x.mean((3, 4)).mT)
        return nn.functional.normalize(x, dim=-1)


def cavp() -> Recording:
    """Four stages, of which the last two look over time."""
    model = _Cavp(4, (1, 2, 1, 2), 6)
    record = _seed(model)
    for case, shape in (("two", (2, 2, 32, 32, 3)), ("odd", (1, 3, 35, 33, 3))):
        video = np.abs(_normal(shape, seed=shape[0]))
        x = torch.from_numpy(video).permute(0, 4, 1, 2, 3)
        model.eval()
        record |= _case(case, {"video": video, "output": model(x).numpy()})
    return record


def cavp_published() -> Recording:
    """Names and shapes at the published sizes, and how many parameters that is."""
    with torch.device("meta"):
        return _published(_Cavp(64, (3, 4, 6, 3), 512))


REFERENCES: dict[str, Callable[[], Recording]] = {
    name: globals()[name]
    for name in (
        "onset",
        "onset_published",
        "unet",
        "unet_published",
        "envelope",
        "cavp",
        "cavp_published",
    )
}


def run(name: str) -> Recording:
    """One reference, on the CPU, without gradients."""
    with torch.no_grad():
        return REFERENCES[name]()


def _seed(model: nn.Module) -> Recording:
    """Give every array its value, but counters; aliases of one array get that of the first key."""
    state = model.state_dict()
    shapes = {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}
    first: dict[int, str] = {}
    keys = {key: first.setdefault(state[key].data_ptr(), key) for key in shapes}
    values = {key: torch.from_numpy(seeded.array(keys[key], shapes[key])) for key in shapes}
    model.load_state_dict(values, strict=False)
    aliases = np.array([f"{key}={source}" for key, source in keys.items() if key != source])
    return {"shapes": seeded.pack(shapes), "aliases": aliases}


def _published(model: nn.Module) -> Recording:
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"shapes": seeded.pack(shapes), "parameters": np.array(count)}


def _case(case: str, arrays: Recording) -> Recording:
    return {f"{case}/{key}": value for key, value in arrays.items()}


def _normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
