"""The tiny Jamba in torch, for training on a CPU: matrix products by torch, everything between them by kernels.c.

Parameters are kept fused (q/k/v, gate/up, experts stacked); `to_checkpoint` and `from_checkpoint` speak Hugging Face's names.
"""

import ctypes
import math
import pathlib
import subprocess
import tempfile

import torch
import torch.nn.functional as F
from torch import nn

D_MODEL, D_FF, D_INNER, DT_RANK, D_STATE, VOCAB, N_LAYERS = 128, 192, 256, 8, 16, 512, 8
N_HEADS, N_KV_HEADS, D_HEAD = 4, 2, 32
N_EXPERTS, TOP_K = 4, 2
DBC = DT_RANK + 2 * D_STATE  # columns of x_proj's output: dt, B, C
DBC_PARTS = ((0, DT_RANK), (DT_RANK, D_STATE), (DT_RANK + D_STATE, D_STATE))  # (first column, width)
KV_WIDTH = N_KV_HEADS * D_HEAD


def compile_kernels():
    source = pathlib.Path(__file__).resolve().with_name("kernels.c")
    library = pathlib.Path(tempfile.mkdtemp()) / "kernels.so"
    flags = ["-Ofast", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    subprocess.check_call(["gcc", *flags, str(source), "-o", str(library), "-lm"])
    return ctypes.CDLL(str(library))


kernels = compile_kernels()


def address(tensor, column=0):
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr() + tensor.element_size() * column)


class RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        x = x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        y, inverse = torch.empty_like(x), torch.empty(rows)
        kernels.rms_norm_forward(rows, width, width, address(x), address(weight), address(y), address(inverse))
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, inverse = ctx.saved_tensors
        width, dy = x.shape[-1], dy.contiguous()
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight)
        kernels.rms_norm_backward(
            len(inverse), width, width, address(x), address(weight), address(inverse), address(dy), address(dx),
            address(dweight),
        )  # fmt: skip
        return dx, dweight


class MambaMixer(torch.autograd.Function):
    """The whole Mamba-1 mixer of Jamba, in_proj to out_proj."""

    @staticmethod
    def forward(ctx, x, in_proj, conv, conv_bias, x_proj, dbc_norm, dt_proj, dt_bias, A, skip, out_proj):
        batch, length, _ = x.shape
        x = x.contiguous().view(-1, D_MODEL)
        rows, taps = len(x), conv[:, 0].t().contiguous()
        xz, u = x @ in_proj.t(), torch.empty(rows, D_INNER)
        kernels.conv_silu_forward(batch, length, D_INNER, address(xz), address(taps), address(conv_bias), address(u))
        raw = u @ x_proj.t()
        dbc, inverse = torch.empty_like(raw), torch.empty(3, rows)
        for i, (column, width) in enumerate(DBC_PARTS):
            kernels.rms_norm_forward(
                rows, width, DBC, address(raw, column), address(dbc_norm, column), address(dbc, column),
                address(inverse[i]),
            )  # fmt: skip
        dt = torch.addmm(dt_bias, dbc[:, :DT_RANK], dt_proj.t())
        delta, scanned, y = torch.empty_like(u), torch.empty_like(u), torch.empty_like(u)
        kernels.scan_forward(
            batch, length, D_INNER, DBC, DT_RANK, address(u), address(dt), address(A), address(dbc), address(skip),
            address(xz), address(delta), address(scanned), address(y),
        )  # fmt: skip
        ctx.shape = batch, length
        ctx.save_for_backward(
            x, xz, u, raw, dbc, inverse, dt, delta, scanned, y,
            in_proj, taps, conv_bias, x_proj, dbc_norm, dt_proj, A, skip, out_proj,
        )  # fmt: skip
        return (y @ out_proj.t()).view(batch, length, D_MODEL)

    @staticmethod
    def backward(ctx, dout):
        (
            x, xz, u, raw, dbc, inverse, dt, delta, scanned, y,
            in_proj, taps, conv_bias, x_proj, dbc_norm, dt_proj, A, skip, out_proj,
        ) = ctx.saved_tensors  # fmt: skip
        (batch, length), rows = ctx.shape, len(x)
        dout = dout.contiguous().view(-1, D_MODEL)
        dout_proj, dy = dout.t() @ y, dout @ out_proj
        du, ddt, ddbc, dxz = (torch.empty_like(t) for t in (u, dt, dbc, xz))
        dA, dskip = torch.zeros_like(A), torch.zeros_like(skip)
        kernels.scan_backward(
            batch, length, D_INNER, DBC, DT_RANK, address(u), address(dt), address(A), address(dbc), address(skip),
            address(xz), address(delta), address(scanned), address(dy), address(du), address(ddt), address(dA),
            address(ddbc), address(dskip), address(dxz),
        )  # fmt: skip
        ddt_proj, ddt_bias = ddt.t() @ dbc[:, :DT_RANK], ddt.sum(0)
        ddbc[:, :DT_RANK] = ddt @ dt_proj
        draw, ddbc_norm = torch.empty_like(raw), torch.zeros_like(dbc_norm)
        for i, (column, width) in enumerate(DBC_PARTS):
            kernels.rms_norm_backward(
                rows, width, DBC, address(raw, column), address(dbc_norm, column), address(inverse[i]),
                address(ddbc, column), address(draw, column), address(ddbc_norm, column),
            )  # fmt: skip
        dx_proj = draw.t() @ u
        du.addmm_(draw, x_proj)
        dtaps, dconv_bias = torch.zeros_like(taps), torch.zeros_like(conv_bias)
        kernels.conv_silu_backward(
            batch, length, D_INNER, address(xz), address(taps), address(conv_bias), address(du), address(dxz),
            address(dtaps), address(dconv_bias),
        )  # fmt: skip
        dx, din_proj = (dxz @ in_proj).view(batch, length, D_MODEL), dxz.t() @ x
        dconv = dtaps.t().unsqueeze(1)
        return dx, din_proj, dconv, dconv_bias, dx_proj, ddbc_norm, ddt_proj, ddt_bias, dA, dskip, dout_proj


class Mlp(torch.autograd.Function):
    """SwiGLU: down(silu(gate(x)) · up(x)) with gate and up stacked."""

    @staticmethod
    def forward(ctx, x, gate_up, down):
        shape, x = x.shape, x.contiguous().view(-1, D_MODEL)
        projected, h = x @ gate_up.t(), torch.empty(len(x), D_FF)
        kernels.swiglu_forward(len(x), D_FF, address(projected), None, address(h))
        ctx.save_for_backward(x, projected, h, gate_up, down)
        return (h @ down.t()).view(shape)

    @staticmethod
    def backward(ctx, dout):
        x, projected, h, gate_up, down = ctx.saved_tensors
        shape, dout = dout.shape, dout.contiguous().view(-1, D_MODEL)
        dh, dprojected = dout @ down, torch.empty_like(projected)
        kernels.swiglu_backward(len(x), D_FF, address(projected), None, address(dh), address(dprojected), None)
        return (dprojected @ gate_up).view(shape), dprojected.t() @ x, dout.t() @ h


class Experts(torch.autograd.Function):
    """Each row of x through its TOP_K experts, weighted; rows are sorted by expert so that each expert is one product."""

    @staticmethod
    def forward(ctx, x, chosen, weights, gate_up, down):
        order = chosen.reshape(-1).argsort(stable=True)
        row_of = order // TOP_K
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        ends = torch.bincount(chosen.reshape(-1), minlength=N_EXPERTS).cumsum(0).tolist()
        slices = [slice(start, end) for start, end in zip([0, *ends], ends)]
        sorted_weights = weights.reshape(-1)[order].contiguous()
        xs = x.index_select(0, row_of)
        projected, h, out = torch.empty(len(xs), 2 * D_FF), torch.empty(len(xs), D_FF), torch.empty(len(xs), D_MODEL)
        for expert, rows in enumerate(slices):
            torch.mm(xs[rows], gate_up[expert].t(), out=projected[rows])
        kernels.swiglu_forward(len(xs), D_FF, address(projected), address(sorted_weights), address(h))
        for expert, rows in enumerate(slices):
            torch.mm(h[rows], down[expert].t(), out=out[rows])
        ctx.slices = slices
        ctx.save_for_backward(row_of, back, sorted_weights, xs, projected, h, gate_up, down)
        return out.index_select(0, back).view(-1, TOP_K, D_MODEL).sum(1)

    @staticmethod
    def backward(ctx, dout):
        row_of, back, sorted_weights, xs, projected, h, gate_up, down = ctx.saved_tensors
        dsorted = dout.contiguous().index_select(0, row_of)
        dh, dprojected, dxs = torch.empty_like(h), torch.empty_like(projected), torch.empty_like(xs)
        dgate_up, ddown, dweights = torch.empty_like(gate_up), torch.empty_like(down), torch.empty_like(sorted_weights)
        for expert, rows in enumerate(ctx.slices):
            torch.mm(dsorted[rows], down[expert], out=dh[rows])
            torch.mm(dsorted[rows].t(), h[rows], out=ddown[expert])
        kernels.swiglu_backward(
            len(xs), D_FF, address(projected), address(sorted_weights), address(dh), address(dprojected),
            address(dweights),
        )  # fmt: skip
        for expert, rows in enumerate(ctx.slices):
            torch.mm(dprojected[rows], gate_up[expert], out=dxs[rows])
            torch.mm(dprojected[rows].t(), xs[rows], out=dgate_up[expert])
        dx = dxs.index_select(0, back).view(-1, TOP_K, D_MODEL).sum(1)
        return dx, None, dweights[back].view(-1, TOP_K), dgate_up, ddown


def matrix(*shape):
    return nn.Parameter(torch.zeros(*shape))


def ones(*shape):
    return nn.Parameter(torch.ones(*shape))


class Layer(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index, self.is_attention, self.is_moe = index, index % 4 == 2, index % 2 == 1
        self.balance_loss = self.attend_loss = torch.zeros(())
        self.input_norm, self.ff_norm = ones(D_MODEL), ones(D_MODEL)
        if self.is_attention:
            self.qkv, self.o_proj = matrix(N_HEADS * D_HEAD + 2 * KV_WIDTH, D_MODEL), matrix(D_MODEL, N_HEADS * D_HEAD)
        else:
            self.in_proj, self.x_proj = matrix(2 * D_INNER, D_MODEL), matrix(DBC, D_INNER)
            self.dt_proj, self.out_proj = matrix(D_INNER, DT_RANK), matrix(D_MODEL, D_INNER)
            self.conv, self.conv_bias, self.dbc_norm = matrix(D_INNER, 1, 4), matrix(D_INNER), ones(DBC)
            self.dt_bias, self.A_log, self.skip = matrix(D_INNER), matrix(D_INNER, D_STATE), ones(D_INNER)
        stack = (N_EXPERTS,) if self.is_moe else ()
        self.gate_up, self.down = matrix(*stack, 2 * D_FF, D_MODEL), matrix(*stack, D_MODEL, D_FF)
        if self.is_moe:
            self.router = matrix(N_EXPERTS, D_MODEL)

    def forward(self, x, sources):
        normed = RmsNorm.apply(x, self.input_norm)
        x = x + (self.attention(normed, sources) if self.is_attention else self.mamba(normed))
        normed = RmsNorm.apply(x, self.ff_norm)
        return x + (self.moe(normed) if self.is_moe else Mlp.apply(normed, self.gate_up, self.down))

    def mamba(self, x):
        return MambaMixer.apply(
            x, self.in_proj, self.conv, self.conv_bias, self.x_proj, self.dbc_norm, self.dt_proj, self.dt_bias,
            -torch.exp(self.A_log), self.skip, self.out_proj,
        )  # fmt: skip

    def attention(self, x, sources):
        batch, length, _ = x.shape
        q, k, v = (x @ self.qkv.t()).split([N_HEADS * D_HEAD, KV_WIDTH, KV_WIDTH], -1)
        q, k, v = (t.view(batch, length, -1, D_HEAD).transpose(1, 2) for t in (q, k, v))
        group = N_HEADS // N_KV_HEADS
        out = F.scaled_dot_product_attention(
            q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True
        )
        if sources is not None:
            self.attend_loss = self.attention_to_sources(q, k, sources)
        return out.transpose(1, 2).reshape(batch, length, D_MODEL) @ self.o_proj.t()

    @staticmethod
    def attention_to_sources(q, k, sources):
        """How little the heads attend to where the next token stands in the story: -log of the heads' mean probability.

        `sources` is (sequence, position, source position), one entry for each token that can be copied.
        """
        sequence, position, source = sources
        grouped = q[sequence, :, position].view(-1, N_KV_HEADS, N_HEADS // N_KV_HEADS, D_HEAD)
        scores = torch.einsum("nghd,ngtd->nght", grouped, k[sequence]) * D_HEAD**-0.5
        future = torch.arange(k.shape[2]) > position[:, None]
        scores = scores.masked_fill(future[:, None, None], -1e9).log_softmax(-1).flatten(1, 2)
        at_source = scores.gather(2, source[:, None, None].expand(-1, N_HEADS, 1))[..., 0]
        return math.log(N_HEADS) - at_source.logsumexp(1).mean()

    def moe(self, x):
        flat = x.view(-1, D_MODEL)
        probabilities = (flat @ self.router.t()).softmax(-1)
        weights, chosen = probabilities.topk(TOP_K, -1)  # not renormalised, as in Jamba
        load = F.one_hot(chosen, N_EXPERTS).float().mean((0, 1))
        self.balance_loss = N_EXPERTS * (probabilities.mean(0) * load).sum()
        return Experts.apply(flat, chosen, weights, self.gate_up, self.down).view_as(x)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lm_head, self.final_norm = matrix(VOCAB, D_MODEL), matrix(VOCAB, D_MODEL), ones(D_MODEL)
        self.layers = nn.ModuleList(Layer(i) for i in range(N_LAYERS))

    def forward(self, ids, sources=None):
        """Logits, and the residual stream under the first attention layer."""
        x = F.embedding(ids, self.embed)
        for layer in self.layers:
            if layer.index == 2:
                under_attention = x
            x = layer(x, sources)
        return RmsNorm.apply(x, self.final_norm) @ self.lm_head.t(), under_attention

    def balance_loss(self):
        return sum(layer.balance_loss for layer in self.layers if layer.is_moe)

    def attend_loss(self):
        losses = [layer.attend_loss for layer in self.layers if layer.is_attention]
        return sum(losses) / len(losses)


@torch.no_grad()
def initialise(model, seed=0):
    """Normal weights of 1/√fan_in, smaller where they write to the residual stream; Mamba's own A, D and step sizes."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        kind = name.split(".")[-1]
        if kind == "A_log":
            p.copy_(torch.arange(1, D_STATE + 1).float().log().expand_as(p))
        elif kind == "dt_bias":
            low, high = math.log(1e-3), math.log(0.1)
            p.copy_((low + (high - low) * torch.rand(p.shape, generator=generator)).exp().expm1().log())
        elif kind == "conv":
            p.copy_(torch.rand(p.shape, generator=generator) - 0.5)
        elif p.dim() >= 2:
            gain = 0.25 if kind in ("out_proj", "o_proj", "down") else 0.02 if kind == "embed" else 1.0
            p.copy_(torch.randn(p.shape, generator=generator) * (gain / math.sqrt(p.shape[-1])))


def named_views(model):
    """Hugging Face's name of each tensor, and the view of the model's parameters that it is."""
    yield "model.embed_tokens.weight", model.embed
    yield "model.final_layernorm.weight", model.final_norm
    yield "lm_head.weight", model.lm_head
    for layer in model.layers:
        prefix = f"model.layers.{layer.index}."
        yield prefix + "input_layernorm.weight", layer.input_norm
        yield prefix + "pre_ff_layernorm.weight", layer.ff_norm
        if layer.is_attention:
            for name, part in zip("qkv", layer.qkv.split([N_HEADS * D_HEAD, KV_WIDTH, KV_WIDTH])):
                yield f"{prefix}self_attn.{name}_proj.weight", part
            yield prefix + "self_attn.o_proj.weight", layer.o_proj
        else:
            for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
                yield f"{prefix}mamba.{name}.weight", getattr(layer, name)
            for name, (column, width) in zip(("dt", "b", "c"), DBC_PARTS):
                yield f"{prefix}mamba.{name}_layernorm.weight", layer.dbc_norm[column : column + width]
            yield prefix + "mamba.conv1d.weight", layer.conv
            yield prefix + "mamba.conv1d.bias", layer.conv_bias
            yield prefix + "mamba.dt_proj.bias", layer.dt_bias
            yield prefix + "mamba.A_log", layer.A_log
            yield prefix + "mamba.D", layer.skip
        if layer.is_moe:
            yield prefix + "feed_forward.router.weight", layer.router
        for expert in range(N_EXPERTS) if layer.is_moe else [None]:
            infix = "feed_forward." if expert is None else f"feed_forward.experts.{expert}."
            gate_up, down = (
                (layer.gate_up, layer.down) if expert is None else (layer.gate_up[expert], layer.down[expert])
            )
            yield f"{prefix}{infix}gate_proj.weight", gate_up[:D_FF]
            yield f"{prefix}{infix}up_proj.weight", gate_up[D_FF:]
            yield f"{prefix}{infix}down_proj.weight", down


@torch.no_grad()
def to_checkpoint(model):
    return {name: view.detach().clone() for name, view in named_views(model)}


@torch.no_grad()
def from_checkpoint(model, tensors):
    for name, view in named_views(model):
        view.copy_(tensors[name])
