# SPDX-License-Identifier: MIT
"""Devices, model shapes, and what each kernel moves and computes.

A call counts the elements that its launches read and write (of 4 bytes in f32) and its FLOPs, as
the comments in kernels/*.cu state them. Indices, gains, biases and softmax statistics are left out:
less than one part in a hundred. Letters as in include/causa/backend.h: T rows, D width, H query
heads, K key/value heads, Dh head width, F MLP width, V vocabulary, R lanes.
"""

from typing import NamedTuple


class Device(NamedTuple):
    name: str
    bandwidth: float  # bytes/s
    f32: float  # FLOP/s outside the tensor cores
    bf16: float  # FLOP/s of the tensor cores, f32 sums, no sparsity
    multiprocessors: int


# Sources: NVIDIA H100 Tensor Core GPU datasheet (SXM: 3.35 TB/s, 67 TFLOP/s FP32, 1979 TFLOP/s BF16
# with sparsity, half of it without) and NVIDIA H100 architecture whitepaper (132 multiprocessors);
# NVIDIA A100 datasheet (80GB SXM: 2039 GB/s, 19.5 TFLOP/s FP32, 312 TFLOP/s BF16) and NVIDIA A100
# architecture whitepaper (108 multiprocessors).
DEVICES = {
    "h100": Device("H100 SXM", 3.35e12, 67e12, 989e12, 132),
    "a100": Device("A100 SXM 80GB", 2.039e12, 19.5e12, 312e12, 108),
}

# Shares of those peaks that are assumed to be reached: matrix products by cuBLAS ("gemm"),
# attention's own kernels, everything else. "bf16" has all tensors and products in bf16: what
# `precision: bf16`, which keeps values in f32, could come to.
BANDWIDTH_SHARE = 0.85
FLOP_SHARE = {
    "f32": {"gemm": 0.75, "attention": 0.5, "rows": 0.5},
    "bf16": {"gemm": 0.6, "attention": 0.3, "rows": 0.5},
}
ELEMENT_BYTES = {"f32": 4, "bf16": 2}

# Launch costs, the same for both devices. NVIDIA's blog "Getting Started with CUDA Graphs" (2019)
# found on a V100, for kernels of 2.9 us: 3.8 us each on a stream, 3.4 us in a graph, 9.6 us with a
# synchronisation after each. LEAST and SUBMIT are assumptions.
STREAM_GAP, GRAPH_GAP, ROUND_TRIP = 0.9e-6, 0.5e-6, 6.7e-6
LEAST = 2e-6  # a kernel that has next to nothing to do: its blocks start, load, store
SUBMIT = 2.5e-6  # the host enqueues a launch; a graph needs it once


class Model(NamedTuple):
    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    gated: bool  # gate and up, RMS norm, rotary positions, no biases; else GPT-2's way
    larger: int  # times the default rows of a pass that fit 80 GB in f32 beside the weights

    @property
    def queries(self):
        return self.heads * self.head_dim

    @property
    def keys(self):
        return self.kv_heads * self.head_dim

    @property
    def up(self):
        return self.mlp * (2 if self.gated else 1)

    @property
    def block_weights(self):
        projections = 2 * self.queries + 2 * self.keys
        return self.width * (projections + self.up + self.mlp)


# Shapes: the config.json files of openai-community/gpt2, meta-llama/Llama-3.2-1B, Llama-3.1-8B.
MODELS = {
    "gpt2": Model("GPT-2 small", 12, 768, 12, 12, 64, 3072, 50257, False, 8),
    "1b": Model("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256, True, 8),
    "8b": Model("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, True, 2),
}


class Call(NamedTuple):
    kernel: str
    elements: float
    flops: float
    unit: str = "rows"
    items: float = float("inf")  # blocks of a grid, where it may have fewer than multiprocessors
    launches: int = 1


class Batch(NamedTuple):
    """Sequences of `own` rows, each on a prefix of `prefix` keys."""

    sequences: int
    own: int
    prefix: int = 0

    @property
    def rows(self):
        return self.sequences * self.own


def ceil_div(a, b):
    return -(-a // b)


# ---- time


def arithmetic_seconds(call, device, form):
    peak = device.bf16 if form == "bf16" and call.unit != "rows" else device.f32
    busy = min(1, call.items / device.multiprocessors)
    return call.flops / (FLOP_SHARE[form][call.unit] * peak * busy)


def memory_seconds(call, device, form):
    return ELEMENT_BYTES[form] * call.elements / (BANDWIDTH_SHARE * device.bandwidth)


def work_seconds(call, device, form):
    """Roofline: the slower of memory and arithmetic, without launch costs."""
    return max(arithmetic_seconds(call, device, form), memory_seconds(call, device, form))


def device_seconds(call, device, form, gap=STREAM_GAP):
    """Of all its launches, one after the other on a stream that is never empty."""
    each = work_seconds(call, device, form) / call.launches
    return call.launches * (max(each, LEAST) + gap)


# ---- kernels on elements and rows


def rows_call(kernel, elements, flops=0.0, launches=1):
    return Call(kernel, elements, flops, launches=launches)


def copy(n):
    return rows_call("copy", 2 * n)


def fill(n):
    return rows_call("fill", n)


def add(n):
    return rows_call("add", 3 * n, 2 * n)


def add_bias(n):
    return rows_call("add_bias", 2 * n, n)


def add_scaled_rows(n):
    return rows_call("add_scaled_rows", 3 * n, 2 * n)


def multiply(n):
    return rows_call("multiply", 3 * n, n)


def gather(n, accumulate=False):
    return rows_call("gather", (3 if accumulate else 2) * n, 2 * n)


def scatter_add(n):
    return rows_call("scatter_add", 3 * n, n)


def sum_heads(rows, heads, width):
    return rows_call("sum_heads", (heads + 1) * rows * width, heads * rows * width)


def norm_fwd(n):
    return rows_call("norm_fwd", 2 * n, 8 * n)


def norm_bwd(n, repeats=1, accumulate=False):
    """n elements of x, whose rows serve `repeats` rows of gradients."""
    return rows_call("norm_bwd", n * (repeats * (3 if accumulate else 2) + 1), 25 * n * repeats)


def norm_stats(n):
    return rows_call("norm_stats", 2 * n, 6 * n)


def act_fwd(n, gated):
    return rows_call("act_fwd", (3 if gated else 2) * n, 30 * n)


def act_bwd(n, gated, lanes=1):
    """n elements of one lane of dy."""
    return rows_call("act_bwd", n * (lanes * (3 if gated else 2) + (2 if gated else 1)),
                     n * (10 * lanes + 30))


def rope(n):
    return rows_call("rope", 2 * n, 3 * n)


def mix_fwd(n):
    """One weight for a row."""
    return rows_call("mix_fwd", 3 * n, 3 * n)


def mix_bwd(n):
    """One weight for a row; with the mask's gradient."""
    return rows_call("mix_bwd", 4 * n, 5 * n)


def soft_cap_bwd(n):
    return rows_call("soft_cap_bwd", 3 * n, 4 * n)


def soft_cap_fwd(n):
    return rows_call("soft_cap_fwd", 2 * n, 20 * n)


def log_sum_exp(n):
    return rows_call("log_sum_exp", n, 10 * n, launches=2)


def softmax(n):
    """Rows that are longer than a block's registers: x is read twice."""
    return rows_call("softmax", 3 * n, 15 * n, launches=2)


def top_k(n):
    """Five times over each row, of which all but the first come from the cache."""
    return rows_call("top_k", n, 5 * n)


def cross_entropy_fwd(n):
    return rows_call("cross_entropy_fwd", n, 4 * n)


def cross_entropy_bwd(n):
    return rows_call("cross_entropy_bwd", 3 * n, 7 * n)


def row_norms(n):
    return rows_call("row_norms", n, 2 * n)


def row_dots(n):
    return rows_call("row_dots", 2 * n, 2 * n)


def row_distances(n):
    return rows_call("row_distances", 2 * n, 3 * n)


def column_sums(n):
    return rows_call("column_sums", n, n, launches=2)


def adam_step(n):
    return rows_call("adam_step", 7 * n, 15 * n)


# ---- matrix products


def matmul(m, n, k, batch=1, accumulate=False):
    """[m, k] [k, n]. A grid of tiles of 128 x 64, with k cut into slices of 1024 where that gives
    more of them: what cuBLAS may do, not what it is known to do."""
    items = batch * ceil_div(m, 128) * ceil_div(n, 64) * max(1, k // 1024)
    elements = batch * (m * k + k * n + (2 if accumulate else 1) * m * n)
    return Call("matmul", elements, 2.0 * batch * m * n * k, "gemm", items)


def matmul_groups(m, n, k, groups, each):
    """Products of which `each` after one another share their right factor: it is read once."""
    apart = matmul(m, n, k, batch=groups * each)
    return apart._replace(elements=apart.elements - groups * (each - 1) * k * n)


# ---- with f32 values and factors in bf16, as `precision: bf16` has it. Elements of these calls are
# of 2 bytes: their times are those of the form "bf16", with f32 values as two elements.

SCRATCH, TERMS = 16 << 20, 3  # bf16 values that fit at a time (table.c), of a cut f32 (cuda.h)


def matmul_bf16(m, n, k, accumulate=False):
    """Both factors in bf16, the product in f32."""
    call = matmul(m, n, k)
    return call._replace(elements=m * k + k * n + (4 if accumulate else 2) * m * n)


def matmul_rounded(m, n, k):
    """A left factor in f32 is rounded into scratch memory first, some rows after another."""
    calls = []
    for rows in pieces(m, SCRATCH // k):
        calls += [rows_call("copy", 3 * rows * k), matmul_bf16(rows, n, k)]
    return calls


def matmul_wide(m, n, k):
    """It is cut into three terms instead, each with its own product; the second adds to the
    first, the third to both."""
    calls = []
    for rows in pieces(m, SCRATCH // TERMS // 128 * 128 // k):
        calls += [split_bf16(rows * k), matmul_bf16(rows, n, k)]
        calls += (TERMS - 1) * [matmul_bf16(rows, n, k, accumulate=True)]
    return calls


def pieces(rows, most):
    return [min(most, rows - first) for first in range(0, rows, most)]


def split_bf16(n):
    """Reads 4 bytes, writes three times 2; a subtraction for each term."""
    return rows_call("split_bf16", (2 + TERMS) * n, TERMS * n)


# ---- attention: computed pairs are those of whole tiles of 64 keys


def computed_pairs(batch, group):
    """Row-key pairs of one sequence and key/value head, rows packed over the heads of its group;
    and the number of row tiles."""
    packed = batch.own * group
    tile = 16 if packed <= 32 else 64
    tiles = ceil_div(packed, tile)
    pairs = 0
    for i in range(tiles):
        last = min(batch.own, ceil_div((i + 1) * tile, group))
        pairs += tile * 64 * ceil_div(batch.prefix + last, 64)
    return pairs, tiles


def attention_call(kernel, m, batch, elements, flops_each, launches=1, copies=1):
    """flops_each: for each computed pair and element of a head."""
    pairs, tiles = computed_pairs(batch, m.heads // m.kv_heads)
    heads = batch.sequences * m.kv_heads
    return Call(kernel, elements, flops_each * m.head_dim * pairs * heads, "attention",
                tiles * heads * copies, launches)


def key_rows(batch):
    return batch.rows + batch.sequences * batch.prefix


def attention_fwd(m, batch):
    elements = 2 * batch.rows * m.queries + 2 * key_rows(batch) * m.keys
    return attention_call("attention_fwd", m, batch, elements, 4)


def attention_fwd_bf16(m, batch):
    """On tensor cores; reads and writes f32, counted as matmul_bf16 does."""
    call = attention_fwd(m, batch)
    return call._replace(kernel="attention_fwd_bf16", elements=2 * call.elements)


def lane_blocks(m, batch, lanes):
    """Blocks that share a tile's lanes, each of which makes its scores: four for each of 132
    multiprocessors, or one for each lane."""
    _, tiles = computed_pairs(batch, m.heads // m.kv_heads)
    block = lanes
    while block > 1 and (tiles * batch.sequences * m.kv_heads * ceil_div(lanes, block) < 4 * 132):
        block = (block + 1) // 2
    return ceil_div(lanes, block)


def attention_bwd(m, batch, lanes, owners=None):
    """Three launches: delta, dq, dk and dv. owners: heads of dk and dv."""
    q, k, kv = batch.rows * m.queries, key_rows(batch) * m.keys, batch.rows * m.head_dim
    elements = lanes * (4 * q + 2 * kv * (owners or m.kv_heads)) + 3 * q + 4 * k
    blocks = lane_blocks(m, batch, lanes)
    return attention_call("attention_bwd", m, batch, elements, 10 * lanes + 4 * blocks, 3, blocks)


def pattern_elements(m, batch):
    return m.heads * batch.rows * (batch.prefix + batch.own)


def pattern_fwd(m, batch):
    """Scores are written, read, and written again as probabilities."""
    elements = batch.rows * m.queries + key_rows(batch) * m.keys + 3 * pattern_elements(m, batch)
    return attention_call("pattern_fwd", m, batch, elements, 2)


def pattern_apply_fwd(m, batch):
    chunks = ceil_div(m.head_dim, 64)
    elements = (batch.rows * m.queries + key_rows(batch) * m.keys +
                chunks * pattern_elements(m, batch))
    return attention_call("pattern_apply_fwd", m, batch, elements, 2)


def pattern_apply_bwd(m, batch, lanes):
    """Two launches: d_pattern, dv."""
    chunks = ceil_div(m.head_dim, 64)
    elements = (lanes * (2 * batch.rows * m.queries + batch.rows * m.keys +
                         pattern_elements(m, batch)) + key_rows(batch) * m.keys +
                lanes * chunks * pattern_elements(m, batch))
    return attention_call("pattern_apply_bwd", m, batch, elements, 4 * lanes, 2, lanes)


def pattern_bwd(m, batch, lanes):
    """Three launches: means, dq, dk."""
    chunks = ceil_div(m.head_dim, 64)
    elements = (lanes * (2 * batch.rows * m.queries + 2 * batch.rows * m.keys +
                         (2 + 4 * chunks) * pattern_elements(m, batch)))
    return attention_call("pattern_bwd", m, batch, elements, 4 * lanes, 3, lanes)


def pattern_mix_fwd(m, batch):
    n = pattern_elements(m, batch)
    return rows_call("pattern_mix_fwd", 3 * n, 3 * n)


def pattern_mix_bwd(m, batch):
    """With the mask's gradient."""
    n = pattern_elements(m, batch)
    return rows_call("pattern_mix_bwd", 4 * n, 7 * n)


# ---- the rows of bench_gpu

BENCH_ROWS, BENCH_SEQUENCE, BENCH_HEAD_ROWS, BENCH_LANES, BENCH_TOP = 4096, 512, 256, 4, 10


def bench_calls(m, vocab):
    """(name as tests/bench/bench_gpu.c prints it, call) at the sizes of one layer of a model: all
    in f32."""
    t, d, f = BENCH_ROWS, m.width, m.mlp
    batch = Batch(t // BENCH_SEQUENCE, BENCH_SEQUENCE)
    head = BENCH_HEAD_ROWS * vocab
    products = [(f"matmul {n} x {f} x {d}", matmul(n, f, d)) for n in (1, 16, 256, t)]
    long = Batch(1, t)
    gated = ", gated" if m.gated else ""
    act = "silu" if m.gated else "gelu"
    return [
        ("copy", copy(t * d)),
        ("fill", fill(t * d)),
        ("add", add(t * d)),
        ("add_scaled_rows", add_scaled_rows(t * d)),
        ("multiply", multiply(t * d)),
        ("gather", gather(t * d)),
        ("scatter_add", scatter_add(t * d)),
        ("add_bias", add_bias(t * d)),
        ("sum_heads", sum_heads(t, 8, d // 4)),
        ("norm_fwd", norm_fwd(t * d)),
        ("norm_bwd", norm_bwd(t * d)),
        ("norm_fwd layer", norm_fwd(t * d)),
        ("norm_bwd layer", norm_bwd(t * d)),
        ("norm_stats", norm_stats(t * d)),
        (f"act_fwd {act}{gated}", act_fwd(t * f, m.gated)),
        (f"act_bwd {act}{gated}", act_bwd(t * f, m.gated)),
        *([("act_fwd gelu", act_fwd(t * f, False)), ("act_bwd gelu", act_bwd(t * f, False))]
          if m.gated else []),
        ("rope", rope(t * m.queries)),
        ("mix_fwd", mix_fwd(t * d)),
        ("mix_bwd", mix_bwd(t * d)),
        ("soft_cap_fwd", soft_cap_fwd(head)),
        ("soft_cap_bwd", soft_cap_bwd(head)),
        ("log_sum_exp", log_sum_exp(head)),
        ("softmax", softmax(head)),
        (f"top_k {BENCH_TOP}", top_k(head)),
        ("cross_entropy_fwd", cross_entropy_fwd(head)),
        ("cross_entropy_bwd", cross_entropy_bwd(head)),
        ("row_norms", row_norms(t * d)),
        ("row_dots", row_dots(t * d)),
        ("row_distances", row_distances(t * d)),
        ("column_sums", column_sums(t * d)),
        ("adam_step", adam_step(t * d)),
        *products,
        (f"matmul in {m.kv_heads} groups of {m.heads // m.kv_heads}",
         matmul_groups(t // m.heads, d, m.head_dim, m.kv_heads, m.heads // m.kv_heads)),
        ("attention_fwd", attention_fwd(m, batch)),
        (f"attention_bwd, {BENCH_LANES} lanes", attention_bwd(m, batch, BENCH_LANES)),
        ("pattern_fwd", pattern_fwd(m, batch)),
        ("pattern_apply_fwd", pattern_apply_fwd(m, batch)),
        (f"pattern_apply_bwd, {BENCH_LANES} lanes", pattern_apply_bwd(m, batch, BENCH_LANES)),
        (f"pattern_bwd, {BENCH_LANES} lanes", pattern_bwd(m, batch, BENCH_LANES)),
        ("pattern_mix_fwd", pattern_mix_fwd(m, batch)),
        ("pattern_mix_bwd", pattern_mix_bwd(m, batch)),
        (f"attention_fwd, {t} rows", attention_fwd(m, long)),
        (f"attention_bwd, {t} rows", attention_bwd(m, long, BENCH_LANES)),
    ]


def bench_bf16_calls(m):
    """(name, calls) of the benchmark's rows with factors in bf16, which are one call or more."""
    t, d, f, thin = BENCH_ROWS, m.width, m.mlp, 8
    counts = (1, 16, 256, t)
    return [
        *[(f"bf16 {n} x {f} x {d}", matmul_rounded(n, f, d)) for n in counts],
        *[(f"bf16, wide {n} x {f} x {d}", matmul_wide(n, f, d)) for n in counts],
        *[(f"bf16 by bf16 {n} x {f} x {d}", [matmul_bf16(n, f, d)]) for n in counts],
        ("split_bf16, thin product", matmul_wide(t, thin, d)),
        ("attention_fwd_bf16", [attention_fwd_bf16(m, Batch(t // BENCH_SEQUENCE, BENCH_SEQUENCE))]),
        (f"attention_fwd_bf16, {t} rows", [attention_fwd_bf16(m, Batch(1, t))]),
    ]
