"""The kill -9 rig: many senders, an outside ledger of what was acknowledged, a node that dies at every point."""
