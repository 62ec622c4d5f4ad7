"""`make bench`: the node beside Orthanc, DCMTK's storescp and a server that only appends and syncs, in one run."""

import pathlib
import sys

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
# The verbs for child processes and for waiting are those of the suites.
sys.path.insert(0, str(CHECKOUT / "conformance"))
