"""What the tests ask of the embedded servers that run."""

import base64
import http.client
from urllib.parse import urlsplit

import psutil

from flows.stack import servers, stack
from vitseg import child_processes


def answer(url: str, method: str = "GET", login: str = "", body: bytes | None = None) -> tuple[int, bytes]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    try:
        connection.request(method, url[url.index(address.netloc) + len(address.netloc) :], body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def state() -> dict[str, dict]:
    return stack.read_state()


def processes_of(name: str) -> list[psutil.Process]:
    return child_processes.marked(stack._mark(name))


def all_processes() -> list[psutil.Process]:
    return [process for name in servers.SERVERS for process in processes_of(name)]
