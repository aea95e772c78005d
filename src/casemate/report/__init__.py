# SPDX-License-Identifier: Apache-2.0
"""Evidence: report.json, comparison, gates and the page people read."""
