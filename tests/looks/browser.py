"""Pages as a signed-in person sees them, in a real browser without a window.

`vitseg stack run python -m tests.looks.browser mlflow PATH FILE` takes a picture for the README (`prefect` likewise).
"""

import base64
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_SECONDS = 60


@contextmanager
def signed_in(user: str, password: str, size: tuple[int, int] = (1200, 900)) -> Iterator[Page]:
    """Open a browser whose requests carry these credentials, with a window of `size` (width, height) pixels."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, extra_http_headers={"Authorization": f"Basic {login}"}
        )
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        try:
            yield page
        finally:
            browser.close()


def mlflow() -> tuple[str, str, str]:
    """Return address, user and password of the server that the environment names."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    address, user, password = (os.environ[name] for name in names)
    return address, user, password


def prefect() -> tuple[str, str, str]:
    """Return address, user and password of the server that the environment names."""
    user, _, password = os.environ["PREFECT_API_AUTH_STRING"].partition(":")
    return os.environ["PREFECT_API_URL"].removesuffix("/api"), user, password


def main(server: str, path: str, file: str, width: str = "1200", height: str = "900", click: str = "") -> None:
    address, user, password = {"mlflow": mlflow, "prefect": prefect}[server]()
    with signed_in(user, password, (int(width), int(height))) as page:
        page.goto(address + path)
        if click:
            page.get_by_role("button", name=click).first.click()
        page.wait_for_timeout(8000)  # these pages are never idle
        page.screenshot(path=file)


if __name__ == "__main__":
    main(*sys.argv[1:])
