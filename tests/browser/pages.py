"""A notebook in a real JupyterLab in a real Chromium: run its cells, ask its kernel, look at its page."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import nbformat

SCREENSHOTS = Path(__file__).parent / "screenshots"

# What JupyterLab itself writes to the console without any widget on the page.
_NOISE = re.compile(
    r"favicon|service-worker|ResizeObserver loop|WebGL|GPU stall|GroupMarkerNotSet|plugin-manager|/api/me\b"
)

_ASK = """
async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code, store_history: false });
  let said = "";
  future.onIOPub = (message) => {
    if (message.header.msg_type === "stream") said += message.content.text;
    if (message.header.msg_type === "error") said += message.content.traceback.join("\\n");
  };
  await future.done;
  return said;
}
"""


class Lab:
    """One notebook, open and run.

    Attributes:
        page: playwright's page.
        errors: what the console and the page complained of.
        elsewhere: addresses outside this machine that the page asked for.
    """

    def __init__(self, page, url: str, token: str, root: Path):
        self.page, self.errors, self.elsewhere = page, [], []
        self._url, self._token, self._root = url, token, root
        self.file: Path | None = None
        page.on(
            "console",
            lambda message: message.type == "error" and self._note(message.text + " " + str(message.location)),
        )
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("request", lambda request: self._asked(request.url))

    def _note(self, words: str) -> None:
        if not _NOISE.search(words):
            self.errors.append(words)

    def _asked(self, address: str) -> None:
        # Chromium is told to resolve no other host; here it is only noted that something tried.
        if not address.startswith((self._url, self._url.replace("http", "ws", 1), "blob:", "data:")):
            self.elsewhere.append(address)

    def open(self, *cells: str) -> Lab:
        """Write a notebook of these code cells, open it, run all of them, and wait until the kernel is idle."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
        # Without a kernelspec JupyterLab asks for a kernel in a dialog.
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
        }
        self.file = self._root / f"{uuid.uuid4().hex[:8]}.ipynb"
        nbformat.write(notebook, self.file)
        self.show(self.file)
        self.command("notebook:run-all-cells")
        self.ask("None")
        self.complaints()
        return self

    def show(self, file: Path) -> None:
        """Open a notebook that is there, without running it."""
        self.page.goto(f"{self._url}/lab/workspaces/{uuid.uuid4().hex[:6]}/tree/{file.name}?token={self._token}&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=120_000,
        )
        self.command("application:toggle-left-area")

    def command(self, name: str, **arguments: object) -> None:
        """A command of JupyterLab's palette."""
        self.page.evaluate("([name, given]) => window.jupyterapp.commands.execute(name, given)", [name, arguments])

    def ask(self, expression: str) -> object:
        """The value of an expression in the notebook's kernel, through JSON."""
        said = self.page.evaluate(_ASK, f"import json as _j; print('>>>' + _j.dumps({expression}, default=str))")
        assert ">>>" in said, said
        return json.loads(said.rsplit(">>>", 1)[1])

    def wait_for(self, expression: str, value: object, seconds: float = 20) -> None:
        """Wait until an expression in the kernel has this value."""
        found: object = None
        for _ in range(int(seconds * 5)):
            found = self.ask(expression)
            if found == value:
                return
            self.page.wait_for_timeout(200)
        raise AssertionError(f"{expression} must become {value!r}; it is {found!r}")

    def complaints(self) -> None:
        """Fail if a cell raised."""
        wrong = self.page.locator(
            ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'], .jp-OutputArea-output pre .ansi-red-fg"
        )
        assert not wrong.count(), wrong.first.inner_text()

    def theme(self, name: str) -> None:
        """`light` or `dark`."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name.title()}")
        self.page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{str(name == 'light').lower()}'")
        self.page.wait_for_timeout(300)

    def shoot(self, name: str, selector: str = ".workbench-panel") -> Path:
        """Keep a picture of the widget under `screenshots/`."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.wait_for_timeout(500)
        self.page.locator(selector).first.screenshot(path=path)
        return path

    def assert_sound(self) -> None:
        """No error in the console, nothing asked of another machine, no sideways scrolling, nothing alive."""
        assert not self.errors, self.errors
        assert not self.elsewhere, self.elsewhere
        over = self.page.evaluate("""() => [...document.querySelectorAll('.workbench-panel, .jp-OutputArea-output')]
            .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.className + ' ' + e.scrollWidth + '>' + e.clientWidth)""")
        assert not over, over
        assert self.page.evaluate("() => window.__alive ?? null") is None

    def assert_every_control_is_named(self) -> None:
        """Every control in the widget has an accessible name and a tooltip."""
        bare = self.page.evaluate("""() => [...document.querySelectorAll(
              '.workbench-panel :is(select, input, textarea, button, [role=slider])')]
            .filter((e) => e.offsetParent !== null && !e.closest('.modebar-container'))
            .filter((e) => {
              const box = e.closest('.widget-inline-hbox, .jupyter-widgets') ?? e;
              const label = e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')
                || e.textContent.trim() || box.querySelector('label, .widget-label')?.textContent.trim();
              const tip = e.title || box.title || box.querySelector('[title]')?.title;
              return !(label && tip);
            }).map((e) => e.outerHTML.slice(0, 200))""")
        assert not bare, bare


def choose(lab: Lab, label: str, option: str) -> None:
    """Choose an option of a dropdown by its label."""
    lab.page.locator(".workbench-panel").get_by_label(label, exact=True).select_option(label=option)


def press(lab: Lab, words: str | re.Pattern) -> None:
    """Press a button by its words."""
    lab.page.locator(".workbench-panel").get_by_role("button", name=words).first.click()


def click_point(lab: Lab, figure: int, trace: int, point: int) -> None:
    """Click a point of the n-th figure on the page where it is drawn, through plotly's own axes."""
    place = lab.page.evaluate(
        """([figure, trace, point]) => {
          const plot = document.querySelectorAll('.workbench-panel .js-plotly-plot')[figure], full = plot._fullLayout;
          plot.scrollIntoView({ block: 'center' });
          const box = plot.getBoundingClientRect(), data = plot._fullData[trace], x = data.x[point], y = data.y[point];
          return [box.x + full.xaxis._offset + full.xaxis.d2p(x), box.y + full.yaxis._offset + full.yaxis.d2p(y)];
        }""",
        [figure, trace, point],
    )
    lab.page.mouse.move(place[0] - 3, place[1])
    lab.page.mouse.move(*place)
    lab.page.wait_for_timeout(150)
    lab.page.mouse.click(*place)
