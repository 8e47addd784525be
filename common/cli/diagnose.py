"""Who waits for whom in a training? python -m steps.diagnose -- python train.py

Runs the command as it is and watches it: how busy the device is, how long the training waits for
data and for a core, what the worker processes do and hold. Ends with one recommendation, and with
the command's own exit status (128 and the signal's number if one ended it). Given the id of a
running process instead, it watches that for --seconds, from outside; it then ends with 0.
"""

import json
import sys

from common.diagnose.watching import watch_command, watch_process
from common.diagnose.wording import to_json, to_text
from common.engine.errors import UserError
from common.engine.options import MOST, Parser, seconds, whole

SECONDS = 30.0
HOW = "give a process id, or a command behind --: python -m steps.diagnose -- python train.py"


def make_parser() -> Parser:
    parser = Parser(
        prog="python -m steps.diagnose",
        usage="%(prog)s [-h] [--json] (-- COMMAND ... | PID [--seconds N])",
        description=__doc__.splitlines()[0],
    )
    add = parser.add_argument
    add("pid", nargs="?", metavar="PID", help="of a running training, which is watched")
    add("--seconds", type=seconds, metavar="N", help=f"to watch PID; default: {SECONDS:g}")
    add("--json", action="store_true", help="end with a line of JSON")
    return parser


def main(arguments: list[str] | None = None) -> int:
    own, command = split(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(own)
    if command is None:
        readings, status = watch_process(number(options.pid), options.seconds or SECONDS), 0
    elif options.pid is not None:
        raise UserError(f"{options.pid}: {HOW}, not both")
    elif options.seconds is not None:
        raise UserError("--seconds: only with a process id; a command is watched to its end")
    else:
        readings, status = watch_command(command)
    print(f"\n{to_text(readings)}" if command else to_text(readings), flush=True)
    if options.json:
        print(json.dumps(to_json(readings, status)))
    return status


def split(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """What stands before the first --, and what behind it; None without one."""
    if "--" not in arguments:
        return arguments, None
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def number(pid: str | None) -> int:
    """The process id that was typed. Raises UserError if it is none."""
    if pid is None:
        raise UserError(HOW)
    try:
        return whole(1, MOST)(pid)
    except Exception as error:
        raise UserError(f"{pid}: {HOW}") from error
