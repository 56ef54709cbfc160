"""doctor.py: what works on this machine. Facts are gathered by probes (probes.py), each in a process of its own, so
that a crash is a line and not an end; verdicts.py judges them. Only the standard library is needed to get here.
"""

import json
from pathlib import Path

from training.doctor import checks
from training.doctor.report import Finding, shown


def examine(runs: str, as_json: bool) -> int:
    """Look at everything, tell it, and give the exit code: 1 if training could not run."""
    found = checks.all_findings(Path(runs).expanduser())
    findings = list(found) if as_json else shown(found)
    trains = can_train(findings)
    if as_json:
        print(json.dumps({"can_train": trains, "checks": [finding._asdict() for finding in findings]}, indent=2))
    else:
        print("training can run" if trains else "training cannot run")
    return 0 if trains else 1


def can_train(findings: list[Finding]) -> bool:
    return not any(finding.needed and finding.status == "missing" for finding in findings)
