"""The application behind a door, and visitors to it from anywhere."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.routes import App
from starlette.testclient import TestClient

from app.door.door import Door
from app.services import Services
from app.views.theme import build_theme
from app.web.addresses import ServerOptions
from app.web.admission import Limits
from app.web.server import application_options
from app.web.sessions import GradioSessions, keep_sessions_lean

PORT = 7860
AT_THE_MACHINE, ELSEWHERE = "127.0.0.1", "192.168.1.77"


class Served:
    """The application behind one door."""

    def __init__(
        self, demo: gr.Blocks, services: Services, output: Path, door: Door, names: tuple[str, ...], limits: Limits
    ) -> None:
        self.demo, self.services, self.door = demo, services, door
        options = ServerOptions("0.0.0.0", PORT, output, allowed_hosts=names)
        # What `launch` does before it opens a socket.
        demo.theme, demo.css_paths = build_theme(), []
        demo._set_html_css_theme_variables()
        demo.config = demo.get_config_file()
        self.app = App.create_app(demo, app_kwargs=application_options(demo, services, options, door, limits))
        keep_sessions_lean(self.app)

    def visit(
        self, address: str = ELSEWHERE, host: str | None = None, headers: dict[str, str] | None = None
    ) -> TestClient:
        """A browser at ``address``; it opens the machine's own address from there, and ``host`` where that is given."""
        host = host or ("127.0.0.1" if address == AT_THE_MACHINE else "192.168.1.20")
        return TestClient(
            self.app,
            base_url=f"http://{host}:{PORT}",
            client=(address, 50000),
            headers=headers,
            raise_server_exceptions=False,
            follow_redirects=False,
        )

    async def forget(self, session: str) -> None:
        """Ends what a session waits for."""
        await GradioSessions(self.demo).forget(session)
