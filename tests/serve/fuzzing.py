"""Requests made from the OpenAPI schema: how many of each operation, what was answered, what was wrong with an answer."""

from collections import Counter
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

LOCAL = {"Host": "127.0.0.1"}


class Fuzzed(NamedTuple):
    """What came of the requests."""

    statuses: dict[str, Counter[int]]
    """Of each operation, how often each status was answered."""
    failures: list[str]


def fuzz(schema: Any, n_cases: int, run: str = "run") -> Fuzzed:
    """Ask every operation so often. Most requests that name a run name one that is there.

    Args:
        n_cases: of each operation.
        run: the id of a run that is served.
    """
    statuses, failures = dict[str, Counter[int]](), list[str]()
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses[f"{operation.method.upper()} {operation.path}"] = ask(operation, n_cases, run, failures)
    return Fuzzed(statuses, failures)


def ask(operation: Any, n_cases: int, run: str, failures: list[str]) -> Counter[int]:
    """The statuses of one operation's answers; what is wrong is added to `failures`."""
    statuses: Counter[int] = Counter()

    @hypothesis.seed(0)
    @settings(max_examples=n_cases, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate),
              suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        if "run" in case.path_parameters and len(case.path_parameters["run"]) % 4:
            case.path_parameters["run"] = run
        answer = case.call(headers=LOCAL)
        statuses[answer.status_code] += 1
        failures.extend(f"{case.method} {case.formatted_path} {case.query} {case.body!r}: {fault}" for fault in faults_of(answer))

    check()
    return statuses


def faults_of(answer: Any) -> list[str]:
    """What is wrong with an answer, whatever was asked: a failure of the server, no policy, a refusal of another form."""
    names = {name.lower() for name in answer.headers}
    faults = [f"status {answer.status_code}: {answer.text[:300]}"] if answer.status_code >= 500 else []
    faults += [] if "content-security-policy" in names else ["no content security policy"]
    if answer.status_code >= 400 and answer.headers["content-type"][0].startswith("application/json") and set(answer.json()) != {"asked", "why", "instead"}:
        faults.append(f"a refusal of another form: {answer.text[:300]}")
    return faults
