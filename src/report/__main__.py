# SPDX-License-Identifier: MIT
"""Makes a self-contained HTML page, and PNG figures beside it, from one result file.

    python3 src/report RESULT.h5 [-o DIR]

writes DIR/<name>.html and DIR/<name>/*.png and prints the path of the page.
Exit codes: 0 done, 1 failed, 2 usage, 3 the file is no result of causa.
"""

import argparse
import os
import sys

EXIT_FAILED, EXIT_DATA = 1, 3


def import_parts():
    """The modules that need packages which may be missing."""
    try:
        import h5py  # noqa: F401
        import matplotlib  # noqa: F401
        import numpy  # noqa: F401
    except ImportError as error:
        sys.exit(
            f"report: the Python package '{error.name}' is missing in {sys.executable}; install "
            "python3-h5py and python3-matplotlib with apt, or h5py and matplotlib with pip"
        )
    import build
    import result

    return build, result


def main():
    parser = argparse.ArgumentParser(prog="causa report", description=__doc__.split("\n\n")[0])
    parser.add_argument("result", help="HDF5 file written by causa run")
    parser.add_argument("-o", "--output", default="", metavar="DIR",
                        help="folder of the page (default: the folder of the result)")
    options = parser.parse_args()
    build, result = import_parts()
    folder = options.output or os.path.dirname(options.result) or "."
    try:
        with result.Result(options.result) as opened:
            print(build.write(opened, folder))
    except result.NotAResult as error:
        print(f"{options.result}: {error}", file=sys.stderr)
        sys.exit(EXIT_DATA)
    except OSError as error:
        print(f"report: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
