"""Sends a file by either door and says in one word what became of it."""

import clients
from pdu import Closed

STORED = "stored"


def c_store(subject, one, timeout=20):
    """ "stored", "refused context" or "refused CODE"; "abort" and "timeout" are never right."""
    try:
        reply = clients.store(subject, [one], timeout=timeout)[0]
    except Closed:
        return "closed", ""
    except TimeoutError:
        return "timeout", ""
    except AssertionError as error:
        return "abort", str(error)
    if reply is None:
        return "refused context", ""
    comment = reply.command.get("ErrorComment", "")
    return (STORED if reply.status == 0 else f"refused {reply.status:04X}"), comment


def stow(subject, data, timeout=30):
    """ "stored" or "refused CODE" with the FailureReason; "HTTP n" when the request as a whole failed."""
    response = clients.stow(subject, [data], timeout=timeout)
    if response.status_code == 200:
        return STORED
    if response.status_code not in (202, 409):
        return f"HTTP {response.status_code}"
    answer = response.json()
    failures = answer.get("00081198", {}).get("Value", []) + answer.get("0008119A", {}).get("Value", [])
    return f"refused {clients.values(failures[0], '00081197')[0]:04X}" if failures else f"HTTP {response.status_code}"
