"""One JupyterLab and one headless Chromium for all browser tests; without Chromium they are skipped and say so."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from browser.pages import Lab

TESTS = Path(__file__).parents[1]
# Nothing but this machine can be reached: a widget that needed anything else would show it.
_FLAGS = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items):
    """Everything in this folder is marked."""
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory):
    """(address, token, folder of notebooks) of a JupyterLab of the tests' own."""
    root, own = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings = {
        "JUPYTER_CONFIG_DIR": own / "config", "JUPYTER_RUNTIME_DIR": own / "runtime", "IPYTHONDIR": own / "ipython",
        "JUPYTERLAB_SETTINGS_DIR": own / "settings", "JUPYTERLAB_WORKSPACES_DIR": own / "workspaces",
        "JUPYTER_DATA_DIR": own / "data", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    }  # fmt: skip
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"),
        "--LabApp.expose_app_in_browser=True",
    ]
    chosen = {
        "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
        "../@jupyter-widgets/jupyterlab-manager/plugin": '{"saveState": true}',
    }
    for name, text in chosen.items():
        file = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    log = (own / "log").open("wb")
    server = subprocess.Popen(
        command, env=os.environ | {k: str(v) for k, v in settings.items()}, stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(server, address, token, own / "log")
        yield address, token, root
    finally:
        server.terminate()
        server.wait(20)


def _wait(server, address, token, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"JupyterLab did not answer within {seconds} s: {log.read_text()}")


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("these tests need Chromium; install it, for example with `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def lab(chromium, jupyter):
    """A page at the width of a small laptop, high enough to see a whole widget."""
    context = chromium.new_context(viewport={"width": 1100, "height": 1900})
    page = context.new_page()
    page.set_default_timeout(90_000)
    made = Lab(page, *jupyter)
    yield made
    if made.file is not None:
        made.page.evaluate("() => window.jupyterapp?.serviceManager.sessions.shutdownAll()")
    context.close()


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory):
    """(keywords of `synthetic.study`) -> a folder, written once."""
    import synthetic

    made: dict[str, Path] = {}

    def folder(**options):
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("study")
            synthetic.study(made[key], **options)
        return made[key]

    return folder
