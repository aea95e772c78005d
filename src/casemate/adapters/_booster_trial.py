# SPDX-License-Identifier: Apache-2.0
"""An XGBoost or LightGBM file is first loaded, walked and asked once in a process of its own.

Both libraries believe the sizes and the node numbers that a file states: a number too many, or a file cut short, ends
the process that reads it (a failed assertion, a read beyond an array). Writing the model out visits every node; each
split is then compared with the columns there are.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from casemate.core.errors import HostileArtefact, InvalidData
from casemate.core.extras import installed

MAX_BYTES = 4 << 30  # beside twenty times the file, which is written out as text
MAX_SECONDS = 30.0  # and one more for each megabyte
_MEMORY, _BROKEN, _SAID = 7, 8, 9  # exit codes
_PROGRAM = (
    """
import json, re, sys
library, path, limit = json.loads(sys.argv[1])
sys.path[:] = path
for slow in ("sklearn", "pandas", "matplotlib", "pyarrow", "dask", "graphviz"):
    sys.modules[slow] = None  # both look for these, and neither needs one here
import numpy as np
package = __import__(library)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
except (ImportError, ValueError, OSError):
    pass  # a system without such limits still has the other process
def features(node):
    while node:
        item = node.pop()
        if "split_feature" in item:
            yield item["split_feature"]
            node += [item["left_child"], item["right_child"]]
try:
    raw = sys.stdin.buffer.read()
    if library == "xgboost":
        model = package.Booster({"nthread": 1})
        model.load_model(bytearray(raw))
        names = model.feature_names, model.feature_types
        model.feature_names = model.feature_types = None
        used = [int(found) for text in model.get_dump() for found in re.findall(r"\\[f(\\d+)", text)]
        wide = model.num_features()
        model.feature_names, model.feature_types = names
        model.inplace_predict(np.zeros((1, wide), np.float32), validate_features=False)
    else:
        model = package.Booster(model_str=raw.decode("utf-8"))
        wide = model.num_feature()
        used = [found for tree in model.dump_model()["tree_info"] for found in features([tree["tree_structure"]])]
        model.predict(np.zeros((1, wide)), num_threads=1)
    if any(not 0 <= column < wide for column in used):
        sys.exit(BROKEN)
except MemoryError:
    sys.exit(MEMORY)
except Exception as error:
    if "alloc" in str(error):
        sys.exit(MEMORY)
    sys.stdout.buffer.write(str(error).encode())
    sys.exit(SAID)
""".replace("MEMORY)", f"{_MEMORY})")
    .replace("BROKEN)", f"{_BROKEN})")
    .replace("SAID)", f"{_SAID})")
)
_NAMES = {"xgboost": "XGBoost", "lightgbm": "LightGBM"}


def tried(raw: bytes, library: str, name: str) -> bytes:
    """Return the bytes of a file that did no harm in another process; ``library`` is the one that reads it.

    Raises:
        HostileArtefact: that process was ended by the file, or needed more memory or time than it was given.
        InvalidData: no sound model, or a split on a column that it does not have.
    """
    if not (sys.executable and installed(library)):
        return raw
    seconds = MAX_SECONDS + len(raw) / 1e6
    told = json.dumps([library, [place for place in sys.path if place], MAX_BYTES + 20 * len(raw)])
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
            f"{name} took {library} more than {seconds:.0f} s in a process of its own; nothing was loaded"
        ) from error
    except OSError:
        return raw  # no further process may be started here
    if done.returncode == _MEMORY:
        raise HostileArtefact(
            f"{name} asks {library} for more than {MAX_BYTES >> 30} GiB of memory; nothing was loaded: save it again"
        )
    if done.returncode == _BROKEN:
        raise InvalidData(f"{name} splits on a column that the model does not have; save it again")
    if done.returncode == _SAID:  # told here: LightGBM also prints what it raises
        said = (done.stdout.decode("utf-8", "replace").splitlines() or [""])[0][:200]
        raise InvalidData(f"{name} is no sound {_NAMES[library]} model ({said})")
    if done.returncode < 0:
        said = signal.Signals(-done.returncode).name
        raise HostileArtefact(
            f"{name} is cut short or made to break: it ended the process that read it ({said} inside {library}); "
            "nothing was loaded: save it again"
        )
    return raw
