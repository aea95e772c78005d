# SPDX-License-Identifier: Apache-2.0
"""What a model leaks about its training data, and what bounds it."""
