# SPDX-License-Identifier: Apache-2.0
"""A model file is first loaded and run in a process of its own.

A graph of absurd sizes (a pooling window wider than its image, found by changing one byte) can end the process that
loads it by a failed assertion inside onnxruntime, or fill the memory through a chain of small steps. No check of ours
knows all such graphs. What goes wrong there goes wrong in a process whose memory and time are limited.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from casemate.core.errors import HostileArtefact
from casemate.core.extras import installed

MAX_BYTES = 4 << 30  # beside six times the file
MAX_SECONDS = 120.0  # and one more for each ten megabytes
_MEMORY = 7  # the exit code for a refused allocation
_PROGRAM = """
import json, sys
path, limit = json.loads(sys.argv[1])
sys.path[:] = path
import numpy as np, onnxruntime as runtime
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
except (ImportError, ValueError, OSError):
    pass  # a system without such limits still has the other process
try:
    raw = sys.stdin.buffer.read()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    session = runtime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": "f4", "tensor(double)": "f8", "tensor(int64)": "i8", "tensor(int32)": "i4"}
    for rows in (1, 2):
        feed = {}
        for port in session.get_inputs():
            shape = [size if isinstance(size, int) else rows if i == 0 else 1 for i, size in enumerate(port.shape)]
            if port.type in kinds and np.prod(shape, dtype=float) <= 2**24:
                feed[port.name] = np.zeros(shape, kinds[port.type])
        session.run(None, feed)
except MemoryError:
    sys.exit(MEMORY)
except Exception as error:  # a clear error is no danger: it is met again and told there
    if "alloc" in str(error):
        sys.exit(MEMORY)
""".replace("MEMORY)", f"{_MEMORY})")


def tried(raw: bytes, name: str) -> bytes:
    """Return the bytes of a scanned model that did no harm in another process.

    Raises:
        HostileArtefact: that process was ended by the model, or needed more memory or time than it was given.
    """
    if not (sys.executable and installed("onnxruntime")):
        return raw
    seconds = MAX_SECONDS + len(raw) / 1e7
    told = json.dumps([[place for place in sys.path if place], MAX_BYTES + 6 * len(raw)])
    try:
        done = subprocess.run(  # noqa: S603 - our own program; the file comes through its standard input
            [sys.executable, "-I", "-c", _PROGRAM, told],
            input=raw,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HostileArtefact(
            f"{name} took more than {seconds:.0f} s to load and run once in a process of its own; nothing was loaded"
        ) from error
    except OSError:
        return raw  # no further process may be started here
    if done.returncode == _MEMORY:
        raise HostileArtefact(
            f"{name} asks for more than {MAX_BYTES >> 30} GiB of memory to load and run once; nothing was loaded"
        )
    if done.returncode < 0:
        try:
            said = signal.Signals(-done.returncode).name
        except ValueError:
            said = f"signal {-done.returncode}"
        raise HostileArtefact(
            f"{name} ended the process that loaded it ({said} inside onnxruntime); nothing was loaded: export it again"
        )
    return raw
