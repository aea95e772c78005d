# SPDX-License-Identifier: Apache-2.0
"""What small changes to the input do to a model."""
