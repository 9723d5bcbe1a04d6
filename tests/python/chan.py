"""A client of lib_chan's protocol, version 1, written from PROTOCOL.md alone.

It exists to show that the page is enough. It shares no code with the Rust implementation, and it is as strict as the
page allows it to be: whatever the server does that the page does not say is a `Fault`.

One thread, one session: the session works while one of its methods waits. A program that has nothing to wait for has
to call `receive` at least once a heartbeat.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL

ALPN = b"lib-chan/1"
WINDOW = 256 * 1024
MAX_FRAME = 1024 * 1024
MESSAGE_COST = 64

REASONS = (
    "normal", "shutdown", "kill", "killed", "noproc", "noconnection",
    "panic", "failed", "overload", "revoked", "going away", "protocol",
)  # fmt: skip
NO_PROC, NO_CONNECTION, FAILED, OVERLOAD, REVOKED, PROTOCOL = 4, 5, 7, 8, 9, 11

# With resume: acks go after so many bytes or ordered frames, and at the latest after a second. As much is kept beside the
# window until it is acknowledged. A `Resume` that is not answered for so long is given up.
ACK_BYTES, ACK_FRAMES, ACK_SECONDS = 64 * 1024, 1024, 1.0
KEPT_BESIDE_WINDOW = 128 * 1024
RESUME_SECONDS = 15.0


class Misbehaved(Exception):
    """The server is not the expected one, or broke the login. Nothing was executed."""


class LoginRefused(Exception):
    """Refused; it is never said whether for the password, the service or the client."""


class StartRefused(Exception):
    """The login succeeded, and the service was not started."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (code {code})")
        self.code, self.text = code, text


class CallRefused(Exception):
    """The answer to a call, where it is none of the service's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (code {code})")
        self.code, self.text = code, text
        self.executed: bool | None = {5: None, 6: True, 7: True}.get(code, False)


class SessionEnded(Exception):
    """The other end has ended the session, or the connection is lost."""

    def __init__(self, reason: int, text: str = "", executed: bool | None = None) -> None:
        super().__init__(f"{REASONS[reason]} {text}".rstrip())
        self.reason, self.text, self.executed = REASONS[reason], text, executed


class Fault(Exception):
    """The server broke the protocol within the session."""


# --- The connection ---------------------------------------------------------------------------------------------------


class Lost(Exception):
    """The connection has ended without `close_notify`."""


class Closed(Exception):
    """`close_notify` has come."""


WAITS = (SSL.WantReadError, SSL.WantWriteError)


class Connection:
    """Bytes over TLS 1.3, with an end to every wait. Whatever arrives while it writes is kept."""

    def __init__(self, host: str, port: int, deadline: float) -> None:
        self.socket = socket.create_connection((host, port), timeout=max(0.001, deadline - time.monotonic()))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # The pin decides, not an authority. OpenSSL checks the signature of the handshake all the same.
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        context.set_alpn_protos([ALPN])
        self.tls = SSL.Connection(context, self.socket)
        self.tls.set_connect_state()
        self.heard = time.monotonic()
        self._in = bytearray()
        self._end: Exception | None = None
        while True:
            try:
                self.tls.do_handshake()
                return
            except WAITS:
                if not self._select(deadline):
                    raise TimeoutError("TLS") from None
            except SSL.Error as error:
                raise Misbehaved(f"TLS: {error}") from error

    def pin(self) -> str:
        certificate = self.tls.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            raise Misbehaved("the server has no certificate")
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return "sha256:" + unpadded(hashlib.sha256(spki).digest())

    def exporter(self) -> bytes:
        return self.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.tls.send(view[:65536]) :]
            except WAITS:
                self._read()
                if not self._select(deadline, write=True):
                    raise TimeoutError("sending") from None

    def peek(self, count: int) -> bytes | None:
        """The next bytes, which stay, if as many are here."""
        return bytes(self._in[:count]) if len(self._in) >= count else None

    def take(self, count: int) -> bytes:
        taken = bytes(self._in[:count])
        del self._in[:count]
        return taken

    def fill(self, deadline: float) -> bool:
        """Waits for more bytes. False when the time is over."""
        while not self._read():
            if self._end:
                raise self._end
            if not self._select(deadline):
                return False
        return True

    def receive(self, count: int, deadline: float) -> bytes:
        while len(self._in) < count:
            if not self.fill(deadline):
                raise TimeoutError("receiving")
        return self.take(count)

    def finish(self, patience: float = 2.0) -> bool:
        """Says `close_notify` and discards until end of file. Whether the server said it too."""
        deadline = time.monotonic() + patience
        try:
            self.tls.shutdown()
            self.socket.shutdown(socket.SHUT_WR)
            while self.fill(deadline):
                pass
        except (Closed, Lost, SSL.Error, OSError):
            pass  # What counts is said by `self._end`.
        try:
            while self._select(deadline) and self.socket.recv(65536):
                pass
        except OSError:
            pass
        self.socket.close()
        return isinstance(self._end, Closed)

    def _read(self) -> bool:
        """Takes in what can be read without waiting."""
        before = len(self._in)
        try:
            while self._end is None:
                self._in += self.tls.recv(65536)
        except WAITS:
            pass
        except SSL.ZeroReturnError:
            self._end = Closed()
        except (SSL.Error, OSError) as error:
            self._end = Lost(str(error))
        if len(self._in) == before:
            return False
        self.heard = time.monotonic()
        return True

    def _select(self, deadline: float, write: bool = False) -> bool:
        left = max(0.0, deadline - time.monotonic())
        readable, writable, _ = select.select([self.socket], [self.socket] if write else [], [], left)
        return bool(readable or writable)


# --- The login --------------------------------------------------------------------------------------------------------


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True)
class Password:
    """What a client logs in with: the password's bytes."""

    password: bytes
    mechanism = 1

    @staticmethod
    def from_file(path: str) -> Password:
        with open(path, "rb") as file:
            return Password(file.read().removesuffix(b"\n"))

    def keys(self, m2: bytes) -> tuple[Ed25519PrivateKey, bytes]:
        """The client key and the server key."""
        if len(m2) != 60 or m2[:2] != bytes([1, 1]) or m2[34] != 0x13:
            raise Misbehaved("M2")
        memory, passes, lanes = struct.unpack_from(">IIB", m2, 35)
        salt = m2[44:]
        allowed = 19_456 <= memory <= 262_144 and 2 <= passes <= 10 and 1 <= lanes <= 4
        if not allowed or memory * passes > 1_048_576:
            raise Misbehaved("M2: the parameters of Argon2")
        prk = hash_secret_raw(self.password, salt, passes, memory, lanes, 32, Type.ID, 0x13)
        seed = HKDFExpand(hashes.SHA256(), 32, b"chan-auth-v1 client key").derive(prk)
        server = HKDFExpand(hashes.SHA256(), 32, b"chan-auth-v1 server key").derive(prk)
        return Ed25519PrivateKey.from_private_bytes(seed), server


@dataclass(frozen=True)
class Key:
    """What a client logs in with: an Ed25519 key of its own."""

    seed: bytes
    mechanism = 2

    @staticmethod
    def from_file(path: str) -> Key:
        with open(path, encoding="ascii") as file:
            kind, _, seed = file.read().strip().partition(":")
        if kind != "chan-key-v1":
            raise ValueError("not a key file of version 1")
        return Key(from_unpadded(seed))

    def keys(self, ekm: bytes) -> tuple[Ed25519PrivateKey, bytes]:
        """The client key and the server key."""
        return Ed25519PrivateKey.from_private_bytes(self.seed), ekm


Credential = Password | Key


@dataclass(frozen=True)
class Bounds:
    """What the server said in M4."""

    max_frame: int
    window: int
    heartbeat_ms: int


def hello(mechanism: int, service: str, client: str, nonce: bytes) -> bytes:
    """M1."""
    names = b"".join(bytes([len(name)]) + name.encode("ascii") for name in (service, client))
    return b"chan" + bytes([1, mechanism]) + names + nonce


def prove(credential: Credential, ekm: bytes, m1: bytes, m2: bytes) -> tuple[bytes, Callable[[bytes], Bounds]]:
    """M3, and the check of the M4 that answers it. A key has no M2."""
    if isinstance(credential, Password):
        client_key, server_key = credential.keys(m2)
        messages = prefixed(m1) + prefixed(m2)
    else:
        client_key, server_key = credential.keys(ekm)
        messages = prefixed(m1)
    transcript = hashlib.sha256(b"chan-auth-v1\0" + ekm + messages).digest()
    m3 = client_key.sign(b"chan-auth-v1 client proof\0" + transcript)

    def check(m4: bytes) -> Bounds:
        if m4 == b"\x01":
            raise LoginRefused("refused: the password, the service or the client")
        if len(m4) != 45 or m4[0] != 0:
            raise Misbehaved("M4")
        signed = b"chan-auth-v1 server proof\0" + transcript + m3 + m4[:1] + m4[33:]
        if not hmac.compare_digest(hmac.digest(server_key, signed, "sha256"), m4[1:33]):
            raise Misbehaved("M4: the server does not know the key")
        bounds = Bounds(*struct.unpack(">III", m4[33:]))
        if not (
            1024 <= bounds.max_frame <= 16_777_216
            and bounds.window >= 65_536
            and 1000 <= bounds.heartbeat_ms <= 300_000
        ):
            raise Misbehaved("M4: the parameters")
        return bounds

    return m3, check


def prefixed(body: bytes) -> bytes:
    return struct.pack(">H", len(body)) + body


@dataclass(frozen=True)
class Url:
    """A service's address, with pins for trust: the only kind that this client knows."""

    host: str
    port: int
    service: str
    client: str
    pins: tuple[str, ...]

    @staticmethod
    def parse(url: str) -> Url:
        parts = urlsplit(url)
        trust, _, pins = parts.query.partition("=")
        if parts.scheme != "chan" or trust != "pin" or not parts.hostname or not parts.port:
            raise ValueError("chan://[client@]host:port/service?pin=PIN[,PIN]")
        return Url(parts.hostname, parts.port, parts.path[1:], parts.username or "", tuple(pins.split(",")))


def log_in(url: Url, credential: Credential, deadline: float) -> tuple[Connection, Bounds]:
    """Connects and proves who is who. The next byte in each direction belongs to the session."""
    connection = Connection(url.host, url.port, deadline)

    def receive(most: int) -> bytes:
        (length,) = struct.unpack(">H", connection.receive(2, deadline))
        if length > most:
            raise Misbehaved("a message of the login is too long")
        return connection.receive(length, deadline)

    try:
        if connection.tls.get_alpn_proto_negotiated() != ALPN:
            raise Misbehaved("ALPN")
        if connection.pin() not in url.pins:
            raise Misbehaved(f"the server's key is {connection.pin()}")
        m1 = hello(credential.mechanism, url.service, url.client, os.urandom(32))
        connection.send(prefixed(m1), deadline)
        m2 = receive(60) if isinstance(credential, Password) else b""
        m3, check = prove(credential, connection.exporter(), m1, m2)
        connection.send(prefixed(m3), deadline)
        return connection, check(receive(45))
    except (Closed, Lost) as error:
        connection.finish()
        raise Misbehaved("the connection ended during the login") from error
    except BaseException:
        connection.finish()
        raise


# --- Resume -----------------------------------------------------------------------------------------------------------


def resume_key(secret: bytes) -> bytes:
    """All that is kept of the secret in the `Started`."""
    return hashlib.sha256(b"lib-chan resume key\0" + secret).digest()


def resume_proof(key: bytes, ekm: bytes, id: bytes, epoch: int, received: int, sent: int) -> bytes:
    """The last field of a `Resume`."""
    data = b"lib-chan resume\0" + ekm + id + struct.pack(">QQQ", epoch, received, sent)
    return hmac.digest(key, data, "sha256")


@dataclass
class Kept:
    """An ordered frame that the server has not acknowledged. A call is sent again with the time that it has left then."""

    number: int
    data: bytes
    call: Call | None = None
    payload: bytes = b""

    def again(self) -> bytes:
        if self.call is None:
            return self.data
        return frame(CALL, 0, self.call.id, self.call.left(), rest=self.payload)


@dataclass
class Agreement:
    """What a server that grants resume has promised, and how far it was when the session was last resumed."""

    window: float
    id: bytes
    key: bytes
    epoch: int = 1
    peer_sent: int = 0


# --- The session ------------------------------------------------------------------------------------------------------

START, STARTED, CAST, CALL, CANCEL, REPLY, REFUSE, EXIT, ENDED = range(0x01, 0x0A)
LINK, UNLINK, UNLINK_ACK, MONITOR, DEMONITOR, DOWN, GO_AWAY, PART = range(0x0A, 0x12)
RELEASE, CAST_WITH, CALL_WITH, REPLY_WITH, PART_TO = range(0x12, 0x17)
CREDIT, ACK, PING, PONG, RESUME, RESUMED, LOST = range(0x40, 0x47)

RAW = 3

# The fields of each kind of frame, "n" for a number, "i" for 16 bytes, "s" for 32 and "t" for a table of handles, and what
# the rest of it is.
LAYOUT = {
    START: ("nnnnnnnnn", "payload"), STARTED: ("nnnn", ""), CAST: ("n", "payload"), CALL: ("nnn", "payload"),
    CANCEL: ("n", ""), REPLY: ("n", "payload"), REFUSE: ("nn", "text"), EXIT: ("nnnnn", "text"), ENDED: ("nn", "text"),
    LINK: ("nn", ""), UNLINK: ("nnn", ""), UNLINK_ACK: ("nnn", ""), MONITOR: ("nn", ""), DEMONITOR: ("n", ""),
    DOWN: ("nnn", "text"), GO_AWAY: ("", ""), PART: ("nn", "payload"), CREDIT: ("nn", ""), ACK: ("n", ""), PING: ("n", ""), PONG: ("n", ""),
    RELEASE: ("nn", ""), CAST_WITH: ("nt", "payload"), CALL_WITH: ("nnnt", "payload"), REPLY_WITH: ("nt", "payload"),
    PART_TO: ("nn", "payload"),
    RESUME: ("innns", ""), RESUMED: ("nn", ""), LOST: ("n", ""),
}  # fmt: skip

# What follows if the last of these fields is not 0.
MORE = {START: ("s", "payload"), STARTED: ("is", ""), LOST: ("nnn", "text")}

Field = int | bytes | tuple["Entry", ...]

# The window of a process that is handed out.
WINDOW_OF_PROCESS = 64 * 1024


@dataclass(frozen=True)
class Entry:
    """One handle in the head of a message: a process of the frame's sender, or of its receiver."""

    sender: bool
    id: int
    rights: int = 0
    window: int = 0

    def bytes(self) -> bytes:
        fields = (0, self.id, self.rights, self.window) if self.sender else (1, self.id)
        return b"".join(map(varint, fields))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def frame(kind: int, *fields: Field, rest: bytes = b"") -> bytes:
    body = bytes([kind]) + b"".join(map(field_bytes, fields)) + rest
    return struct.pack(">I", len(body)) + body


def field_bytes(field: Field) -> bytes:
    if isinstance(field, int):
        return varint(field)
    if isinstance(field, tuple):
        return varint(len(field)) + b"".join(entry.bytes() for entry in field)
    return field


def parse(body: bytes) -> tuple[int, list[Any], bytes]:
    """Kind, fields and rest of what follows the length."""
    kind, at = body[0], 1
    if kind not in LAYOUT:
        raise Fault(f"kind {kind:02x}")
    layout, rest = LAYOUT[kind]
    fields: list[Any] = []
    while len(fields) < len(layout):
        field, at = parse_field(layout[len(fields)], body, at)
        fields.append(field)
        if kind in MORE and layout == LAYOUT[kind][0] and len(fields) == len(layout) and field != 0:
            layout, rest = layout + MORE[kind][0], MORE[kind][1]
    if kind == LOST and fields[0] > 1:
        raise Fault("neither known nor unknown")
    if not rest and at < len(body):
        raise Fault("bytes after the end")
    if rest == "text":
        try:
            body[at:].decode()
        except UnicodeDecodeError as error:
            raise Fault("a text is not UTF-8") from error
        reason = fields[-1] if kind != REFUSE else FAILED
        if len(body) - at > (65536 if kind == REFUSE and fields == [0, 8] else 256) or reason >= len(REASONS) or (reason != FAILED and at < len(body)):
            raise Fault("a reason or its text")
        if kind == REFUSE and not 1 <= fields[1] <= (8 if fields[0] == 0 else 7):
            raise Fault("the code of a refusal")
    return kind, fields, body[at:]


def parse_field(sort: str, body: bytes, at: int) -> tuple[Field, int]:
    """The field at this place, and the place of what follows it."""
    if sort == "t":
        return parse_table(body, at)
    if sort != "n":
        end = at + (16 if sort == "i" else 32)
        if end > len(body):
            raise Fault("bytes are cut off")
        return body[at:end], end
    number = shift = 0
    while True:
        if at >= len(body):
            raise Fault("a number is cut off")
        byte = body[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if number >> 64 or (byte == 0 and shift > 7):
        raise Fault("a number is too large or not in its shortest form")
    return number, at


def parse_table(body: bytes, at: int) -> tuple[tuple[Entry, ...], int]:
    """The table of handles at this place, and the place of what follows it."""

    def number() -> int:
        nonlocal at
        field, at = parse_field("n", body, at)
        assert isinstance(field, int)
        return field

    count, entries = number(), []
    if not 1 <= count <= 1024:
        raise Fault("the length of a table")
    for _ in range(count):
        side, id = number(), number()
        if side > 1 or id == 0:
            raise Fault("a handle")
        entries.append(Entry(True, id, number(), number()) if side == 0 else Entry(False, id))
        if entries[-1].rights > 31:
            raise Fault("an unknown right")
    return tuple(entries), at


class Call:
    """A call that was sent. It is answered exactly once, or the session ends."""

    def __init__(self, session: Session, id: int, number: int, deadline: float) -> None:
        self.id, self.number = id, number
        self._session, self._deadline = session, deadline
        self._cancelled = False
        self._answer: bytes | Exception | None = None
        # The processes in the answer.
        self.processes: list[Process | Local] = []
        # What has come of an answer in parts, and how long it will be: 0 while none has come.
        self.parts, self.total = bytearray(), 0

    def left(self) -> int:
        """The milliseconds for which somebody waits."""
        return 0 if self._cancelled else max(0, int((self._deadline - time.monotonic()) * 1000))

    def result(self) -> Any:
        self._session.work(lambda: self._answer is not None, self._deadline)
        if isinstance(self._answer, Exception):
            raise self._answer
        assert self._answer is not None
        return self._session._decoded_with(self._answer, self.processes)

    def cancel(self) -> None:
        """Says that nobody waits any more. The answer comes all the same, and can still be had."""
        self._cancelled = True
        self._session._send(CANCEL, self.id)


class Process:
    """A process of the server that came in a message. `release` says that it is not needed any more."""

    def __init__(self, session: Session, id: int, window: int) -> None:
        self.id, self.granted, self.window = id, window, window
        self.spent = self.received = 0
        self._session = session

    def cast(self, message: Any, timeout: float = 30.0) -> None:
        self._session._cast_to(self, message, timeout)

    def call(self, message: Any, timeout: float = 30.0) -> Call:
        return self._session._call_to(self, message, timeout)

    def monitor(self) -> int:
        """Asks for the end of the process. `Session.down` returns its reason."""
        self._session.last_monitor += 1
        self._session._send(MONITOR, self._session.last_monitor, self.id)
        return self._session.last_monitor

    def release(self) -> None:
        del self._session.processes[self.id]
        self._session._send(RELEASE, self.id, self.received)

    def _fits(self, cost: int) -> bool:
        left = self.granted - self.spent
        return cost <= left if cost <= self.window else left > self.window - self.window // 8


class Local:
    """A process of this client, to be put into messages. What comes to it waits in `queue`; `answer` answers calls."""

    RIGHTS = 3  # Send and call, and monitor.

    def __init__(self, answer: Callable[[Any], Any] | None = None) -> None:
        self.id = self.sent = 0
        self.queue: deque[Any] = deque()
        self.answer = answer
        self.monitors: list[int] = []
        self.granted = self.spent = WINDOW_OF_PROCESS


class Session:
    """A session with a service, in JSON. With codec 3 messages are bytes.

    With `resume` it outlives its connection for so many seconds, if the server grants that. The next method that waits
    then logs in again.
    """

    def __init__(
        self,
        url: str,
        credential: Credential,
        arguments: Any = None,
        window: int = WINDOW,
        timeout: float = 15.0,
        codec: int = 2,
        resume: float = 0.0,
        max_handles: int = 0,
        max_links: int = 0,
    ) -> None:
        deadline = time.monotonic() + timeout
        self.url, self.credential = Url.parse(url), credential
        self.connection, self.bounds = log_in(self.url, credential, deadline)
        # Resume.
        self.asked = int(resume * 1000)
        self.agreement: Agreement | None = None
        self.kept: deque[Kept] = deque()
        self.lost_at: float | None = None
        self.written = 0
        self._acked_at = (0, 0)
        self._ack_by: float | None = None
        self._received_bytes = 0
        # Towards the server.
        self.sent = self.acked = 0
        self.granted, self.spent = self.bounds.window, 0
        self.max_calls: int | None = None
        self.last_call = 0
        self.calls: dict[int, Call] = {}
        # Towards us.
        self.received = self.taken = 0
        self.window, self.own_granted, self.own_spent, self.own_returned = window, window, 0, 0
        self.queue: deque[tuple[int, bytes]] = deque()
        # The messages that have come in part, by their processes: the bytes, and how long each will be.
        self.parts: dict[int, tuple[bytearray, int]] = {}
        # Processes: the server's, by their ids; ours, by theirs; ends of monitored ones, by monitors.
        self.processes: dict[int, Process] = {}
        self.handed_out: dict[int, Local] = {}
        self.last_id = self.last_monitor = 0
        self.downs: dict[int, tuple[str, str]] = {}
        self.max_handles = 0
        # Both.
        self.pongs: set[int] = set()
        self.beats = 0
        self.last_ping = 0
        self.said_ended = False
        self.end: SessionEnded | None = None
        self.clean = False
        self._refused: StartRefused | None = None
        self._heartbeat = self.bounds.heartbeat_ms / 1000
        self._pinged = False
        self._encoded: Callable[[Any], bytes] = bytes if codec == RAW else encoded
        self._decoded: Callable[[bytes], Any] = bytes if codec == RAW else json.loads

        self._send(START, codec, 0 if max_handles == 0 else 16, max_links, max_handles, MAX_FRAME, window, self.asked, 0, 0, rest=self._encoded(arguments))
        self.work(lambda: self.max_calls is not None, deadline)

    def write(self, data: bytes) -> None:
        """Sends any bytes, for tests. Up to nine ordered frames may be among them."""
        self.sent += 9
        self.connection.send(data, time.monotonic() + 60)

    def call(self, message: Any, timeout: float = 30.0) -> Call:
        """Sends a call as soon as the server has room for it."""
        payload, deadline = self._encoded(message), time.monotonic() + timeout
        self._wait_for_room(lambda: self.spent < self.granted and len(self.calls) < (self.max_calls or 0), deadline)
        self.spent += MESSAGE_COST + len(payload)
        self.last_call += 1
        call = Call(self, self.last_call, self.sent + 1, deadline)
        self.calls[call.id] = call
        self._send(CALL, 0, call.id, call.left(), rest=payload, call=call)
        return call

    def cast(self, message: Any, timeout: float = 30.0) -> None:
        """Sends a message without an answer as soon as the server has room for it."""
        payload = self._encoded(message)
        self._wait_for_room(lambda: self.spent < self.granted, time.monotonic() + timeout)
        self.spent += MESSAGE_COST + len(payload)
        self._send(CAST, 0, rest=payload)

    # Processes in messages.

    def down(self, monitor: int, timeout: float = 30.0) -> tuple[str, str]:
        """Waits for the end of a monitored process, and returns its reason and text."""
        self.work(lambda: monitor in self.downs, time.monotonic() + timeout)
        return self.downs.pop(monitor)

    def took(self, local: Local, timeout: float = 30.0) -> Any:
        """Takes the next message that came to a process of ours."""
        self.work(lambda: bool(local.queue), time.monotonic() + timeout)
        return local.queue.popleft()

    def exit(self, local: Local, reason: int = 0) -> None:
        """Ends a process of ours: its monitors are told."""
        for monitor in local.monitors:
            self._send(DOWN, monitor, 0, reason)
        local.monitors.clear()
        if local.id:
            self._send(CREDIT, local.id, 2**64 - 1)

    def _with_handles(self, message: Any) -> tuple[bytes, tuple[Entry, ...]]:
        """The payload of a message, and the table of the processes in it."""
        table: list[Entry] = []

        def place(value: Any) -> Any:
            if isinstance(value, Process):
                table.append(Entry(False, value.id))
            elif isinstance(value, Local):
                if not value.id:
                    self.last_id += 1
                    value.id = self.last_id
                    self.handed_out[value.id] = value
                value.sent += 1
                table.append(Entry(True, value.id, Local.RIGHTS, WINDOW_OF_PROCESS))
            else:
                raise TypeError(f"{value!r} does not travel")
            return {"$process": len(table) - 1}

        text = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=place)
        if len(self.handed_out) > self.max_handles:
            raise ValueError("more processes than the server takes")
        return text.encode(), tuple(table)

    def _arrived(self, table: tuple[Entry, ...]) -> list[Process | Local]:
        arrived: list[Process | Local] = []
        for entry in table:
            if not entry.sender:
                if entry.id > self.last_id:
                    raise Fault("a process that was never handed out")
                arrived.append(self.handed_out.get(entry.id) or Local())
                continue
            process = self.processes.setdefault(entry.id, Process(self, entry.id, entry.window))
            process.received += 1
            arrived.append(process)
        return arrived

    def _decoded_with(self, payload: bytes, processes: list[Process | Local]) -> Any:
        def process(value: dict[str, Any]) -> Any:
            return processes[value["$process"]] if value.keys() == {"$process"} else value

        return json.loads(payload, object_hook=process)

    def _cast_to(self, process: Process, message: Any, timeout: float) -> None:
        payload, table = self._with_handles(message)
        cost = MESSAGE_COST * (1 + len(table)) + len(payload)
        self._wait_for_room(lambda: process._fits(cost), time.monotonic() + timeout)
        process.spent += cost
        if table:
            self._send(CAST_WITH, process.id, table, rest=payload)
        else:
            self._send(CAST, process.id, rest=payload)

    def _call_to(self, process: Process | None, message: Any, timeout: float) -> Call:
        payload, table = self._with_handles(message)
        deadline, cost = time.monotonic() + timeout, MESSAGE_COST * (1 + len(table)) + len(payload)

        def has_credit() -> bool:
            return process._fits(cost) if process else self.spent < self.granted

        self._wait_for_room(lambda: has_credit() and len(self.calls) < (self.max_calls or 0), deadline)
        if process:
            process.spent += cost
        else:
            self.spent += cost
        self.last_call += 1
        call = Call(self, self.last_call, self.sent + 1, deadline)
        self.calls[call.id] = call
        to = process.id if process else 0
        if table:
            self._send(CALL_WITH, to, call.id, call.left(), table, rest=payload)
        else:
            self._send(CALL, to, call.id, call.left(), rest=payload, call=call)
        return call

    def _came_to(self, local: Local, call: int | None, message: Any, cost: int) -> None:
        local.spent += cost
        if call is None:
            local.queue.append(message)
        elif local.answer is None:
            self._send(REFUSE, call, 1, rest=b"no calls")
        else:
            self._send(REPLY, call, rest=encoded(local.answer(message)))
        local.granted += cost
        self._send(CREDIT, local.id, local.granted)

    def call_with(self, message: Any, timeout: float = 30.0) -> Call:
        """Does what `call` does, with processes in the message."""
        return self._call_to(None, message, timeout)

    def receive(self, timeout: float = 30.0) -> Any:
        """Takes the next message that the service has sent by itself."""
        self.work(lambda: bool(self.queue), time.monotonic() + timeout)
        self.taken, payload = self.queue.popleft()
        self._took(payload)
        return self._decoded(payload)

    def sync(self, timeout: float = 30.0) -> None:
        """Waits until the server has received all that was sent."""
        before, deadline = self.sent, time.monotonic() + timeout
        while True:
            self.last_ping += 1
            token, over = self.last_ping, self.connection
            self._send(PING, token)
            # A ping belongs to its connection, and so does its answer.
            self.work(lambda: token in self.pongs or self.connection is not over, deadline)  # noqa: B023
            if token in self.pongs:
                break
        if self.acked < before:
            raise Fault("a pong without the ack that has to come before")

    def close(self, timeout: float = 10.0) -> SessionEnded:
        """Ends the session, and waits until the server has done so too."""
        if self.end is None:
            self._say_ended(self.taken, 0)
            try:
                self.work(lambda: False, time.monotonic() + timeout)
            except SessionEnded:
                pass
            except TimeoutError:
                self._over(SessionEnded(NO_CONNECTION))
        assert self.end is not None
        return self.end

    def wait(self, timeout: float = 30.0) -> SessionEnded:
        """Waits for the server to end the session."""
        try:
            self.work(lambda: False, time.monotonic() + timeout)
        except SessionEnded as end:
            return end
        raise AssertionError("unreachable")

    def work(self, done: Callable[[], bool], deadline: float) -> None:
        """Handles what comes until `done` says yes, or raises how the session ended."""
        while not done():
            if self._refused and self.end:
                raise self._refused
            if self.end:
                raise self.end
            try:
                if self.lost_at is not None:
                    self._resume(deadline)
                else:
                    self._handle(*parse(self._next(deadline)))
            except (Closed, Lost):
                self._lose()
            except Fault:
                self._say_ended(self.received, PROTOCOL)
                self._over(SessionEnded(PROTOCOL))
                raise

    def _next(self, deadline: float) -> bytes:
        """The next frame, without its length."""
        while True:
            head = self.connection.peek(4)
            if head:
                (length,) = struct.unpack(">I", head)
                if not 1 <= length <= MAX_FRAME:
                    raise Fault("the length of a frame")
                if self.connection.peek(4 + length):
                    return self.connection.take(4 + length)[4:]
            self._ack_in_time()
            if self.lost_at is not None:
                raise Lost("while sending")
            quiet = self.connection.heard + self._heartbeat * (3 if self._pinged else 1)
            if self.connection.fill(min(deadline, quiet, self._ack_by or deadline)):
                self._pinged = False
            elif self._ack_by is not None and time.monotonic() >= self._ack_by:
                continue
            elif time.monotonic() >= deadline:
                raise TimeoutError("the time is over")
            elif self._pinged:
                raise Lost("silence")
            else:
                self._pinged = True
                self._send(PING, 0)

    def _handle(self, kind: int, fields: list[Any], rest: bytes) -> None:
        if kind < 0x40:
            self.received += 1
            self._received_bytes += len(rest)
            if self.agreement and self._ack_by is None:
                self._ack_by = time.monotonic() + ACK_SECONDS
        if self.max_calls is None and kind not in (STARTED, REFUSE, ENDED, ACK, PING, PONG):
            raise Fault("before Started")
        if kind == STARTED:
            if self.max_calls is not None:
                raise Fault("a second Started")
            if fields[3] > self.asked:
                raise Fault("more resume than was asked for")
            self.max_calls, self.max_handles = fields[0], fields[2]
            if fields[3] > 0:
                self.agreement = Agreement(fields[3] / 1000, fields[4], resume_key(fields[5]))
                self._ack()
        elif kind == PART_TO:
            self._add_part_of_message(fields[0], fields[1], rest)
        elif kind in (CAST, CALL) and fields[0] in self.parts:
            came, total = self.parts.pop(fields[0])
            if not rest or len(came) + len(rest) != total:
                raise Fault("the end of a message that has come in parts")
            if fields[0] == 0:
                # Its cost was counted with the first part.
                self.own_spent -= MESSAGE_COST + total
            self.received -= 1
            self._received_bytes -= len(rest)
            self._handle(kind, fields, bytes(came) + rest)
        elif kind in (CAST_WITH, CALL_WITH) and fields[0] in self.parts:
            raise Fault("a message with processes in the midst of another")
        elif kind == CAST:
            if self.own_spent >= self.own_granted:
                raise Fault("a message without credit")
            self.own_spent += MESSAGE_COST + len(rest)
            if fields[0] == 0:
                self.queue.append((self.received, rest))
            elif fields[0] in self.handed_out:
                self.own_spent -= MESSAGE_COST + len(rest)
                local = self.handed_out[fields[0]]
                self._came_to(local, None, json.loads(rest), MESSAGE_COST + len(rest))
        elif kind in (CAST_WITH, CALL_WITH, CALL, MONITOR, DEMONITOR, RELEASE, REPLY_WITH, DOWN):
            self._handle_process(kind, fields, rest)
        elif kind == PART:
            call = self.calls.get(fields[0])
            if call is None:
                raise Fault("a part of an answer to a call that does not wait for one")
            self._add_part(call, fields[1], rest)
        elif kind in (REPLY, REFUSE):
            if kind == REFUSE and fields[0] == 0 and self.max_calls is None:
                self._refused = StartRefused(fields[1], rest.decode())
                return
            call = self.calls.pop(fields[0], None)
            if call is None:
                raise Fault("an answer to a call that does not wait for one")
            if call.total:
                rest = bytes(call.parts) + rest
                if kind == REFUSE or len(rest) != call.total or len(rest) == len(call.parts):
                    raise Fault("the end of an answer that has come in parts")
            call._answer = rest if kind == REPLY else CallRefused(fields[1], rest.decode())
        elif kind == ENDED:
            taken, reason = fields
            if self.said_ended and reason == NO_CONNECTION:
                reason = 0  # The answer to our own end: the other owner lives.
            self._say_ended(self.received, NO_CONNECTION)
            for call in self.calls.values():
                call._answer = SessionEnded(reason, rest.decode(), None if call.number <= taken else False)
            self.calls.clear()
            self._over(SessionEnded(reason, rest.decode()))
        elif kind == CREDIT:
            if fields[0] == 0:
                self.granted = max(self.granted, fields[1])
            elif fields[0] in self.processes:
                process = self.processes[fields[0]]
                process.granted = max(process.granted, fields[1])
        elif kind == ACK:
            if fields[0] > self.sent:
                raise Fault("an ack of what was not sent")
            self._acknowledged(fields[0])
        elif kind == PING:
            self.beats += 1
            self._ack()
            self._send(PONG, fields[0])
        elif kind == PONG:
            self.beats += fields[0] == 0
            self.pongs.add(fields[0])
        elif kind not in (EXIT, GO_AWAY):
            # We have allowed no calls, links and monitors, and made none.
            raise Fault(f"kind {kind:02x} out of place")

    def _handle_process(self, kind: int, fields: list[Any], rest: bytes) -> None:
        """A frame about processes in messages."""
        if kind == DOWN:
            self.downs[fields[0]] = (REASONS[fields[2]], rest.decode())
        elif kind == MONITOR:
            if fields[1] in self.handed_out:
                self.handed_out[fields[1]].monitors.append(fields[0])
            else:
                self._send(DOWN, fields[0], 0, NO_PROC)
        elif kind == DEMONITOR:
            for local in self.handed_out.values():
                local.monitors = [monitor for monitor in local.monitors if monitor != fields[0]]
        elif kind == RELEASE:
            local = self.handed_out.get(fields[0])
            if local is None or not 1 <= fields[1] <= local.sent:
                raise Fault("a release of what was not handed out")
            local.sent -= fields[1]
            if local.sent == 0:
                del self.handed_out[fields[0]]
                local.id = 0
        elif kind == REPLY_WITH:
            call = self.calls.pop(fields[0], None)
            if call is None or call.total:
                raise Fault("an answer to a call that does not wait for one")
            call._answer, call.processes = rest, self._arrived(fields[1])
        else:
            table = fields[-1] if kind != CALL else ()
            processes, call = self._arrived(table), None if kind == CAST_WITH else fields[1]
            if fields[0] in self.handed_out:
                message = self._decoded_with(rest, processes)
                cost = MESSAGE_COST * (1 + len(table)) + len(rest)
                self._came_to(self.handed_out[fields[0]], call, message, cost)
            elif call is not None:
                self._send(REFUSE, call, 1, rest=b"no such process")

    def _add_part(self, call: Call, total: int, payload: bytes) -> None:
        unfinished = sum(call.total > 0 for call in self.calls.values())
        if (total > 0) == (call.total > 0) or total > MAX_FRAME - 35 or (total > 0 and unfinished == 4):
            raise Fault("a part out of place")
        call.total = call.total or total
        call.parts += payload
        if not payload or len(call.parts) >= call.total:
            raise Fault("a part of this length")

    def _add_part_of_message(self, to: int, total: int, payload: bytes) -> None:
        if total == 0 and not payload:
            came, total = self.parts.pop(to, (bytearray(), 0))
            if total == 0:
                raise Fault("takes back what has not begun")
            if to == 0:
                self._returned(total)
            return
        if (total > 0) == (to in self.parts) or total > MAX_FRAME - 35 or (total > 0 and len(self.parts) == 4):
            raise Fault("a part out of place")
        if total > 0 and to == 0:
            if self.own_spent >= self.own_granted:
                raise Fault("a message without credit")
            self.own_spent += MESSAGE_COST + total
        came, whole = self.parts.setdefault(to, (bytearray(), total))
        came += payload
        if not payload or len(came) >= whole:
            raise Fault("a part of this length")

    def _took(self, payload: bytes) -> None:
        self._returned(len(payload))

    def _returned(self, length: int) -> None:
        self.own_returned += MESSAGE_COST + length
        total = self.own_returned + self.window
        if total - self.own_granted >= self.window // 8:
            self.own_granted = total
            self._send(CREDIT, 0, total)

    def _say_ended(self, taken: int, reason: int) -> None:
        if not self.said_ended:
            try:
                self._send(ENDED, taken, reason)
            except (SSL.Error, OSError):
                pass  # An end that was ended at once may have closed already.
            self.said_ended = True

    def _send(self, kind: int, *fields: Field, rest: bytes = b"", call: Call | None = None) -> None:
        if self.said_ended or self.end:
            return  # Ended is the last frame of its direction, of any kind.
        data = frame(kind, *fields, rest=rest)
        if len(data) - 4 > self.bounds.max_frame:
            raise ValueError("too long for the server")
        if kind < 0x40:
            self.sent += 1
            if self.asked:
                self.kept.append(Kept(self.sent, data, call, rest if call else b""))
        if self.lost_at is None:
            self._put(data, self.sent)

    def _put(self, data: bytes, number: int) -> None:
        """Gives bytes to the connection, up to the ordered frame with this number."""
        self.written = max(self.written, number)
        try:
            self.connection.send(data, time.monotonic() + 60)
        except (SSL.Error, OSError):
            if self.agreement is None:
                raise
            self._lose()

    def _over(self, end: SessionEnded) -> None:
        for call in self.calls.values():
            executed = False if call.number > self.written else end.executed
            call._answer = SessionEnded(REASONS.index(end.reason), end.text, executed)
        self.calls.clear()
        self.kept.clear()
        self.end = end
        self.clean = self.lost_at is None and self.connection.finish()

    # Acknowledgements.

    def _ack(self) -> None:
        self._acked_at, self._ack_by = (self.received, self._received_bytes), None
        self._send(ACK, self.received)

    def _ack_in_time(self) -> None:
        frames, size = self.received - self._acked_at[0], self._received_bytes - self._acked_at[1]
        late = self._ack_by is not None and time.monotonic() >= self._ack_by
        if self.agreement and (frames >= ACK_FRAMES or size >= ACK_BYTES or late):
            self._ack()

    def _acknowledged(self, number: int) -> None:
        self.acked = max(self.acked, number)
        while self.kept and self.kept[0].number <= self.acked:
            self.kept.popleft()

    def _wait_for_room(self, has_credit: Callable[[], bool], deadline: float) -> None:
        """Waits until one more message may be sent, and kept."""
        bound = max(self.granted - self.spent, self.bounds.window) + KEPT_BESIDE_WINDOW
        if self.agreement and sum(len(kept.data) for kept in self.kept) >= bound:
            self.sync(max(0.0, deadline - time.monotonic()))
        self.work(has_credit, deadline)

    # Other connections.

    def _lose(self) -> None:
        """The connection is gone: nothing more of it is handled, and nothing more is written to it."""
        if self.agreement is None:
            return self._over(SessionEnded(NO_CONNECTION))
        self.connection.socket.close()
        if self.lost_at is None:
            self.lost_at = time.monotonic()

    def _resume(self, deadline: float) -> None:
        """Logs in again and takes the session up, or ends it. Raises when `deadline` comes first."""
        agreement, lost_at = self.agreement, self.lost_at
        assert agreement is not None and lost_at is not None
        until, wait = lost_at + agreement.window, 0.0
        while True:
            now = time.monotonic()
            if now >= until:
                return self._over(SessionEnded(NO_CONNECTION))
            if now >= deadline:
                raise TimeoutError("the time is over")
            time.sleep(min(wait, until - now, deadline - now) * random.random())
            wait = min(2 * wait or 0.1, 30.0)
            try:
                if self._ask(agreement, min(until, deadline, time.monotonic() + RESUME_SECONDS)):
                    return
            except LoginRefused:
                return self._over(SessionEnded(REVOKED))
            except (Closed, Lost, Misbehaved, OSError, SSL.Error):
                self.connection.socket.close()

    def _ask(self, agreement: Agreement, deadline: float) -> bool:
        """One attempt. Whether it has an answer."""
        # The bounds stay those of the opening.
        self.connection, _ = log_in(self.url, self.credential, deadline)
        agreement.epoch += 1
        self._pinged = False
        state = (agreement.epoch, self.received, self.sent)
        proof = resume_proof(agreement.key, self.connection.exporter(), agreement.id, *state)
        self.connection.send(frame(RESUME, agreement.id, *state, proof), deadline)
        (length,) = struct.unpack(">I", self.connection.receive(4, deadline))
        if not 1 <= length <= MAX_FRAME:
            raise Fault("the length of a frame")
        kind, fields, rest = parse(self.connection.receive(length, deadline))
        if kind == LOST:
            self._bury(fields, rest)
        elif kind == RESUMED:
            self._go_on(agreement, *fields)
        else:
            raise Fault("neither Resumed nor Lost")
        return True

    def _bury(self, fields: list[Any], rest: bytes) -> None:
        self.lost_at = None
        if fields[0] == 0:
            return self._over(SessionEnded(NO_CONNECTION))
        _, received, taken, reason = fields
        if self.said_ended and reason == NO_CONNECTION and received == self.sent:
            reason = 0  # The answer to our own end, which was lost.
        for call in [call for call in self.calls.values() if call.number > taken]:
            call._answer = SessionEnded(reason, rest.decode(), False)
            del self.calls[call.id]
        self._over(SessionEnded(reason, rest.decode()))

    def _go_on(self, agreement: Agreement, received: int, sent: int) -> None:
        if not self.acked <= received <= self.sent or sent < max(self.received, agreement.peer_sent):
            raise Fault("the server cannot be there")
        agreement.peer_sent, self.lost_at = sent, None
        self._acknowledged(received)
        self._acked_at, self._ack_by = (self.received, self._received_bytes), None
        self._put(frame(CREDIT, 0, self.own_granted), self.written)
        for kept in list(self.kept):
            if self.lost_at is None:
                self._put(kept.again(), kept.number)


def encoded(message: Any) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
