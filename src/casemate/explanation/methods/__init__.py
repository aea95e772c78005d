# SPDX-License-Identifier: Apache-2.0
"""One explainer or check of explanations a file."""
