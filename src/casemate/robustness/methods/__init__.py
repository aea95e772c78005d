# SPDX-License-Identifier: Apache-2.0
"""One attack, certificate or defence a file."""
