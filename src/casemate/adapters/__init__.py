# SPDX-License-Identifier: Apache-2.0
"""One file a framework: each turns a user's model into a Target."""
