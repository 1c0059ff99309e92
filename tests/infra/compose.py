"""`docker compose` without containers: the services of infra/compose.yaml as processes on free loopback ports.

It reads the file, fills in `infra/.env`, and moves addresses and folders; commands, environments and health checks stay
those of the file. Put on PATH as `docker`, it lets the runbook's own commands run:

    docker compose -f infra/compose.yaml up -d --wait | stop | exec | run …

The working folder is that of a checkout; `ports.json`, logs and each service's `/state` lie beside it in `../services`.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from flows.stack import processes
from vitseg import child_processes

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "compose.yaml"
EXTRA_PORTS = ("master", "volume", "filer", "admin")  # behind the S3 gateway; in a container nobody else wants them
PATIENCE = 180


def postgres_programs() -> Path | None:
    """Return the folder of Postgres' programs, wherever the distribution has put it."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))
    on_path = [Path(folder) for folder in os.environ["PATH"].split(":")]
    needed = ("initdb", "postgres", "psql", "pg_dump", "pg_restore", "pg_isready")
    return next((path for path in (*packaged[::-1], *on_path) if all((path / name).exists() for name in needed)), None)


def substitute(text: str, values: dict[str, str]) -> str:
    """Fill in ${NAME}, ${NAME:-default} and ${NAME:?complaint}, also one in another, and turn $$ into $."""
    pattern = re.compile(r"(?<!\$)\$\{(\w+)(?:(:-|:\?)([^{}]*))?\}")

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if values.get(name):
            return values[name]
        if kind == ":?":
            raise KeyError(f"{name}: {rest}")
        return rest if kind == ":-" else ""

    while (filled := pattern.sub(fill, text)) != text:
        text = filled
    return text.replace("$$", "$")


def load(values: dict[str, str]) -> dict[str, Any]:
    """Return the compose file with variables filled in: after YAML has merged its anchors, as Compose does it."""

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        return substitute(node, values) if isinstance(node, str) else node

    whole = yaml.safe_load(FILE.read_text())
    # What no service uses is not asked for.
    return walk({key: value for key, value in whole.items() if not key.startswith("x-")})


class Services:
    """The services of one checkout; every call of the command finds them again by their marks."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.base = checkout.parent / "services"
        self.base.mkdir(exist_ok=True)
        values = dict(line.split("=", 1) for line in (checkout / "infra/.env").read_text().splitlines() if line)
        self.file = load(values)
        self.services: dict[str, Any] = self.file["services"]
        self.ports = self._ports()

    def _ports(self) -> dict[str, int]:
        file = self.base / "ports.json"
        if not file.exists():
            names = (*self.services, *EXTRA_PORTS)
            file.write_text(json.dumps(dict(zip(names, processes.free_ports(len(names)), strict=True))))
        return json.loads(file.read_text())

    def mark(self, name: str) -> str:
        return f"{self.base}:{name}"

    def log(self, name: str) -> Path:
        return self.base / f"{name}.log"

    def state(self, name: str) -> Path:
        volume = next(
            (it.split(":")[0] for it in self.services[name].get("volumes", []) if it.endswith(":/state")), name
        )
        folder = self.base / f"volume-{volume}"
        folder.mkdir(exist_ok=True)
        return folder

    def move(self, text: str, name: str) -> str:
        """Return text of the compose file with this machine's addresses and folders."""
        port = self.ports
        for old, new in {
            "mlflow:5000": f"127.0.0.1:{port['mlflow']}",
            "prefect:4200": f"127.0.0.1:{port['prefect']}",
            "127.0.0.1:4200": f"127.0.0.1:{port['prefect']}",
            "s3:8333": f"127.0.0.1:{port['s3']}",
            "--host 0.0.0.0": "--host 127.0.0.1",
            "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
            "--port 5000": f"--port {port['mlflow']}",
            "--port 4200": f"--port {port['prefect']}",
            "-s3.port=8333": f"-s3.port={port['s3']}",
            "-h postgres": "-h 127.0.0.1",
            "/opt/vitseg": str(self.checkout),
            "/state": str(self.state(name)),
        }.items():
            text = text.replace(old, new)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """Return what a container of this service has in its environment."""
        values = {key: self.move(str(value), name) for key, value in self.services[name]["environment"].items()}
        if "PGHOST" in values:
            values["PGHOST"] = "127.0.0.1"
        values["PGPORT"] = str(self.ports["postgres"])
        if "PREFECT_WORKER_WEBSERVER_PORT" in values:
            values["PREFECT_WORKER_WEBSERVER_PORT"] = str(self.ports[name])
        clean = {key: value for key, value in processes.clean_environment().items() if not key.startswith("VITSEG_")}
        path = f"{Path(sys.executable).parent}:{postgres_programs()}:{os.environ['PATH']}"
        return {**clean, "HOME": str(self.state(name)), "PATH": path, **values}

    def command(self, name: str) -> list[str]:
        words = shlex.split(self.move(self.services[name]["command"], name))
        if name == "s3":
            words += [f"-{part}.port={self.ports[part]}" for part in EXTRA_PORTS]
        return words

    def healthy(self, name: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the health check of a service as it stands in the file."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        words = [self.move(word, name) for word in words]
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return subprocess.run(
            words, cwd=self.checkout, env={**self.environment(name), **(environment or {})},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def is_up(self, name: str) -> bool:
        return bool(child_processes.marked(self.mark(name)))

    def up(self, name: str) -> None:
        """Start a service, or start it anew where its command or environment has changed; wait until it is healthy."""
        settings = json.dumps([self.services[name], self.ports], sort_keys=True)
        digest, file = hashlib.sha256(settings.encode()).hexdigest(), self.base / f"{name}.digest"
        if self.is_up(name) and file.read_text() != digest:
            self.stop(name)
        if not self.is_up(name):
            file.write_text(digest)
            self._start(name)
        deadline = time.monotonic() + PATIENCE
        while (check := self.healthy(name)).returncode:
            if not self.is_up(name) or time.monotonic() > deadline:
                raise SystemExit(f"{name} is not healthy: {check.stderr}\n{self.log(name).read_text()[-3000:]}")
            time.sleep(0.5)

    def _start(self, name: str) -> None:
        (self.base / f"{name}.environment").write_text(json.dumps(self.environment(name)))
        if name == "postgres":
            self._start_postgres()
            return
        self.log(name).unlink(missing_ok=True)
        processes.start(
            self.command(name), mark=self.mark(name), folder=self.state(name),
            environment=self.environment(name), log=self.log(name),
        )  # fmt: skip

    def _start_postgres(self) -> None:
        """Do what the image does: make a cluster and its databases, then listen. Postgres refuses to be root."""
        user = "postgres" if os.getuid() == 0 else None
        group: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
        folder, programs, environment = (
            self.base / "postgres",
            postgres_programs(),
            self.services["postgres"]["environment"],
        )
        assert programs is not None
        first = not folder.exists()
        if first:
            folder.mkdir(mode=0o700)
            secret = folder / "password"
            secret.write_text(environment["POSTGRES_PASSWORD"])
            if user:
                for path in (folder, secret):
                    shutil.chown(path, user, user)
            make = [
                "initdb",
                "-D",
                folder / "data",
                "-U",
                environment["POSTGRES_USER"],
                "-N",
                "-E",
                "UTF8",
                "--locale=C",
            ]
            make += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"]
            subprocess.run([programs / make[0], *make[1:]], cwd="/", check=True, stdout=subprocess.DEVNULL, **group)
        with self.log("postgres").open("ab") as log:
            subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", "-p", str(self.ports["postgres"]), "-h", "127.0.0.1",
                 "-k", folder, "-c", "fsync=off"],
                cwd="/", env={**os.environ, child_processes.MARK: self.mark("postgres")},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **group,
            )  # fmt: skip
        wait = ["pg_isready", "-h", str(folder), "-p", str(self.ports["postgres"]), "-q"]
        deadline = time.monotonic() + 60
        while subprocess.run([programs / wait[0], *wait[1:]]).returncode:
            if time.monotonic() > deadline:
                raise SystemExit(self.log("postgres").read_text())
            time.sleep(0.1)
        if first:
            script = f"CREATE DATABASE {environment['POSTGRES_DB']};\n{self.file['configs']['databases']['content']}"
            self.execute("postgres", ["psql", "-q", "-d", "postgres"], script)

    def execute(self, name: str, command: list[str], stdin: str | None = None, *, inside: bool = False) -> int:
        """Run a command as in a new container of this service, or inside the one that runs: that one knows old secrets."""
        environment = json.loads((self.base / f"{name}.environment").read_text()) if inside else self.environment(name)
        if name == "postgres":
            environment["PGHOST"] = str(self.base / "postgres")  # its socket, which asks for no password
        words = [self.move(word, name) for word in command]
        done = subprocess.run(words, cwd=self.checkout, env=environment, input=stdin, text=stdin is not None or None)
        return done.returncode

    def stop(self, name: str) -> None:
        if name == "postgres":
            with contextlib.suppress(OSError, ProcessLookupError):
                first = (self.base / "postgres/data/postmaster.pid").read_text().split("\n")[0]
                os.kill(int(first), signal.SIGINT)
            deadline = time.monotonic() + 20
            while self.is_up(name) and time.monotonic() < deadline:
                time.sleep(0.1)
        child_processes.stop(self.mark(name))

    def stop_all(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.stop, self.services))


def main(arguments: list[str]) -> int:
    """Do what `docker compose -f infra/compose.yaml …` would."""
    assert arguments[:3] == ["compose", "-f", "infra/compose.yaml"], arguments
    services = Services(Path.cwd())
    verb, *rest = arguments[5:] if arguments[3] == "--profile" else arguments[3:]
    while rest and rest[0].startswith("-"):  # options of docker compose itself; those of the command come after a name
        rest = rest[1:]
    words = rest
    if verb in ("exec", "run"):
        return services.execute(words[0], words[1:], inside=verb == "exec")
    if verb == "build":
        return 0
    named = words or [name for name, service in services.services.items() if "profiles" not in service]
    if verb == "stop":
        for name in named:
            services.stop(name)
        return 0
    assert verb == "up", arguments
    # In the order of the file, as `depends_on` has it; what waits for nothing in common starts together.
    for stage in (("postgres", "s3"), ("mlflow", "prefect"), ("cpu-worker",)):
        with ThreadPoolExecutor() as pool:
            list(pool.map(services.up, [name for name in stage if name in named]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
