"""What the delivery tests share: waiting for states, and objects in numbers."""

import clients
import instances
from waiting import wait_until


def to(*destinations, **config):
    """A node's configuration with these destinations."""
    return {"destinations": list(destinations), **config}


def states(node, name):
    """Delivery states by SOP Instance UID for one destination."""
    return {
        entry["sop_instance_uid"]: delivery["state"]
        for entry in node.lines("spool", "list")
        for delivery in entry["deliveries"]
        if delivery["destination"] == name
    }


def all_in_state(node, name, many, state):
    found = states(node, name)
    return all(found.get(one.sop_instance) == state for one in many)


def wait_verified(node, name, many, seconds=40):
    wait_until(lambda: all_in_state(node, name, many, "verified"), f"all verified at {name}", seconds, every=0.1)


def wait_arrived(archive, many, seconds=40):
    """Every object is there with the bytes that were sent."""
    wanted = {one.sop_instance: one.sha256 for one in many}
    wait_until(lambda: wanted.items() <= archive.uids().items(), "all arrived", seconds)


def send(node, count=5, **given):
    many = instances.study(count, **given)
    clients.store_all(node, many)
    return many


def files_of(node):
    return [path for path in (node.folder / "data").rglob("*") if path.is_file()]


def flip_a_bit(node, one):
    """In the object's pixel data, wherever the node keeps it."""
    for path in files_of(node):
        at = path.read_bytes().find(one.data_set)
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at + len(one.data_set) - 9)
                byte = file.read(1)[0]
                file.seek(-1, 1)
                file.write(bytes([byte ^ 1]))
            return
    raise AssertionError("the object's bytes are in no file")
