# SPDX-License-Identifier: Apache-2.0
"""One training loop and per-example gradients."""
