# SPDX-License-Identifier: Apache-2.0
"""One privacy attack, check or defence a file."""
