"""``python -m app``: from flags to services to a page on the network."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from app.chat.model_host import ModelOptions
from app.ending import end, leave
from app.interface import build_interface
from app.places import UPLOADS, places_for
from app.services import Services, build_services
from app.web.addresses import ServerOptions, addresses
from app.web.server import launch, wait_for_signal
from app.web.uploads import discard_uploads, prepare_uploads
from chatglm2.errors import ChatGLMError
from training.settings.samples import DEMO_MODEL


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Chat with ChatGLM2 base and tuned side by side, train and pick prefixes, in a browser.",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default=str(DEMO_MODEL),
        metavar="DIR_OR_HUB_ID",
        help="what to chat with and to tune (default: the demo model)",
    )
    model.add_argument(
        "--hub", default="huggingface", choices=("huggingface", "modelscope"), help="where a hub id is looked up"
    )
    model.add_argument("--device", default=None, help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    model.add_argument(
        "--dtype",
        default=None,
        choices=("float32", "float16", "bfloat16"),
        help="of the weights (default: what suits the device)",
    )
    model.add_argument(
        "--quantization-bit", type=int, default=None, choices=(4, 8), help="hold the weights in 4 or 8 bits"
    )
    model.add_argument(
        "--slots",
        type=int,
        default=None,
        help="answers computed at the same time; a question takes two (default: 8, or what fits into memory)",
    )
    model.add_argument("--max-length", type=int, default=None, help="tokens of prompt and reply together")
    page = parser.add_argument_group("page")
    page.add_argument(
        "--host", default="0.0.0.0", help="address to listen on; 127.0.0.1 keeps the page to this machine"
    )
    page.add_argument("--port", type=int, default=7860)
    page.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name to serve the page under, such as a proxy's",
    )
    page.add_argument("--output", type=Path, default=Path("output"), help="where training runs are kept")
    page.add_argument(
        "--data-dir",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder whose data files may be named on the page, besides the sample data and uploads; repeatable",
    )
    page.add_argument(
        "--checkpoint-dir",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder whose checkpoints may be added on the page, besides the training runs; repeatable",
    )
    page.add_argument(
        "--lang", choices=("zh", "en"), default=None, help="language to start in (default: the browser's)"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("httpx", "gradio", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    model = ModelOptions(
        path=_absolute(options.model),
        hub=options.hub,
        device=options.device,
        dtype=options.dtype,
        quantization_bit=options.quantization_bit,
        slots=options.slots,
        max_length=options.max_length,
    )
    output = options.output.resolve()
    server = ServerOptions(options.host, options.port, output / UPLOADS, tuple(options.allowed_host), options.lang)
    try:
        services = build_services(model, output, places_for(output, options.data_dir, options.checkpoint_dir))
        serve(services, server)
    except ChatGLMError as error:
        print(error.zh, error.en, sep="\n", file=sys.stderr)
        return 1
    return 0


def _absolute(model: str) -> str:
    """A directory by its full path, since trainers run elsewhere; a hub id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def serve(services: Services, options: ServerOptions) -> None:
    """Shows the page, loads the model behind it, and stays until the process is asked to end."""
    uploads = prepare_uploads(options.uploads)
    demo = build_interface(services)
    launch(demo, services, options)
    services.host.start()
    print("Open 打开：", *addresses(options), sep="\n  ", flush=True)
    try:
        wait_for_signal()
    finally:
        end(demo, services)
        discard_uploads(uploads)


if __name__ == "__main__":
    leave(main())
