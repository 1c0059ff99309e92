"""The credentials of the embedded servers: long, and only in files that nobody else can read."""

import base64
import json

from flows.stack import credentials
from flows.stack import stack as stack_module
from flows.stack.stack import StackStatus
from tests.flows.stack.running import all_processes


def test_secrets_stay_in_private_files(stack: StackStatus) -> None:
    root = stack_module.folder()
    secrets = [value.removeprefix("vitseg:") for value in credentials.read(root).values() if value != "vitseg"]
    secrets += [base64.b64encode(f"vitseg:{value}".encode()).decode() for value in secrets]
    commands = " ".join(" ".join(process.cmdline()) for process in all_processes())
    logs = " ".join(path.read_text(errors="replace") for path in (root / "logs").iterdir())
    told = json.dumps(stack.to_json()) + repr(stack) + (root / "state.json").read_text()
    for secret in secrets:
        assert len(secret) >= 16
        assert secret not in commands + logs + told
    assert root.stat().st_mode & 0o777 == 0o700
    for path in [root / name for name in ("credentials.json", "s3.json", "grpc.key", "state.json", "logs/s3.log")]:
        assert path.stat().st_mode & 0o777 == 0o600, path
