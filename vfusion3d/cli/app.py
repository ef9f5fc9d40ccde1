"""`vfusion3d app`: a page that makes 3D assets of pictures, for those who do not type."""

import argparse
import signal
from contextlib import suppress

from vfusion3d.cli.page import new_page
from vfusion3d.runs.ranges import in_range


def add_app(commands) -> None:
    page = new_page(commands, "app", run_app)
    page.add_argument(
        "--weights",
        nargs="+",
        default=["mini", "base"],
        metavar="NAME",
        help="what can be chosen, the first by default: mini, base, folders, names on the hub",
    )
    page.add_argument("--port", type=in_range("port"), default=8766, help="of the address")
    page.add_argument("--host", default="127.0.0.1", help="who can open the page: by default only this machine")
    page.add_argument("--resolution", type=int, default=256, help="grid points along each side of the mesh")
    page.add_argument("--video-size", type=int, default=256, metavar="PIXELS", help="side of the turntable")
    page.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")


def run_app(options: argparse.Namespace) -> int:
    """Pictures to 3D meshes, as a page in your browser.

    Open the printed address and drop a picture: the page shows how the object is cut out and lets you correct it,
    makes it 3D, and hands out GLB, OBJ (zipped), PLY, STL and a turntable video. Nothing leaves this machine, no
    network is needed, and what was sent and made is deleted when the command ends.
    With --host, others open the page under an address with a token; they can choose the named weights only.

    examples:
      vfusion3d app
      vfusion3d app --weights base my_weights/
      vfusion3d app --host 0.0.0.0 --port 8000         (a phone in your network: give it the whole address, with this
                                                        machine's name in it)
    """
    if not 8 <= options.resolution <= 1024:
        options.parser.error(f"--resolution {options.resolution}: must be between 8 and 1024")
    if not 16 <= options.video_size <= 2048:
        options.parser.error(f"--video-size {options.video_size}: must be between 16 and 2048")

    from vfusion3d.app.server import app_server
    from vfusion3d.app.workshop import Workshop
    from vfusion3d.model.pipeline import check_device

    if options.device is not None:
        check_device(options.device)
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # files are deleted then, too
    how = {"device": options.device, "resolution": options.resolution, "video_size": options.video_size}
    with Workshop(options.weights, **how) as workshop, app_server(workshop, options.port, options.host) as server:
        workshop.folders = not server.token
        print(f"{server.address()}  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nwhat was made is deleted; downloads stay")
    return 0
