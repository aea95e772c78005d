# SPDX-License-Identifier: Apache-2.0
"""``python -m casemate.cli``."""

from casemate.cli import main

if __name__ == "__main__":
    main()
