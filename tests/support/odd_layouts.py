"""Odd networks by layout and dtype: views, strides, dimensions, kinds of layers, float64 and half precision."""

from __future__ import annotations

from typing import Any

import torch
from odd_networks import Written, conv_net, head, odd
from torch import Tensor, nn
from torch.nn import functional

STRIDES = "views that hold for contiguous maps alone: channels last breaks them, or changes what they read"


def _body() -> nn.Sequential:
    return conv_net()[:3]


@odd(STRIDES, centred=True)
def view_of_maps_large() -> nn.Module:
    return Written(lambda m, x: m.head((h := m.body(x)).view(h.size(0), -1)), body=_body(), head=head(512, large=True))


def _strided(m: Any, x: Tensor) -> Tensor:
    h = m.body(x)
    return m.head(h.as_strided((len(h), 128), (h.stride(0), 4)))


@odd("as_strided reads memory, not indices")
def as_strided_large() -> nn.Module:
    return Written(_strided, body=_body(), head=head(128, large=True))


@odd("as_strided on the input itself")
def as_strided_input_large() -> nn.Module:
    return Written(
        lambda m, x: m.body(x.as_strided((len(x), 3, 8, 8), (192, 64, 8, 1))) + 0.0, body=conv_net(large=True)
    )


@odd("four dimensions and five")
def conv3d_beside_conv2d_large() -> nn.Module:
    return Written(
        lambda m, x: m.head(torch.cat([m.flat(x).flatten(1), m.deep(x[:, None]).relu().flatten(1)], 1)),
        flat=_body(),
        deep=nn.Conv3d(1, 2, (3, 3, 3)),
        head=head(512 + 72, large=True),
    )


@odd("a Conv1d over rows", centred=True)
def conv1d_over_rows() -> nn.Module:
    return Written(lambda m, x: m.head(m.conv(x.flatten(2)).relu()), conv=nn.Conv1d(3, 8, 5, 2), head=head(8 * 30))


@odd("patches by Tensor.unfold")
def unfolded_patches_large() -> nn.Module:
    return Written(
        lambda m, x: m.head(x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(len(x), 4, 48)),
        head=head(192, large=True),
    )


@odd("patches by functional.unfold, beside convolutions", centred=True)
def im2col_large() -> nn.Module:
    return Written(
        lambda m, x: m.head(functional.unfold(m.body(x), 2, stride=2)), body=_body(), head=head(512, large=True)
    )


@odd("maps are permuted to NHWC and seen as tokens")
def tokens_by_permutation_large() -> nn.Module:
    return Written(
        lambda m, x: m.head(m.norm(m.body(x).permute(0, 2, 3, 1).contiguous().view(len(x), 64, 8)).transpose(1, 2)),
        body=_body(),
        norm=nn.LayerNorm(8),
        head=head(512, large=True),
    )


@odd("pixels are shuffled", centred=True)
def pixel_shuffle_large() -> nn.Module:
    return nn.Sequential(_body(), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3, 2), nn.ReLU(), head(4 * 49, large=True))


@odd("GroupNorm has statistics of each image")
def group_norm_large() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), head(288, large=True))


@odd("LayerNorm over maps", centred=True)
def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm([8, 6, 6]), nn.GELU(), head(288))


@odd("InstanceNorm, with running statistics after a convolution: no batch norm, though it looks like one", centred=True)
def instance_norm_large() -> nn.Module:
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), head(288, large=True))


@odd("a transposed convolution before a batch norm folds otherwise", centred=True)
def transposed_convolution_large() -> nn.Module:
    body = conv_net()
    body[0] = nn.ConvTranspose2d(3, 8, 3, padding=1)
    return nn.Sequential(body[:3], head(512, large=True))


@odd("depthwise and dilated convolutions", centred=True)
def depthwise_convolutions_large() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, dilation=2, groups=6)]
    return nn.Sequential(*layers, nn.BatchNorm2d(6), head(24, large=True))


@odd("of one channel both layouts have the same strides", shape=(1, 8, 8))
def one_channel_large() -> nn.Module:
    return Written(lambda m, x: m.net[4]((h := m.net[:4](x)).view(len(h), -1)), net=conv_net(channels=1, large=True))


@odd("asks for strides")
def asks_whether_it_is_contiguous_large() -> nn.Module:
    return Written(lambda m, x: m.net(x if x.is_contiguous() else x.flip(1)), net=conv_net(large=True))


@odd("inputs are not square", shape=(3, 12, 16), centred=True)
def not_square() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), head(4 * 5 * 7))


@odd("inputs are vectors", shape=(20,))
def vectors() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), head(64))


@odd("inputs are vectors; large, and normed before it is linear", shape=(20,))
def vectors_large() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(20), head(20, large=True))


@odd("inputs are sequences", shape=(2, 16))
def sequences() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.Tanh(), head(84))


@odd("inputs are videos", shape=(2, 3, 6, 6), centred=True)
def videos_large() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), head(4 * 2 * 25, large=True))


@odd("two classes: losses that compare three don't apply", n_classes=2)
def two_classes() -> nn.Module:
    return conv_net(n_classes=2)


@odd("eight classes", n_classes=8)
def eight_classes_large() -> nn.Module:
    return conv_net(n_classes=8, large=True)


NOT_FLOAT32 = {"trains": False}  # trainers ask for weights in float32

# --- dtypes -----------------------------------------------------------------------------------------------------------


@odd("weights are float64: float32 images don't fit", **NOT_FLOAT32)
def float64_weights() -> nn.Module:
    return conv_net().double()


@odd("weights are float64; large: a copy in bfloat16 mixes them", **NOT_FLOAT32)
def float64_weights_large() -> nn.Module:
    return conv_net(large=True).double()


@odd("weights are float16", noise=3, **NOT_FLOAT32)
def float16_weights() -> nn.Module:
    return conv_net().half()


@odd("weights are bfloat16", noise=3, **NOT_FLOAT32)
def bfloat16_weights_large() -> nn.Module:
    return conv_net(large=True).bfloat16()


@odd("float64 behind a border: a copy's convolutions in bfloat16 meet it", **NOT_FLOAT32)
def float64_inside_large() -> nn.Module:
    return Written(lambda m, x: m.net(x.double()).float(), net=conv_net(large=True).double())


@odd("bfloat16 behind a border", noise=3, **NOT_FLOAT32)
def bfloat16_inside() -> nn.Module:
    return Written(lambda m, x: m.net(x.bfloat16()).float(), net=conv_net().bfloat16())


@odd("float16 behind a border; logits are float16", noise=3, **NOT_FLOAT32)
def float16_inside() -> nn.Module:
    return Written(lambda m, x: m.net(x.half()), net=conv_net().half())


@odd("a float64 head on a float32 body; logits are float64", **NOT_FLOAT32)
def float64_head_large() -> nn.Module:
    return Written(lambda m, x: m.head(m.body(x).double()), body=_body(), head=head(512, large=True).double())


@odd("an autocast of its own, inside", noise=3)
def own_autocast_large() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return m.net(x).float()

    return Written(forward, net=conv_net(large=True))


@odd("autocast is off inside: weights cast to bfloat16 don't fit")
def autocast_off_inside_large() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return m.net(x.float())

    return Written(forward, net=conv_net(large=True))


@odd("an LSTM's weights lie in one piece of memory, which a cast tears apart", centred=True)
def lstm_large() -> nn.Module:
    return Written(
        lambda m, x: m.head(m.lstm(x.flatten(2))[0]), lstm=nn.LSTM(64, 16, batch_first=True), head=head(48, large=True)
    )


@odd("a GRU under a border of bfloat16", noise=3, **NOT_FLOAT32)
def gru_bfloat16_inside() -> nn.Module:
    return Written(
        lambda m, x: m.head(m.gru(x.flatten(2).bfloat16())[0].float()),
        gru=nn.GRU(64, 16, batch_first=True).bfloat16(),
        head=head(48),
    )


@odd("attention has a fast path in eval mode, which has no gradients", centred=True)
def attention_large() -> nn.Module:
    return Written(
        lambda m, x: m.head(m.attention((t := x.flatten(2).transpose(1, 2)) @ m.embed, t @ m.embed, t @ m.embed)[0]),
        embed=nn.Parameter(torch.randn(3, 8)),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        head=head(512, large=True),
    )


@odd("a transformer's fast path goes by its weights' dtype and flags")
def transformer_large() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2), nn.TransformerEncoderLayer(64, 4, 32, dropout=0.1, batch_first=True), head(192, large=True)
    )


@odd("complex numbers in between")
def spectrum_large() -> nn.Module:
    return Written(
        lambda m, x: m.net(torch.fft.ifft2(torch.fft.fft2(x) * m.filter).real),
        filter=nn.Parameter(torch.rand(3, 8, 8) + 0.5),
        net=conv_net(large=True),
    )


@odd("a buffer of complex numbers, which can't be cast to bfloat16, and one of integers")
def complex_and_integer_buffers_large() -> nn.Module:
    module = Written(
        lambda m, x: m.net((x.flatten(2)[..., m.order].view_as(x) * m.phase).real), net=conv_net(large=True)
    )
    module.register_buffer("order", torch.randperm(64))
    module.register_buffer("phase", torch.polar(torch.ones(8, 8), torch.rand(8, 8)))
    return module
