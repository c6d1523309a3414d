"""Opening a media file that may be broken or hostile, and bounding the work it can cause.

What is bounded: the bytes of a file, the formats and codecs FFmpeg may use, the streams, the size
of pictures, the pixels and samples decoded from one file, and the processor time spent on it. All
but the last are counted, so that the same file is refused on every machine; the time is a last
net. A file can open no other file and no network address. What cannot be bounded from here is an
error in FFmpeg's own machine code: it would end the process, as it would any player.
"""

import io
import os
import stat
import time
from pathlib import Path
from typing import Any, BinaryIO

import av

from weavejax.data.boxes import check_tables
from weavejax.data.clip import DecodeError

MAX_BYTES = 2**30  # of a file; it is held in memory
MAX_STREAMS = 64
MAX_SIDE, MAX_PIXELS = 16384, 64 * 2**20
MAX_FILE_PIXELS = 2**35  # decoded from one file: 9 minutes of 1920×1080 at 30/s without a seek
MAX_FILE_SAMPLES = 2**31  # of all channels, decoded from one file: an hour of 6 channels at 96 kHz
MAX_CPU_SECONDS = 60.0
MIN_RATE, MAX_RATE = 1000, 384_000  # Hz
MAX_CHANNELS = 64  # ambisonics of order 7
BUFFER_BYTES = 2**18  # FFmpeg's reads from a Python file: fewer calls than with the usual 32 KiB

# Demuxers of files that hold the media themselves: none that names other files (hls, concat, dash,
# sdp, …), and none of the several hundred rare ones. Codecs likewise: less code to trust.
FORMATS = (
    "aac,ac3,aiff,amr,apng,asf,au,avi,caf,dv,eac3,flac,flv,gif,ivf,matroska,mjpeg,mov,mp3,mpeg,"
    "mpegts,nut,ogg,w64,wav,webm,wv,yuv4mpegpipe,"
    "bmp_pipe,jpeg_pipe,png_pipe,ppm_pipe,tiff_pipe,webp_pipe"
)
VIDEO_CODECS = (
    "apng,av1,bmp,cinepak,dnxhd,dvvideo,ffv1,ffvhuff,flv,gif,h261,h263,h263p,h264,hevc,"
    "huffyuv,libaom-av1,libdav1d,libvpx,libvpx-vp9,mjpeg,mpeg1video,mpeg2video,mpeg4,msmpeg4,"
    "msmpeg4v1,msmpeg4v2,msvideo1,msrle,png,ppm,prores,qtrle,rawvideo,svq1,svq3,theora,tiff,"
    "utvideo,v210,vc1,vp6,vp6f,vp8,vp9,vvc,webp,wmv1,wmv2,wmv3"
)
AUDIO_CODECS = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,alac,amrnb,amrwb,dca,eac3,flac,libopus,libvorbis,"
    "mp1,mp1float,mp2,mp2float,mp3,mp3float,nellymoser,opus,qdm2,speex,truehd,vorbis,wavpack,"
    "wmalossless,wmapro,wmav1,wmav2"
)
AUDIO_FAMILIES = ("pcm_", "adpcm_")


class Allowance:
    """What may still be spent on one media file; each method raises DecodeError past the limit."""

    def __init__(self) -> None:
        self._start = time.thread_time()  # not wall time: a busy machine must not break clips
        self._pixels = self._samples = 0

    def check_time(self) -> None:
        """Call this at every step of a loop that a file controls."""
        if time.thread_time() - self._start > MAX_CPU_SECONDS:
            raise DecodeError(f"not decoded within {MAX_CPU_SECONDS:g} s of processor time")

    def picture(self, width: int, height: int) -> None:
        """Counts a decoded picture; refuses one beyond 16384 pixels a side or 64 Mpixel."""
        check_size(width, height)
        self._pixels += width * height
        if self._pixels > MAX_FILE_PIXELS:
            raise DecodeError(
                f"more than {MAX_FILE_PIXELS:.2g} pixels had to be decoded: cut the film into "
                "clips, or write it with more key frames"
            )
        self.check_time()

    def samples(self, count: int, channels: int, rate: int) -> None:
        """Counts decoded samples; refuses rates and channel counts that no sound has."""
        check_sound(rate, channels)
        self._samples += count * channels
        if self._samples > MAX_FILE_SAMPLES:
            raise DecodeError(f"more than {MAX_FILE_SAMPLES:.2g} samples: cut the sound into clips")
        self.check_time()


def check_size(width: float, height: float) -> None:
    """Refuses pictures of nothing, beyond 16384 pixels a side, or beyond 64 Mpixel."""
    if min(width, height) < 1 or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        kind = "small" if min(width, height) < 1 else "large"
        raise DecodeError(f"a picture of {width:.8g}×{height:.8g} pixels is too {kind}")


def check_sound(rate: int, channels: int) -> None:
    """Refuses rates outside 1 to 384 kHz and more than 64 channels."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise DecodeError(f"a sampling rate of {rate} Hz is outside {MIN_RATE} to {MAX_RATE} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise DecodeError(f"sound of {channels} channels; 1 to {MAX_CHANNELS} can be read")


class MeteredFile:
    """A file for FFmpeg that stops giving when the time is up.

    Without a name on purpose: some formats would go by it and open further files.
    """

    def __init__(self, file: BinaryIO, allowance: Allowance) -> None:
        self._file, self._allowance = file, allowance
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        self._allowance.check_time()
        return self._file.read(size)


def open_file(media: bytes | str | Path) -> BinaryIO:
    """The bytes as a file, or the file at a path if it is a plain one of a sane size.

    Raises:
      DecodeError: empty, too large, or not a plain file (opening a pipe would wait for ever).
      OSError: it cannot be opened.
    """
    if isinstance(media, bytes):
        file: BinaryIO = io.BytesIO(media)
        size = len(media)
    else:
        if not stat.S_ISREG(os.stat(media).st_mode):
            raise DecodeError("not a plain file")
        # Should it turn into a pipe at this very moment, opening it will still not wait.
        file = os.fdopen(os.open(media, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
        size = os.fstat(file.fileno()).st_size
    if not 0 < size <= MAX_BYTES:
        file.close()
        gigabytes = f"{size / 1e9:.2f} GB is more than {MAX_BYTES / 1e9:.2f}: cut it into clips"
        raise DecodeError(gigabytes if size else "empty file")
    return file


def read_file(path: str | Path) -> bytes:
    """All bytes of a media file; raises as `open_file`."""
    with open_file(path) as file:
        return file.read(MAX_BYTES)


def open_container(file: BinaryIO, allowance: Allowance) -> Any:
    """Opens a media file with PyAV, from its content alone; the caller closes both.

    Raises:
      DecodeError: a table of the file is absurd, or the time is up.
      av.FFmpegError: not a format that is read, or broken.
    """
    check_tables(file)
    options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": "none",
        "max_streams": str(MAX_STREAMS),
        "max_pixels": str(MAX_PIXELS),  # for the frames FFmpeg decodes to find the streams
    }
    try:
        return av.open(
            MeteredFile(file, allowance),
            options=options,
            metadata_errors="replace",
            buffer_size=BUFFER_BYTES,
            io_open=_refuse,
        )
    except av.ArgumentError as error:  # what FFmpeg says of formats that are not on the list
        raise DecodeError("its format is not one of those that are read") from error


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise DecodeError("it names another file or address, which is not opened")


def readable(stream: Any) -> bool:
    """Whether the stream's codec is one of those that are read."""
    context = stream.codec_context
    if context is None or not stream.time_base:
        return False
    name = context.codec.name
    if stream.type == "video":
        return name in VIDEO_CODECS.split(",")
    return name in AUDIO_CODECS.split(",") or name.startswith(AUDIO_FAMILIES)


def prepare(stream: Any) -> None:
    """Sets up the decoder of a stream; call it before the first frame.

    Raises:
      DecodeError: a codec that is not read, or an absurd picture or sound.
    """
    if not readable(stream):
        name = stream.codec_context.codec.name if stream.codec_context else "unknown"
        raise DecodeError(f"the codec of {stream.type} stream {stream.index} ({name}) is not read")
    context = stream.codec_context
    # 0 means that only the first frame will tell.
    if stream.type == "video" and context.width:
        check_size(context.width, context.height)
    if stream.type == "audio" and context.sample_rate:
        check_sound(context.sample_rate, context.channels)
    if not context.is_open:
        if stream.type == "video":
            context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_type = "NONE"  # the loader is parallel over clips already
        context.thread_count = 1
