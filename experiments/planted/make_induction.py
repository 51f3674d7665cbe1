# SPDX-License-Identifier: MIT
"""Writes a two-layer model of GPT-2's form whose induction circuit is known because it was built.

    python3 experiments/planted/make_induction.py [FOLDER]

writes config.json, model.safetensors, pairs.jsonl and circuit.json, by default beside this file,
where the same files are stored. Needs numpy.

The residual stream of 64 channels is cut into orthogonal parts, which no channel is aligned with:

    token     which token stands here                        written by the embedding
    place     at which position                              written by the position embedding
    constant  long and the same everywhere                   written by the position embedding
    previous  which token stands before                      written by head 0 of layer 0
    next      which token comes next                         written by head 0 of layer 1
    spare     nothing

All of them have mean 0, and the constant part is most of their length, so that the layer norms
hardly do more than divide by one number. Head 0 of layer 0 attends from each position to the one
before. Head 0 of layer 1 attends from a token to where `previous` holds the same one, and copies the
token found there to `next`, the only part that the output layer reads. The other heads and the
MLPs are random and weak, and all weights have noise: no edge is exactly idle.
"""

import json
import pathlib
import struct
import sys

import numpy as np

LAYERS, HEADS, WIDTH, HEAD, HIDDEN = 2, 4, 64, 16, 16
TOKENS, PLACES = 14, 12  # token 0 begins every prompt
CONSTANT = 6.0           # length of the constant part; the others have length 1
POINTED = 12.0           # scores of the two planted heads where they attend, 0 elsewhere
CONFIDENT = 8.0          # logit of the token that the induction head copies
IDLE = 0.25              # length of what an idle head or MLP writes, about
NOISE = 0.05             # length of the noise of a code, which is in every matrix
PROMPTS = 16

# What a corrupted prompt changes, and the edges that carry just this change.
LEGS = {
    "key": ["input->a0.h0<v>", "a0.h0->a1.h0<k>", "a1.h0->logits"],
    "query": ["input->a1.h0<q>", "a1.h0->logits"],
    "value": ["input->a1.h0<v>", "a1.h0->logits"],
}


# ---- model

def parts(random):
    """{part: [vectors, WIDTH]}, all orthonormal, and of mean 0 as layer norms leave only that."""
    drawn = random.standard_normal((WIDTH, WIDTH - 1))
    basis = np.linalg.qr(drawn - drawn.mean(axis=0))[0].T
    sizes = {"token": TOKENS, "place": PLACES, "previous": TOKENS, "next": TOKENS, "constant": 1}
    found, first = {}, 0
    for name, size in sizes.items():
        found[name], first = basis[first:first + size], first + size
    return found


def reader(vectors, length):
    """[WIDTH, n]: the code of vector i, in a stream of this length behind its norm, to e_i."""
    return vectors.T * length / np.sqrt(WIDTH)


def planted_head(query, key, copied, written, length):
    """Q, K, V, O, where Q, K, V are [WIDTH, HEAD] and O [HEAD, WIDTH]: attends where the codes of
    query and key are the same ones, and writes another code for the one copied."""
    def read(vectors):
        return np.pad(reader(vectors, length), ((0, 0), (0, HEAD - len(vectors))))

    gain = np.sqrt(POINTED * np.sqrt(HEAD))
    return [gain * read(query), gain * read(key), read(copied),
            np.pad(written, ((0, HEAD - len(written)), (0, 0)))]


def idle_reader(random, codes, length, gain, width):
    """[WIDTH, width]: every code of the stream as a random vector of length `gain`, about."""
    mixed = gain * random.standard_normal((len(codes), width)) / np.sqrt(width)
    return reader(codes, length) @ mixed


def idle_writer(random, width):
    """[width, WIDTH]: a vector of length 1 to a random one of length IDLE, about."""
    return IDLE * random.standard_normal((width, WIDTH)) / np.sqrt(WIDTH)


def idle_head(random, codes, length):
    """Q, K, V, O: attends at random, hardly ever evenly; reads all codes, writes a little of all."""
    q, k, v = (idle_reader(random, codes, length, gain, HEAD) for gain in (3, 3, 1))
    return [q, k, v, idle_writer(random, HEAD)]


def attention(random, planted, codes, length):
    """Fused QKV [WIDTH, 3 WIDTH] and output [WIDTH, WIDTH] of a layer, head 0 being the planted."""
    heads = [planted] + [idle_head(random, codes, length) for _ in range(HEADS - 1)]
    q, k, v = (np.concatenate([head[i] for head in heads], axis=1) for i in range(3))
    return np.concatenate([q, k, v], axis=1), np.concatenate([head[3] for head in heads])


def weights(random):
    """{name: array} of GPT-2: matrices of layers [in, out]."""
    part = parts(random)
    before, after = np.sqrt(CONSTANT**2 + 2), np.sqrt(CONSTANT**2 + 3)
    planted = [  # the query of a place is the key of the one before
        planted_head(part["place"][1:], part["place"][:-1], part["token"], part["previous"],
                     before),
        planted_head(part["token"], part["previous"], part["token"], part["next"], after)]
    found = {"transformer.wte.weight": part["token"],
             "transformer.wpe.weight": part["place"] + CONSTANT * part["constant"],
             "lm_head.weight": CONFIDENT * reader(part["next"], after).T}
    codes = np.concatenate([part[name] for name in ("token", "place", "previous", "next")])
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}."
        qkv, out = attention(random, planted[layer], codes, after)
        found |= {at + "attn.c_attn.weight": qkv, at + "attn.c_proj.weight": out,
                  at + "mlp.c_fc.weight": idle_reader(random, codes, after, 1, HIDDEN),
                  at + "mlp.c_proj.weight": idle_writer(random, HIDDEN)}
    for name, matrix in found.items():
        found[name] = matrix + NOISE / np.sqrt(WIDTH) * random.standard_normal(matrix.shape)
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}."
        for name, size in {"attn.c_attn": 3 * WIDTH, "attn.c_proj": WIDTH, "mlp.c_fc": HIDDEN,
                           "mlp.c_proj": WIDTH}.items():
            found[at + name + ".bias"] = np.zeros(size)
        for norm in ("ln_1", "ln_2"):
            found |= {at + norm + ".weight": np.ones(WIDTH), at + norm + ".bias": np.zeros(WIDTH)}
    return found | {"transformer.ln_f.weight": np.ones(WIDTH),
                    "transformer.ln_f.bias": np.zeros(WIDTH)}


# ---- prompts

def pair(random, leg, number):
    """A prompt [0 … A B … A], which B continues, and one in which another token takes one of the
    three roles. The wrong answer is in neither: all that a corruption takes away is B."""
    length = random.randint(8, PLACES + 1)
    order = 1 + random.permutation(TOKENS - 1)
    clean, spare = [0, *order[:length - 2].tolist()], order[-2:].tolist()
    first = random.randint(1, length - 3)  # of A; B and at least one more token follow
    clean.append(clean[first])
    corrupted = list(clean)
    corrupted[{"key": first, "value": first + 1, "query": length - 1}[leg]] = spare[0]
    return {"id": f"{leg}-{number}", "clean_ids": clean, "corrupted_ids": corrupted,
            "answer_ids": [clean[first + 1]], "wrong_ids": [spare[1]]}


def pairs(random):
    return [pair(random, leg, number) for number in range(PROMPTS) for leg in LEGS]


# ---- circuit, in the form that EAP-IG and MIB exchange

def edges():
    """Names of all sources and of all edges, in the order of the form."""
    sources, found = ["input"], []
    for layer in range(LAYERS):
        heads = [f"a{layer}.h{head}" for head in range(HEADS)]
        found += [f"{source}->{head}<{leg}>" for source in sources for head in heads
                  for leg in "qkv"]
        found += [f"{source}->m{layer}" for source in sources + heads]
        sources += [*heads, f"m{layer}"]
    return sources, found + [f"{source}->logits" for source in sources]


def circuit(kept):
    """The form with these edges in the graph."""
    sources, names = edges()
    ends = {name.split("<")[0] for edge in kept for name in edge.split("->")}
    return {"cfg": {"n_layers": LAYERS, "n_heads": HEADS, "parallel_attn_mlp": False,
                    "d_model": WIDTH},
            "nodes": {name: {"in_graph": name in ends} for name in [*sources, "logits"]},
            "edges": {name: {"score": float(name in kept), "in_graph": name in kept}
                      for name in names}}


# ---- files

def safetensors(tensors):
    header, where = {}, 0
    arrays = {name: np.ascontiguousarray(value, "<f4") for name, value in sorted(tensors.items())}
    for name, value in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape),
                        "data_offsets": [where, where + value.nbytes]}
        where += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in arrays.values())


CONFIG = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": LAYERS,
          "n_head": HEADS, "n_embd": WIDTH, "n_inner": HIDDEN, "n_positions": PLACES,
          "vocab_size": TOKENS, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
          "tie_word_embeddings": False, "torch_dtype": "float32", "bos_token_id": 0,
          "eos_token_id": 0}


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__)
    folder = folder if folder.is_dir() else folder.parent
    true = sorted({edge for leg in LEGS.values() for edge in leg})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "model.safetensors").write_bytes(safetensors(weights(np.random.RandomState(1))))
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in pairs(np.random.RandomState(2))))
    (folder / "circuit.json").write_text(json.dumps(circuit(true)) + "\n")


if __name__ == "__main__":
    main()
