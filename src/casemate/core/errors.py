# SPDX-License-Identifier: Apache-2.0
"""Every error Casemate raises on purpose.

::

    CasemateError                  exit 5  our fault, unless a subclass says otherwise
    ├── InvalidData                exit 2  input we cannot use
    ├── InvalidThreat              exit 2  a threat that makes no sense for this data
    ├── GuaranteeVoid              exit 2  would falsify a stated epsilon or certificate
    ├── MissingCapability          exit 3  the target does not offer what the method needs
    ├── MissingExtra               exit 3  an optional package is not installed
    ├── BudgetExhausted            exit 3  queries, time or privacy budget used up
    ├── TamperedArtefact           exit 4  a signature or digest does not match
    ├── HostileArtefact            exit 4  a file that would run code
    │   └── UnknownArtefact        exit 4  a class that is not on the allow-list
    └── GateFailed                 exit 1  a threshold that was set did not hold
"""

from __future__ import annotations


class CasemateError(Exception):
    """Root of the errors above; the message says what, the value seen, and what to do.

    >>> from casemate.core.errors import InvalidData
    >>> issubclass(InvalidData, CasemateError), InvalidData.exit_code
    (True, 2)
    """

    exit_code = 5


class InvalidData(CasemateError, ValueError):
    """Data, labels, options or files that cannot be used as they are."""

    exit_code = 2


class InvalidThreat(CasemateError, ValueError):
    """A threat whose norm, radius, scale or goal does not fit the data."""

    exit_code = 2


class GuaranteeVoid(CasemateError):
    """An operation that would falsify a stated epsilon or certificate."""

    exit_code = 2


class MissingCapability(CasemateError):
    """The target does not offer what was asked of it."""

    exit_code = 3


class MissingExtra(CasemateError, ImportError):
    """An optional package is missing; the message names the pip extra."""

    exit_code = 3


class BudgetExhausted(CasemateError):
    """A query, time or privacy budget ran out before the work was done."""

    exit_code = 3


class TamperedArtefact(CasemateError):
    """A file, key or report that is not what its signature or digest says."""

    exit_code = 4


class HostileArtefact(CasemateError):
    """A file that would execute code on load."""

    exit_code = 4


class UnknownArtefact(HostileArtefact):
    """A file that names a class outside the allow-list."""


class GateFailed(CasemateError):
    """A gate that was set did not hold."""

    exit_code = 1
