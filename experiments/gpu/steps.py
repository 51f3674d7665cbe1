# SPDX-License-Identifier: MIT
"""Method steps as kernel calls, counted from the C code that makes them.

forward() and backward() follow src/graph/forward.c and backward.c; fisher() follows
src/method/jacobian/fisher.c and lanes.c; eap() follows the gradient engine of EAP. mask() and das()
follow the published methods, composed of the operations of include/causa/ops.h.
"""

from collections import Counter
from typing import NamedTuple

import kernels as k

# One thread of the host. Sums in float64 add one number in four cycles of about 3 GHz, since they
# may not be reordered; passes over arrays are bound by memory. Both assumed. Transfers go through
# page-locked memory: a PCIe 4 x16 link and a copy on the host.
HOST_FLOPS, HOST_BANDWIDTH, TRANSFER = 2e9, 8e9, 12e9


class Step:
    """Calls with how often they happen, and what the host does between them."""

    def __init__(self, model):
        self.model = model
        self.calls = Counter()
        self.synchronisations = 0
        self.transferred = self.host_bytes = self.host_flops = 0.0

    def run(self, *calls, times=1):
        for call in calls:
            self.calls[call] += times

    def download(self, elements, times=1):
        self.transferred += 4.0 * elements * times
        self.synchronisations += times

    def upload(self, elements):
        self.transferred += 4.0 * elements

    @property
    def launches(self):
        return sum(call.launches * times for call, times in self.calls.items())

    @property
    def flops(self):
        return sum(call.flops * times for call, times in self.calls.items())


class Estimate(NamedTuple):
    total: float  # seconds
    arithmetic: float  # of calls bound by it
    bandwidth: float
    launch: float  # what launches cost beside their work
    host: float  # arithmetic and transfers while the device waits


def estimate(step, device, form, graphs=False):
    arithmetic = bandwidth = stream = 0.0
    gap = k.GRAPH_GAP if graphs else k.STREAM_GAP
    for call, times in step.calls.items():
        work = k.work_seconds(call, device, form)
        if k.arithmetic_seconds(call, device, form) >= k.memory_seconds(call, device, form):
            arithmetic += times * work
        else:
            bandwidth += times * work
        stream += times * k.device_seconds(call, device, form, gap)
    busy = max(stream, 0 if graphs else step.launches * k.SUBMIT)
    host = (step.transferred / TRANSFER + step.synchronisations * k.ROUND_TRIP +
            step.host_bytes / HOST_BANDWIDTH + step.host_flops / HOST_FLOPS)
    return Estimate(busy + host, arithmetic, bandwidth, busy - arithmetic - bandwidth, host)


# ---- passes


def linear(step, rows, inner, out, times=1, accumulate=False):
    """The bias comes with the product. accumulate: into the residual stream."""
    step.run(k.matmul(rows, out, inner, accumulate=accumulate), times=times)


def add_branch(step, rows, inner, keep, times, read=False):
    """The last product of a branch and its sum with the residual stream: one call unless a hook
    reads the branch by itself."""
    n = rows * step.model.width
    if keep:
        step.run(k.copy(n), times=times)
    linear(step, rows, inner, step.model.width, times, accumulate=not read)
    if read:
        step.run(k.add(n), times=times)


def forward(step, batch, reads, layers=None, keep=True, mixed=False, embed=True, tapped=False,
            logits=True):
    """keep: a backward follows; mixed: patterns of all heads are mixed with others; embed: from
    token ids, else from a residual stream; tapped: a hook reads the output of every MLP; without
    logits it ends at the final norm."""
    m, t = step.model, batch.rows
    n, layers = t * m.width, m.layers if layers is None else layers
    step.run(k.gather(n) if embed else k.copy(n))
    if embed and not m.gated:
        step.run(k.gather(n, accumulate=True))
    step.run(k.norm_fwd(n), times=2 * layers)
    linear(step, t, m.width, m.queries + 2 * m.keys, layers)
    if m.gated:
        step.run(k.rope(t * m.queries), k.rope(t * m.keys), times=layers)
    if mixed:
        step.run(k.pattern_fwd(m, batch), k.copy(k.pattern_elements(m, batch)),
                 k.pattern_mix_fwd(m, batch), k.pattern_apply_fwd(m, batch), times=layers)
    else:
        step.run(k.attention_fwd(m, batch), times=layers)
    add_branch(step, t, m.queries, keep, layers)
    linear(step, t, m.width, m.up, layers)
    step.run(k.act_fwd(t * m.mlp, m.gated), times=layers)
    add_branch(step, t, m.mlp, keep, layers, read=tapped)
    step.run(k.gather(reads * m.width), k.norm_fwd(reads * m.width))
    if logits:
        step.run(k.matmul(reads, m.vocab, m.width))


def backward(step, batch, reads, lanes=1, layers=None, from_logits=True, mixed=False, points=0):
    """points: gradients at the inputs of all heads and MLPs are summed, as EAP does with so many
    runs side by side in the batch."""
    m, t = step.model, batch.rows
    n, layers = t * m.width, m.layers if layers is None else layers
    step.run(k.fill(lanes * n), k.norm_bwd(reads * m.width, lanes),
             k.scatter_add(lanes * reads * m.width))
    step.run(k.matmul(lanes * reads, m.width, m.vocab) if from_logits else
             k.copy(lanes * reads * m.width))
    step.run(k.matmul(lanes * t, m.mlp, m.width), k.act_bwd(t * m.mlp, m.gated, lanes),
             k.matmul(lanes * t, m.width, m.up), times=layers)
    if points:
        step.run(k.norm_bwd(n, lanes), k.add(lanes * n), times=layers)
        step.run(k.add(n // points), times=points * layers)
    else:
        step.run(k.norm_bwd(n, lanes, accumulate=True), times=layers)
    step.run(k.matmul(lanes * t, m.queries, m.width), times=layers)
    key_heads = m.heads if points else m.kv_heads
    if mixed:
        step.run(k.pattern_apply_bwd(m, batch, lanes), k.pattern_mix_bwd(m, batch),
                 k.column_sums(t * m.heads), k.pattern_bwd(m, batch, lanes), times=layers)
    else:
        step.run(k.attention_bwd(m, batch, lanes, key_heads), times=layers)
    if m.gated:
        step.run(k.rope(lanes * t * m.queries), k.rope(lanes * t * key_heads * m.head_dim),
                 times=layers)
    if points:
        sum_heads_of_points(step, t, points, layers)
    step.run(k.matmul(lanes * t, m.width, m.queries + 2 * m.keys),
             k.norm_bwd(n, lanes, accumulate=True), times=layers)


def sum_heads_of_points(step, t, points, times):
    """Of q, k and v: what the gradient of each query head's own input needs, summed over points;
    then the query heads' shares of keys and values, added for the ordinary backward."""
    m = step.model
    step.run(k.norm_stats(t * m.width), times=times)
    if m.gated:  # q and k are kept rotated, and turned back
        step.run(k.copy(t * m.queries), k.rope(t * m.queries), k.copy(t * m.keys),
                 k.rope(t * m.keys), times=times)
    step.run(k.row_dots(t * m.queries), k.multiply(t * m.heads), times=3 * times)
    if not m.gated:  # biases are projected too
        step.run(k.row_dots(t * m.queries), k.add(t * m.heads), times=3 * times)
    step.run(k.add_scaled_rows(t // points * m.queries), times=3 * points * times)
    step.run(k.sum_heads(t, m.heads // m.kv_heads, m.head_dim), times=2 * m.kv_heads * times)


# ---- methods

DEFAULT_ROWS = 1024  # of a pass: what src/graph/plan.c cuts at
FISHER_RANK, FISHER_PROMPT, FISHER_BLOCKS = 8, 128, 4
EAP_POINTS = 5
MASK_TEXTS, MASK_OWN, MASK_PREFIX = 64, 5, 9
DAS_EXAMPLES, DAS_OWN, DAS_PREFIX = 64, 8, 74


def fisher(m, factor=1):
    """A micro-batch of prompts with one read each: eigenpairs, then as many lanes. Multiplied back
    to 1024 rows."""
    step = Step(m)
    batch = k.Batch(factor * DEFAULT_ROWS // FISHER_PROMPT, FISHER_PROMPT)
    forward(step, batch, batch.sequences)
    block = FISHER_RANK + 8
    chunk = min(batch.sequences, (1 << 24) // (block * m.vocab) + 1)
    for first in range(0, batch.sequences, chunk):
        eigenpairs(step, min(chunk, batch.sequences - first), block)
    backward(step, batch, batch.sequences, FISHER_RANK, from_logits=False)
    step.run(k.copy(batch.sequences * m.width), k.row_norms(batch.rows * m.width),
             times=FISHER_RANK)
    step.download(batch.rows, FISHER_RANK)
    repeat(step, 1 / factor)
    return step


def eigenpairs(step, reads, block):
    """Block Krylov iteration for a chunk of reads; it usually takes four blocks."""
    m, rows = step.model, reads * block
    step.run(k.softmax(reads * m.vocab), k.matmul(reads, m.width, m.vocab),
             k.row_dots(reads * m.vocab), k.row_dots(reads * m.width), k.add(reads),
             k.top_k(reads * m.vocab), k.gather(rows * m.width))
    step.download(reads)
    step.download(reads * m.width)
    step.download(rows * m.width)
    step.run(k.matmul(rows, m.vocab, m.width), k.matmul(rows, m.vocab, 1, accumulate=True),
             k.multiply(rows * m.vocab), k.row_dots(rows * m.vocab),
             k.matmul(rows, m.width, m.vocab), times=FISHER_BLOCKS)
    for i in range(1, FISHER_BLOCKS + 1):
        size = i * block
        step.upload(rows * m.width)
        step.download(rows)
        step.download(rows * m.width)
        # each read: the projected matrix and the residuals of `rank` pairs
        step.host_flops += reads * m.width * (size * size + 4.0 * FISHER_RANK * size)
    basis = FISHER_BLOCKS * block  # orthogonalised twice
    step.host_flops += reads * 4.0 * m.width * basis * basis
    step.upload(reads * FISHER_RANK * m.width)


def eap(m, pairs, own, most):
    """EAP-IG on inputs over `pairs` pairs, `most` in a micro-batch: a clean run, then the points'
    runs side by side, of which the corrupted one is tapped too, with their backward, and the
    products of all scores. Pairs differ early, so that tails are whole prompts. The metric is
    linear in the logits: they are made of the ends, and its gradient once a pair."""
    step = Step(m)
    batch = k.Batch(most, own)
    points = k.Batch(EAP_POINTS * most, own)
    n, z = batch.rows * m.width, batch.rows * m.queries
    forward(step, batch, most, keep=False, tapped=True)
    step.run(k.mix_fwd(n), times=EAP_POINTS)
    forward(step, points, points.sequences, tapped=True, logits=False)
    step.run(k.matmul(most, m.vocab, m.width))  # of the corrupted run
    step.run(k.gather(n), times=2)  # the difference of the ends: of the embeddings,
    step.run(k.copy(n), k.add(n), k.fill(m.layers * n), k.fill(m.layers * z))
    step.run(k.add(n), k.add(z), times=2 * m.layers)  # and what taps add as the ends run
    step.run(k.matmul(most, m.width, m.vocab), k.copy((EAP_POINTS - 1) * most * m.width))
    backward(step, points, points.sequences, points=EAP_POINTS, from_logits=False)
    step.run(k.add(n), times=EAP_POINTS)  # at the logits
    scores(step, most, own)
    score_host(step, most)
    repeat(step, pairs / most)
    return step


EXPANDED, LEAST_EXPANDED, MOST_UNITS, COLUMNS = 16 << 20, 16, 8, 96  # src/method/eap/plan.c, score.c


def scores(step, pairs, own):
    """Of the sums of all pairs of a group: some rows at a time have D values for each source and
    each reader of a group of layers."""
    m = step.model
    fit = max(LEAST_EXPANDED, EXPANDED // (4 * m.width * (m.layers * (m.heads + 1) + 1)))
    units = min(MOST_UNITS, fit // own) or 1
    parts = k.ceil_div(own, fit)
    chunk = Step(m)
    expand_sources(chunk, units * own / parts)
    columns = 3 * m.heads + 1
    group = min(m.layers, k.ceil_div(COLUMNS, columns))
    for bottom in range(0, m.layers, group):
        top = min(bottom + group, m.layers)
        expand_readers(chunk, units * own / parts, top - bottom)
        chunk.run(k.matmul(top * (m.heads + 1), (top - bottom) * columns, own / parts * m.width,
                           accumulate=True), times=units)
    chunk.run(k.matmul(1 + m.layers * (m.heads + 1), 1, own / parts * m.width), times=units)
    for call, times in chunk.calls.items():
        step.calls[call] += times * parts * pairs / units
    step.download((m.layers * (m.heads + 1) + 1) * (m.layers * columns + 1), pairs)


def expand_sources(step, rows):
    m = step.model
    step.run(k.matmul(rows, m.width, m.head_dim, batch=m.heads), times=m.layers)
    step.run(k.copy(rows * m.width), times=1 + m.layers)


def expand_readers(step, rows, layers):
    """Through the projections, which the heads of a group share, the gain and the norm."""
    m = step.model
    n, each = rows * m.width, m.heads // m.kv_heads
    step.run(k.matmul(rows, m.width, m.head_dim, batch=m.heads), times=layers)
    if each == 1:
        step.run(k.matmul(rows, m.width, m.head_dim, batch=m.heads), times=2 * layers)
    else:
        step.run(k.matmul(rows, m.width, m.head_dim, batch=each), times=2 * m.kv_heads * layers)
    step.run(k.multiply(3 * m.heads * n), k.norm_stats(EAP_POINTS * n), k.copy(n), times=layers)
    if not m.gated:  # the mean of a layer norm
        step.run(k.row_dots(3 * m.heads * n), k.add_scaled_rows(3 * m.heads * n), times=layers)
    step.run(k.add_scaled_rows(m.heads * n), times=3 * EAP_POINTS * layers)


def score_host(step, pairs):
    """Metrics are taken on the host, one row of logits after the other, in float64; so is the
    gradient of each pair."""
    vocab = step.model.vocab
    step.download(vocab, 3 * pairs)  # the clean run's row for its prediction and for its metric
    step.upload(vocab * pairs)
    step.host_bytes += vocab * pairs * (48.0 + 24.0 + 40.0)


def repeat(step, times):
    for call in step.calls:
        step.calls[call] *= times
    for name in ("synchronisations", "transferred", "host_bytes", "host_flops"):
        setattr(step, name, getattr(step, name) * times)


def mask(m, factor=1):
    """One step on a weight for each head that mixes attention patterns: tails on cached prefixes,
    the log-probability of the continuation, Adam. Multiplied back to one batch of 64 texts."""
    step = Step(m)
    batch = k.Batch(factor * MASK_TEXTS, MASK_OWN, MASK_PREFIX)
    forward(step, batch, batch.rows, mixed=True)
    logits = batch.rows * m.vocab
    step.run(k.cross_entropy_fwd(logits), k.cross_entropy_bwd(logits))
    step.download(batch.rows)
    step.upload(batch.rows)
    backward(step, batch, batch.rows, mixed=True)
    step.run(k.adam_step(m.layers * m.heads))
    repeat(step, 1 / factor)
    return step


def das(m, factor=1):
    """One step on a rotation of the residual stream in the middle of the model: tails on cached
    prefixes through the upper half, then the tangent step and two Newton-Schulz corrections.
    Multiplied back to 64 examples."""
    step = Step(m)
    d, square = m.width, m.width * m.width
    batch = k.Batch(factor * DAS_EXAMPLES, DAS_OWN, DAS_PREFIX)
    rows, upper = batch.sequences, m.layers // 2
    site = rows * d
    step.run(k.add(site), k.multiply(site), k.matmul(rows, d, d), k.matmul(rows, d, d),
             k.scatter_add(site))
    forward(step, batch, rows, upper, embed=False)
    step.run(k.cross_entropy_fwd(rows * m.vocab), k.cross_entropy_bwd(rows * m.vocab))
    step.download(rows)
    backward(step, batch, rows, layers=upper)
    step.run(k.gather(site), k.matmul(rows, d, d), k.multiply(site), k.column_sums(site))
    step.run(k.matmul(d, d, rows), k.matmul(d, d, rows, accumulate=True))  # y^T z + z^T y
    step.run(k.multiply(square), times=2)  # by the differences of the mask
    step.run(k.add(square), k.adam_step(square))
    step.run(k.matmul(d, d, d), k.add(square))  # R - R U
    step.run(k.matmul(d, d, d), times=4)  # twice 3/2 Y - 1/2 Y (Y^T Y)
    step.run(k.copy(square), times=2)
    repeat(step, 1 / factor)
    return step


EAP_DATA = {"gpt2": (1000, 13), "1b": (500, 20), "8b": (500, 20)}  # pairs, tokens of a prompt


def eap_full(key, factor=1):
    pairs, own = EAP_DATA[key]
    most = factor * DEFAULT_ROWS // (EAP_POINTS * own)
    return eap(k.MODELS[key], pairs, own, most)


def eap_single(key, factor=1):
    return eap(k.MODELS[key], *EAP_DATA[key], factor)


METHODS = {
    "Fisher, rank 8": lambda key, factor=1: fisher(k.MODELS[key], factor),
    "EAP-IG, m = 5": eap_full,
    "EAP-IG, pair by pair": eap_single,
    "mask step, heads": lambda key, factor=1: mask(k.MODELS[key], factor),
    "DAS step": lambda key, factor=1: das(k.MODELS[key], factor),
}
