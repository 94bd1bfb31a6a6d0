"""Where the page is reached: the address to listen on, and the names and URLs that lead to it.

Knows this machine's network. Knows neither Gradio nor requests.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from chatglm2.errors import ChatGLMError


class ServerError(ChatGLMError):
    """The page cannot be served, for example because the port is taken."""


@dataclass(frozen=True)
class ServerOptions:
    host: str
    port: int
    uploads: Path
    allowed_hosts: tuple[str, ...] = ()
    language: str | None = None  # None: the browser's


def own_names(allowed_hosts: Iterable[str]) -> set[str]:
    """The names under which this machine may be addressed."""
    name = socket.gethostname()
    return {"localhost", name, name.split(".")[0], f"{name.split('.')[0]}.local", *allowed_hosts}


def lan_addresses() -> list[str]:
    """The IPv4 addresses under which other machines can reach this one."""
    return [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family.name == "AF_INET" and not address.address.startswith(("127.", "169.254."))
    ]


def check_port(host: str, port: int) -> None:
    """Fails with a sentence where Gradio would fail with a stack trace.

    Raises:
        ServerError: another program listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServerError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Stop what is using the port, "
                "or choose another with --port.",
                f"无法监听 {host}:{port}（{error.strerror}）。请停止占用该端口的程序，或用 --port 换一个端口。",
            ) from error


def addresses(options: ServerOptions) -> list[str]:
    """The URLs to open: this machine's own first, then those for the rest of the network."""
    everywhere = options.host in ("0.0.0.0", "::")
    hosts = ["127.0.0.1", *lan_addresses()] if everywhere else [options.host]
    return [f"http://{host}:{options.port}" for host in hosts]
