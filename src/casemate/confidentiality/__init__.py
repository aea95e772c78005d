# SPDX-License-Identifier: Apache-2.0
"""What can be stolen, read or tampered with."""
