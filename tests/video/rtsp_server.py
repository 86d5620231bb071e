"""A camera on the loopback: an RTSP server of GStreamer, run with Debian's /usr/bin/python3.

    /usr/bin/python3 rtsp_server.py --port 0 --size 320x240

Prints ``ready PORT``, then serves ``rtsp://127.0.0.1:PORT/camera`` until it is killed. Every
picture is grey, with a red square in its middle (which the blob model takes for a face) and, along
its top, the wall clock at which it was made: `CLOCK_BITS` black and white blocks, milliseconds.
"""

import argparse
import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

CLOCK_BITS, CLOCK_HEIGHT = 20, 16
GREY, RED = b"\x7f\x7f\x7f", b"\xff\x00\x00"
ENCODERS = {
    "jpeg": "jpegenc quality=90 ! rtpjpegpay name=pay0 pt=26",
    "h264": (
        "x264enc tune=zerolatency threads=1 sliced-threads=false speed-preset=ultrafast "
        "key-int-max=15 bitrate=2000 ! "
        "rtph264pay name=pay0 pt=96 config-interval=-1"
    ),
}


def picture(size, square, now_ms):
    """RGB bytes of one frame."""
    height, width = size
    block = width // CLOCK_BITS
    bits = [now_ms >> bit & 1 for bit in range(CLOCK_BITS)]
    clock = b"".join((b"\xff" if bit else b"\x00") * (3 * block) for bit in bits)
    clock = clock.ljust(3 * width, b"\x00")
    plain = GREY * width
    left = (width - square) // 2
    marked = GREY * left + RED * square + GREY * (width - left - square)
    top = (height - square) // 2
    rows = [clock] * CLOCK_HEIGHT + [plain] * (height - CLOCK_HEIGHT)
    rows[top : top + square] = [marked] * square
    return b"".join(rows)


class Camera(GstRtspServer.RTSPMediaFactory):
    """One pipeline for all who watch."""

    def __init__(self, options):
        super().__init__()
        self.options = options
        self.set_shared(True)
        self.set_launch(
            "( appsrc name=pictures is-live=true do-timestamp=true format=time ! videoconvert ! "
            f"video/x-raw,format=I420 ! {ENCODERS[options.codec]} )"
        )

    def do_configure(self, media):
        GstRtspServer.RTSPMediaFactory.do_configure(self, media)
        source = media.get_element().get_by_name_recurse_up("pictures")
        start_s = time.monotonic()
        sizes = [None]

        def push():
            age_s = time.monotonic() - start_s
            late = self.options.resize_after_s and age_s > self.options.resize_after_s
            if self.options.silent_after_s and age_s > self.options.silent_after_s:
                return True
            size = self.options.second_size if late else self.options.size
            if size != sizes[0]:
                sizes[0] = size
                caps = f"video/x-raw,format=RGB,width={size[1]},height={size[0]}"
                caps += f",framerate={self.options.fps}/1"
                source.set_property("caps", Gst.Caps.from_string(caps))
            here = not self.options.blink_s or age_s % self.options.blink_s > (
                self.options.blink_s / 2
            )
            square = size[0] // 6 if here else 0
            pixels = picture(size, square, int(time.time() * 1000))
            source.emit("push-buffer", Gst.Buffer.new_wrapped(pixels))
            return True

        timer = GLib.timeout_add(1000 // self.options.fps, push)
        media.connect("unprepared", lambda _: GLib.source_remove(timer))


def as_size(text):
    width, height = map(int, text.split("x"))
    return height, width


def protect(server, user, password):
    """Let only one user in."""
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role("user")
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    return permissions


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--size", type=as_size, default=(240, 320), metavar="WIDTHxHEIGHT")
    parser.add_argument("--second-size", type=as_size, default=(480, 640))
    parser.add_argument("--resize-after-s", type=float, default=0)
    parser.add_argument("--silent-after-s", type=float, default=0)
    parser.add_argument("--blink-s", type=float, default=0, help="the square is gone half the time")
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--codec", choices=ENCODERS, default="jpeg")
    parser.add_argument("--user")
    parser.add_argument("--password")
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    camera = Camera(options)
    if options.user:
        camera.set_permissions(protect(server, options.user, options.password))
    server.get_mount_points().add_factory("/camera", camera)
    if not server.attach(None):
        sys.exit(f"cannot listen on port {options.port}")
    print(f"ready {server.get_bound_port()}", flush=True)
    GLib.MainLoop().run()


main()
