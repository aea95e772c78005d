# SPDX-License-Identifier: Apache-2.0
"""Types, schema, registry, harness and statistics: what every other package stands on."""
