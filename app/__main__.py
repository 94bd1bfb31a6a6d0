"""``python -m app``: from flags to services to a page on the network."""

from __future__ import annotations

import argparse
import getpass
import logging
import sys
from pathlib import Path

from app.chat.model_host import ModelOptions
from app.chat.sources import Shown
from app.door.accounts import AccountError, account_line, read_accounts
from app.door.door import Door, Mode, Policy
from app.door.invitation import invitation
from app.ending import end, leave, set_alarm
from app.interface import build_interface
from app.places import UPLOADS, places_for
from app.services import Services, build_services
from app.web.addresses import ServerOptions, addresses
from app.web.server import launch, wait_for_signal
from app.web.uploads import discard_uploads, prepare_uploads
from chatglm2.errors import ChatGLMError
from training.cli.flag_parser import FlagParser
from training.cli.screen import ends_with_its_reader
from training.runs.checkpoints import find_checkpoints, require_prefix_length
from training.settings.samples import DEMO_MODEL


def build_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog="python -m app",
        description="Chat with ChatGLM2 base and tuned side by side, train and pick prefixes, in a browser.",
        allow_abbrev=False,
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        "--model_name_or_path",
        default=str(DEMO_MODEL),
        metavar="DIR_OR_HUB_ID",
        help="what to chat with and to tune (default: the demo model)",
    )
    model.add_argument(
        "--ptuning_checkpoint",
        type=Path,
        metavar="DIR",
        help="the prefix that the right pane shows every visitor at first (default: what was trained here last)",
    )
    model.add_argument(
        "--pre_seq_len", type=int, metavar="N", help="checked against that prefix, which says its length itself"
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
    model.add_argument(
        "--rope-precision",
        choices=("fp32", "reference"),
        default=None,
        help="of rotary angles; reference rounds them as the original does (default: the checkpoint's, or fp32)",
    )
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
    _add_access(parser)
    return parser


def _add_access(parser: argparse.ArgumentParser) -> None:
    access = parser.add_argument_group(
        "access",
        "Everybody on the network may chat and watch. Training, stopping, uploads, downloads and deleting are open to "
        "this machine's own browser, and from elsewhere to whoever has the operator key, which is printed at start.",
    )
    access.add_argument(
        "--auth",
        metavar="FILE|USER:PASS",
        help="put everything behind a login: a file with one account a line (see --make-account), or one account",
    )
    changes = access.add_mutually_exclusive_group()
    changes.add_argument("--open", action="store_true", help="let everybody on the network change things, too")
    changes.add_argument("--viewer-only", action="store_true", help="let nobody change things, here neither")
    access.add_argument("--make-account", metavar="NAME", help="ask for a password, print the account's line, and end")


@ends_with_its_reader
def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
        if options.auth and options.open:
            parser.error("--auth puts everything behind a login, and --open opens everything: choose one")
        if options.make_account:
            print(account_line(options.make_account, ask_password()))
            return 0
        door = build_door(options)
    except ChatGLMError as error:
        print(error.zh, error.en, sep="\n", file=sys.stderr)
        return 1
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
        rope_precision=options.rope_precision,
    )
    output = options.output.resolve()
    server = ServerOptions(options.host, options.port, output / UPLOADS, tuple(options.allowed_host), options.lang)
    try:
        places = places_for(output, options.data_dir, options.checkpoint_dir)
        shown = find_shown(options.ptuning_checkpoint, options.pre_seq_len)
        services = build_services(model, output, places, shown)
        serve(services, server, door)
    except ChatGLMError as error:
        print(error.zh, error.en, sep="\n", file=sys.stderr)
        return 1
    return 0


def _absolute(model: str) -> str:
    """A directory by its full path, since trainers run elsewhere; a hub id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def find_shown(path: Path | None, pre_seq_len: int | None) -> Shown | None:
    """The checkpoint that ``--ptuning_checkpoint`` names; of a run's directory the last one.

    Raises:
        RunError: there is none, or its prefix is not ``pre_seq_len`` long.
    """
    if path is None:
        return None
    info = find_checkpoints(path)[-1]
    require_prefix_length(pre_seq_len, info.pre_seq_len)
    return Shown(info.path.resolve(), pre_seq_len)


def build_door(options: argparse.Namespace) -> Door:
    """What the flags say about who may do what.

    Raises:
        AccountError: ``--auth`` names no accounts.
    """
    mode = Mode.OPEN if options.open else Mode.VIEWER_ONLY if options.viewer_only else Mode.KEY
    accounts = read_accounts(options.auth) if options.auth else None
    # A further name means a proxy on this machine, most likely, and everybody comes from loopback then.
    return Door(Policy(mode, accounts, trust_local=not options.allowed_host))


def ask_password() -> str:
    """A new password: typed twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password 密码: ")
    if getpass.getpass("Again 再输一次: ") != password:
        raise AccountError("The two passwords differ. Try again.", "两次输入的密码不同，请重试。")
    return password


def serve(services: Services, options: ServerOptions, door: Door) -> None:
    """Shows the page, loads the model behind it, and stays until the process is asked to end."""
    uploads = prepare_uploads(options.uploads)
    demo = build_interface(services)
    launch(demo, services, options, door)
    services.host.start()
    urls = addresses(options)
    print("Open 打开：", *urls, sep="\n  ", flush=True)
    if door.uses_key:
        print(invitation(urls, door.key, draw=sys.stdout.isatty()), flush=True)
    try:
        wait_for_signal()
    finally:
        set_alarm()
        end(demo, services)
        discard_uploads(uploads)


if __name__ == "__main__":
    leave(main())
