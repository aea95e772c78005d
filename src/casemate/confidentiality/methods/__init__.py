# SPDX-License-Identifier: Apache-2.0
"""One attack, check or defence a file."""
