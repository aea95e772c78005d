# SPDX-License-Identifier: Apache-2.0
"""Why a model decides as it does, and how far to trust the reasons."""
