"""One line of the table: what is sent, and what must come back."""

from dataclasses import dataclass
from typing import Callable


@dataclass
class Case:
    """`send(node)` returns what was observed; `expected` is that value, a set of such, or a predicate."""

    id: str
    title: str
    send: Callable
    expected: object

    def judge(self, observed):
        if callable(self.expected):
            return self.expected(observed)
        if isinstance(self.expected, (set, frozenset)):
            return observed in self.expected
        return observed == self.expected


class Table(list):
    """Collects the functions that send, by decorator."""

    def case(self, number, title, expected, /, **each):
        """`each` names variants: the value is handed to the function as its second argument."""

        def add(function):
            if not each:
                self.append(Case(number, title, function, expected))
            for name, value in each.items():
                self.append(
                    Case(
                        f"{number}-{name}",
                        title,
                        lambda node, function=function, value=value: function(node, value),
                        expected,
                    )
                )
            return function

        return add


def status_in(*statuses):
    """A DIMSE status, shown in hexadecimal when it is wrong."""
    return frozenset(f"{status:04X}" for status in statuses)


def aborts(observed):
    return observed[0] == "abort"
