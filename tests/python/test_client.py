"""What a client that was written from PROTOCOL.md alone can do with the real server.

Run by tests/tests/all/python.rs, which starts the server and says where it is in the environment variable `CHAN_TEST`.
`Vectors` needs no server: `python test_client.py Vectors`.
"""

import hashlib
import hmac
import json
import os
import re
import socket
import struct
import time
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import chan
from chan import Key, Password, Session, Url, frame

HERE = Path(__file__).resolve().parent
SERVER = json.loads(os.environ.get("CHAN_TEST", "{}"))


def password() -> Password:
    return Password.from_file(SERVER["password_file"])


def key() -> Key:
    return Key.from_file(SERVER["key_file"])


@contextmanager
def echo(window: int = chan.WINDOW) -> Iterator[Session]:
    """A session with the echo, which sends back what it gets. It has to end in order."""
    session = Session(SERVER["echo"], key(), window=window)
    yield session
    end = session.close()
    assert end.reason == "normal" and session.clean, f"{end!r}, close_notify: {session.clean}"


@contextmanager
def early(message: int, data: bytes) -> Iterator[None]:
    """Writes `data` right behind message 1 (hello) or 2 (proof) of the client's login."""
    send, sent = chan.Connection.send, 0

    def and_more(connection: chan.Connection, bytes: bytes, deadline: float) -> None:
        nonlocal sent
        sent += 1
        send(connection, bytes + data if sent == message else bytes, deadline)

    with mock.patch.object(chan.Connection, "send", and_more):
        yield


class Vectors(unittest.TestCase):
    """The vectors of the page and its login, without a server."""

    def test_login_matches_vectors(self) -> None:
        vectors = json.loads((HERE.parent / "vectors" / "auth.json").read_text())
        for vector in vectors["password"] + vectors["key"]:
            with self.subTest(service=vector["service"], client=vector["client"]):
                message = {name: bytes.fromhex(vector[name])[2:] for name in ("m1", "m2", "m3", "m4")}
                credential: chan.Credential
                if "password" in vector:
                    credential = Password(vector["password"].encode())
                else:
                    credential = Key(chan.from_unpadded(vector["key_file"].removeprefix("chan-key-v1:")))
                nonce = bytes.fromhex(vector["client_nonce"])
                m1 = chan.hello(credential.mechanism, vector["service"], vector["client"], nonce)
                self.assertEqual(m1, message["m1"])
                m3, check = chan.prove(credential, bytes.fromhex(vector["ekm"]), m1, message["m2"])
                self.assertEqual(m3, message["m3"])
                self.assertEqual(check(message["m4"]), chan.Bounds(*vector["parameters"]))
                for at in range(1, 45):
                    changed = bytearray(message["m4"])
                    changed[at] ^= 1
                    self.assertRaises(chan.Misbehaved, check, bytes(changed))

    def test_verifiers_keys_and_salts_match_vectors(self) -> None:
        vectors = json.loads((HERE.parent / "vectors" / "auth.json").read_text())
        for vector in vectors["password"]:
            m2 = bytes.fromhex(vector["m2"])[2:]
            client_key, server_key = Password(vector["password"].encode()).keys(m2)
            memory, passes, lanes = int.from_bytes(m2[35:39]), int.from_bytes(m2[39:43]), m2[43]
            public = client_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            texts = "$".join(map(chan.unpadded, (m2[44:], public, server_key)))
            self.assertEqual(vector["verifier"], f"$chan$argon2id$v=19$m={memory},t={passes},p={lanes}${texts}")
            if "name_key" in vector:
                named = b"salt\0" + vector["service"].encode() + b"\0" + vector["client"].encode()
                salt = hmac.digest(bytes.fromhex(vector["name_key"]), named, "sha256")[:16]
                self.assertEqual(salt.hex(), vector["salt"])
        for vector in vectors["key"]:
            seed = chan.from_unpadded(vector["key_file"].removeprefix("chan-key-v1:"))
            public_key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
            raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
            self.assertEqual(vector["key_line"], "ed25519:" + chan.unpadded(raw))

    def test_frames_of_the_page_round_trip(self) -> None:
        page = (HERE.parent.parent / "PROTOCOL.md").read_text()
        frames: list[str] = []
        for line in page.splitlines():
            if first := re.match(r"(?:[A-Z]\w*|C|S) +((?:[0-9a-f]{8})(?: [0-9a-f]+)+)(?:  |$)", line):
                frames.append(first[1])
            elif frames and (more := re.match(r" {8,}([0-9a-f]{32,})(?:  |$)", line)):
                frames[-1] += more[1]
        self.assertGreater(len(frames), 35)
        for text in frames:
            with self.subTest(frame=text):
                data = bytes.fromhex(text)
                kind, fields, rest = chan.parse(data[4:])
                self.assertEqual(frame(kind, *fields, rest=rest), data)


    def test_proof_of_resume_matches_page(self) -> None:
        page = (HERE.parent.parent / "PROTOCOL.md").read_text()
        line = r"%s +([0-9a-f]{64})\n"
        found = re.search((line * 3 + r"Resume +((?:[0-9a-f]| |\n)+)") % ("SECRET", "KEY", "EKM"), page)
        assert found
        secret, key, ekm, resume = map(bytes.fromhex, found.groups())
        self.assertEqual(chan.resume_key(secret), key)
        _, (id, epoch, received, sent, proof), _ = chan.parse(resume[4:])
        self.assertEqual(chan.resume_proof(key, ekm, id, epoch, received, sent), proof)


class Handles(unittest.TestCase):
    """Processes inside messages."""

    def setUp(self) -> None:
        self.session = Session(SERVER["keys"], key(), max_handles=8, max_links=8)

    def tearDown(self) -> None:
        end = self.session.close()
        self.assertEqual((end.reason, self.session.clean), ("normal", True))

    def test_process_of_service_is_called_and_monitored(self) -> None:
        counter = self.session.call({"Counter": {}}).result()
        counter.cast({"Changed": {"key": "joe"}})
        self.assertEqual(counter.call({"Count": {}}).result(), 1)
        monitor = counter.monitor()
        counter.cast({"Changed": {"key": "last"}})
        self.assertEqual(self.session.down(monitor), ("normal", ""))
        with self.assertRaises(chan.CallRefused):
            counter.call({"Count": {}}).result()
        counter.release()
        self.session.sync()

    def test_process_of_client_is_told_and_called(self) -> None:
        mine = chan.Local(answer=lambda message: 7 if message == {"Count": {}} else None)
        self.session.call_with({"Watch": {"watcher": mine}}).result()
        for key in ("joe", "mike"):
            self.session.call({"Store": {"key": key}}).result()
            self.assertEqual(self.session.took(mine), {"Changed": {"key": key}})
        self.assertEqual(self.session.call({"Counted": {}}).result(), 7)


class Resumed(unittest.TestCase):
    """A session that loses its connections."""

    def open(self, resume: float = 60.0) -> Session:
        session = Session(SERVER["echo"], key(), resume=resume)
        # The server knows now that the client has the secret.
        session.sync()
        return session

    def cut(self, session: Session) -> None:
        """Ends the connection without a `close_notify`, if there is one."""
        if session.lost_at is None:
            session.connection.socket.shutdown(socket.SHUT_RDWR)

    def closes(self, session: Session) -> None:
        self.assertEqual(session.close().reason, "normal")

    def test_grant_is_no_longer_than_asked_for(self) -> None:
        for asked, granted in ((0.0, None), (5.0, 5.0), (1e9, 60.0)):
            with self.subTest(asked=asked):
                session = Session(SERVER["echo"], key(), resume=asked)
                agreement = session.agreement
                self.assertEqual(agreement and agreement.window, granted)
                self.closes(session)

    def test_every_message_comes_once_and_in_order(self) -> None:
        session = self.open()
        for n in range(200):
            session.cast(n)
            if n % 20 == 10:
                self.cut(session)
        self.assertEqual([session.receive() for _ in range(200)], list(range(200)))
        calls = []
        for n in range(50):
            calls.append(session.call(n))
            if n % 10 == 5:
                self.cut(session)
        self.assertEqual([call.result() for call in calls], list(range(50)))
        assert session.agreement
        self.assertGreater(session.agreement.epoch, 2)
        session.sync()
        self.assertEqual(len(session.kept), 0)
        self.closes(session)

    def test_long_messages_survive_cuts_in_their_middle(self) -> None:
        session = self.open()
        send = chan.Connection.send

        def half(connection: chan.Connection, data: bytes, deadline: float) -> None:
            if len(data) < 100_000 or cuts.pop() == 0:
                return send(connection, data, deadline)
            send(connection, data[: len(data) // 2], deadline)
            connection.socket.shutdown(socket.SHUT_RDWR)

        cuts = [0, 1, 0, 1, 1, 0, 0, 1]
        with mock.patch.object(chan.Connection, "send", half):
            for n in range(4):
                session.cast(str(n) * 150_000)
                self.assertEqual(session.receive(), str(n) * 150_000)
        self.assertEqual(cuts, [])
        self.closes(session)

    def test_new_connection_replaces_one_that_still_stands(self) -> None:
        session = self.open()
        before = session.connection
        session.cast("before")
        # Only this end believes that it is lost.
        session.lost_at = time.monotonic()
        session.cast("after")
        self.assertEqual([session.receive(), session.receive()], ["before", "after"])
        self.assertIsNot(session.connection, before)
        with self.assertRaises((chan.Lost, chan.Closed)):
            while before.fill(time.monotonic() + 30):
                pass
        before.socket.close()
        self.closes(session)

    def test_lost_answer_to_resume_is_asked_for_again(self) -> None:
        session = self.open()
        session.cast("kept")
        parse, lost = chan.parse, []

        def lose(body: bytes) -> tuple[int, list[chan.Any], bytes]:
            if body[0] == chan.RESUMED and not lost:
                lost.append(body)
                raise chan.Lost("on its way")
            return parse(body)

        session._lose()
        with mock.patch.object(chan, "parse", lose):
            self.assertEqual(session.receive(), "kept")
        self.assertEqual(len(lost), 1)
        self.closes(session)

    def test_old_epoch_is_closed_without_a_frame(self) -> None:
        session = self.open()
        agreement = session.agreement
        assert agreement
        connection, _ = chan.log_in(session.url, session.credential, time.monotonic() + 15)
        state = (1, session.received, session.sent)
        proof = chan.resume_proof(agreement.key, connection.exporter(), agreement.id, *state)
        connection.send(frame(chan.RESUME, agreement.id, *state, proof), time.monotonic() + 15)
        with self.assertRaises((chan.Closed, chan.Lost)):
            connection.receive(1, time.monotonic() + 30)
        connection.finish()
        self.assertEqual(session.call("unharmed").result(), "unharmed")
        self.closes(session)

    def test_wrong_secret_finds_nothing(self) -> None:
        session = self.open()
        assert session.agreement
        session.agreement.key = bytes(32)
        call = session.call("who knows")
        # The answer may have arrived: nothing of it is read.
        session._lose()
        self.assertEqual(session.wait().reason, "noconnection")
        with self.assertRaises(chan.SessionEnded) as ended:
            call.result()
        self.assertIsNone(ended.exception.executed)

    def test_impossible_position_ends_protocol(self) -> None:
        session = self.open()
        session.received += 100
        self.cut(session)
        end = session.wait()
        self.assertEqual(end.reason, "protocol")

    def test_service_that_ended_meanwhile_tells_why(self) -> None:
        session = Session(SERVER["name_server"], password(), resume=60.0)
        session.sync()
        session.cast({"Burn": {}})
        # The cast has gone out; its effect comes over another connection, if not over this one.
        self.cut(session)
        self.assertEqual(session.wait().reason, "failed")

    def test_close_goes_on_over_another_connection(self) -> None:
        session = self.open()
        for n in range(10):
            session.cast(n)
        self.cut(session)
        self.closes(session)

    def test_nobody_to_come_back_to_ends_with_the_window(self) -> None:
        session = self.open(resume=0.2)
        call = session.call("gone")
        self.assertEqual(call.result(), "gone")
        with mock.patch.object(chan, "log_in", side_effect=OSError("unreachable")):
            self.cut(session)
            session._lose()
            unwritten = session.call("never sent")
            self.assertEqual(session.wait().reason, "noconnection")
        with self.assertRaises(chan.SessionEnded) as ended:
            unwritten.result()
        self.assertIs(ended.exception.executed, False)


class Sessions(unittest.TestCase):
    """What is done with services."""

    def test_names_are_stored_and_looked_up(self) -> None:
        session = Session(SERVER["name_server"], password())
        session.cast({"Store": {"key": "joe", "value": "writing a book"}})
        self.assertEqual(session.call({"Lookup": {"key": "joe"}}).result(), "writing a book")
        self.assertIsNone(session.call({"Lookup": {"key": "robert"}}).result())
        self.assertEqual(session.close().reason, "normal")
        self.assertTrue(session.clean)

    def test_undecodable_call_is_refused_and_cast_ends(self) -> None:
        session = Session(SERVER["name_server"], password())
        with self.assertRaises(chan.CallRefused) as refused:
            session.call({"Burn": {}}).result()
        self.assertEqual((refused.exception.code, refused.exception.executed), (2, False))
        session.cast({"Burn": {}})
        end = session.wait()
        self.assertEqual(end.reason, "failed")
        self.assertRegex(end.text, "a cast cannot be decoded: json: unknown variant")
        self.assertTrue(session.clean)

    def test_echo_returns_everything_with_a_key(self) -> None:
        with echo() as session:
            for value in (None, "ünïcödé", [1, {"a": 0.5}], {"joe": "writing a book"}):
                self.assertEqual(session.call(value).result(), value)
                session.cast(value)
                self.assertEqual(session.receive(), value)

    def test_600_calls_get_their_own_answers(self) -> None:
        with echo() as session:
            calls = [session.call(n) for n in range(600)]
            self.assertEqual(len(session.calls), 600)
            for n, call in reversed(list(enumerate(calls))):
                self.assertEqual(call.result(), n)

    def test_more_calls_than_allowed_wait_for_room(self) -> None:
        with echo() as session:
            assert session.max_calls is not None
            calls = [session.call(n) for n in range(3 * session.max_calls)]
            self.assertEqual([call.result() for call in calls], list(range(len(calls))))

    def test_200_kib_messages_pass_credit_both_ways(self) -> None:
        with echo(window=65_536) as session:
            texts = [str(n) * 200 * 1024 for n in range(8)]
            session.cast(texts[0])
            for n, text in enumerate(texts):
                if n + 1 < len(texts):
                    session.cast(texts[n + 1])
                self.assertEqual(session.receive(), text)
            self.assertGreater(session.granted, 6 * 200 * 1024)
            self.assertGreater(session.own_granted, 6 * 200 * 1024)
            self.assertEqual(session.call(texts[0]).result(), texts[0])

    def test_long_answers_come_in_parts(self) -> None:
        with echo() as session:
            texts = [str(n) * 900 * 1024 for n in range(6)]
            calls = [session.call(text) for text in texts] + [session.call("short")]
            self.assertEqual(calls[-1].result(), "short")
            self.assertEqual([call.result() for call in calls[:-1]], texts)
            self.assertTrue(all(call.total > len(call.parts) > 800 * 1024 for call in calls[:-1]))

    def test_long_messages_come_in_parts(self) -> None:
        with echo() as session:
            kinds: list[int] = []
            handle = session._handle

            def watch(kind: int, fields: list[int], rest: bytes) -> None:
                kinds.append(kind)
                handle(kind, fields, rest)

            session._handle = watch  # type: ignore[method-assign]
            session.cast("a" * 900 * 1024)
            session.work(lambda: chan.PART_TO in kinds, time.monotonic() + 30)
            self.assertEqual(session.call("short").result(), "short")
            self.assertEqual(session.receive(), "a" * 900 * 1024)
            self.assertGreater(kinds.count(chan.PART_TO), 10)

    def test_server_sends_nothing_without_credit(self) -> None:
        with echo(window=65_536) as session:
            session.cast("a" * 70_000)
            session.cast("b")
            session.work(lambda: bool(session.queue), time.monotonic() + 30)
            session.sync()
            session.sync()
            self.assertEqual(len(session.queue), 1)
            self.assertEqual(session.receive(), "a" * 70_000)
            self.assertEqual(session.receive(), "b")

    def test_ack_confirms_everything_received(self) -> None:
        with echo() as session:
            for n in range(10):
                session.cast(n)
            session.sync()
            self.assertEqual(session.acked, 11)

    def test_cancelled_call_is_answered(self) -> None:
        with echo() as session:
            call = session.call("never mind")
            call.cancel()
            try:
                self.assertEqual(call.result(), "never mind")
            except chan.CallRefused as refused:
                self.assertEqual(refused.code, 1)
            call.cancel()
            session.sync()

    def test_missing_process_refuses_and_is_reported(self) -> None:
        with echo() as session:
            seen: list[tuple[int, list[int]]] = []
            handle = session._handle

            def watch(kind: int, fields: list[int], rest: bytes) -> None:
                if kind in (chan.EXIT, chan.DOWN, chan.UNLINK_ACK):
                    session.received += 1
                    seen.append((kind, fields))
                else:
                    handle(kind, fields, rest)

            session._handle = watch  # type: ignore[method-assign]
            session._send(chan.LINK, 1, 5)
            session._send(chan.MONITOR, 1, 5)
            session._send(chan.UNLINK, 1, 5, 1)
            session.sync()
            session._handle = handle  # type: ignore[method-assign]
            noproc = chan.REASONS.index("noproc")
            expected = [(chan.EXIT, [5, 1, 1, 0, noproc]), (chan.DOWN, [1, 0, noproc]), (chan.UNLINK_ACK, [5, 1, 1])]
            self.assertEqual(seen, expected)

    def test_start_with_wrong_codec_or_arguments_is_refused(self) -> None:
        for codec, arguments in ((9, None), (2, {"an": "argument"})):
            with self.subTest(codec=codec), self.assertRaises(chan.StartRefused) as refused:
                Session(SERVER["echo"], key(), arguments, codec=codec)
            self.assertEqual(refused.exception.code, 2)

    def test_protocol_faults_end_the_session(self) -> None:
        faults = {
            "no kind": bytes(4),
            "a frame too long": bytes.fromhex("00100001"),
            "an unknown kind": bytes.fromhex("00000001 47"),
            "a number that is not in its shortest form": bytes.fromhex("00000003 42 8000"),
            "a number of 65 bits": bytes.fromhex("0000000b 42 ffffffffffffffffff02"),
            "a number that is cut off": bytes.fromhex("00000002 42 80"),
            "bytes after the end": bytes.fromhex("00000003 42 0101"),
            "an unknown reason": frame(chan.ENDED, 0, 12),
            "a text without failed": frame(chan.ENDED, 0, 0, rest=b"why"),
            "a text too long": frame(chan.ENDED, 0, 7, rest=b"x" * 257),
            "a text that is not UTF-8": frame(chan.ENDED, 0, 7, rest=b"\xff"),
            "a second Start": frame(chan.START, 2, 0, 0, 0, chan.MAX_FRAME, chan.WINDOW, 0, 0, 0, rest=b"null"),
            "a Started of the client": frame(chan.STARTED, 0, 0, 0, 0),
            "a Resume in the middle": bytes.fromhex("00000034 44" + "00" * 16 + "020101" + "00" * 32),
            "a Resumed of the client": frame(chan.RESUMED, 1, 1),
            "a Lost of the client": frame(chan.LOST, 0),
            "call 0": frame(chan.CALL, 0, 0, 1000, rest=b"1"),
            "a call id twice": frame(chan.CALL, 0, 1, 1000, rest=b"1") * 2,
            "a cancel of what never was": frame(chan.CANCEL, 1),
            "an answer to what never was": frame(chan.REPLY, 1, rest=b"1"),
            "a monitor 0": frame(chan.MONITOR, 0, 5),
            "a demonitor of what never was": frame(chan.DEMONITOR, 1),
            "an ack of what was not sent": frame(chan.ACK, 1000),
            "an exit signal with a taken": frame(chan.EXIT, 1, 0, 0, 1, 1),
        }
        for what, data in faults.items():
            with self.subTest(what):
                session = Session(SERVER["echo"], key())
                # An answer to the first call of two may come before the end.
                session.calls[1] = chan.Call(session, 1, 2, 0)
                session.write(data)
                self.assertEqual(session.wait().reason, "protocol")
                self.assertTrue(session.clean)

    def test_message_without_credit_ends_overload(self) -> None:
        session = Session(SERVER["echo"], key())
        # The echo can take no more than one window and the two messages that exceed one, as nobody takes its own.
        session.write(6 * frame(chan.CAST, 0, rest=b"1" * 300_000))
        self.assertEqual(session.wait().reason, "overload")
        self.assertTrue(session.clean)

    def test_pings_are_answered_in_order(self) -> None:
        with echo() as session:
            seen: list[tuple[int, int]] = []
            handle = session._handle

            def watch(kind: int, fields: list[int], rest: bytes) -> None:
                if kind in (chan.ACK, chan.PONG):
                    seen.append((kind, fields[0]))
                handle(kind, fields, rest)

            session._handle = watch  # type: ignore[method-assign]
            for token in range(101, 121):
                session.cast(token)
                session._send(chan.PING, token)
            session.sync()
            pongs = [number for kind, number in seen if kind == chan.PONG and number > 100]
            acks = [number for kind, number in seen if kind == chan.ACK]
            self.assertEqual(pongs, list(range(101, 121)))
            self.assertEqual(acks, sorted(acks))
            for at, (kind, number) in enumerate(seen):
                if kind == chan.PONG and number > 100:
                    # The `Start` is frame 1, and each ping follows one cast.
                    self.assertEqual(seen[at - 1], (chan.ACK, number - 99))

    def test_frames_after_proof_open_the_session(self) -> None:
        with early(2, frame(chan.PING, 77)):
            session = Session(SERVER["echo"], key())
        session.sync()
        self.assertIn(77, session.pongs)
        self.assertEqual(session.close().reason, "normal")

    def test_silent_client_gets_no_ended(self) -> None:
        session = Session(SERVER["echo"], key())
        kinds = []
        deadline = time.monotonic() + 30
        with self.assertRaises(chan.Lost):
            while True:
                (length,) = chan.struct.unpack(">I", session.connection.receive(4, deadline))
                kinds.append(session.connection.receive(length, deadline)[0])
        self.assertEqual(kinds, [chan.PING])
        session.connection.socket.close()

    def test_an_idle_session_outlives_three_heartbeats(self) -> None:
        with echo() as session:
            h = session.bounds.heartbeat_ms / 1000
            self.assertEqual(h, 1.0)
            start = time.monotonic()
            while time.monotonic() < start + 3.5 * h:
                session.beats = 0
                session.work(lambda: session.beats > 0, start + 5 * h)
            self.assertEqual(session.call("still here").result(), "still here")


class Streams(unittest.TestCase):
    """Services in front of a Unix or TCP socket: section 16, byte streams."""

    def target(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(Path(SERVER["socket"]).unlink)
        self.addCleanup(listener.close)
        listener.bind(SERVER["socket"])
        listener.listen()
        listener.settimeout(30)
        return listener

    def open(self) -> Session:
        return Session(SERVER["stream"], password(), b"", codec=chan.RAW)

    def tcp(self) -> tuple[Session, socket.socket]:
        """A session with the service in front of the TCP socket that is our standard input, and its target."""
        session = Session(SERVER["tcp"], password(), b"", codec=chan.RAW)
        with socket.socket(fileno=os.dup(0)) as listener:
            listener.settimeout(30)
            target, _ = listener.accept()
        target.settimeout(30)
        return session, target

    def test_empty_cast_is_eof(self) -> None:
        listener = self.target()
        session = self.open()
        target, _ = listener.accept()
        with target:
            session.cast(b"hel")
            session.cast(b"lo")
            session.cast(b"")
            session.cast(b"too late")
            received = b"".join(iter(lambda: target.recv(100), b""))
            self.assertEqual(received, b"hello")
            target.sendall(b"and back")
        answer = b"".join(iter(session.receive, b""))
        self.assertEqual(answer, b"and back")
        # The server waits for an ack of all of it, and ends the session then.
        self.assertEqual(session.wait().reason, "normal")
        self.assertTrue(session.clean)

    def test_the_target_may_say_its_eof_first(self) -> None:
        listener = self.target()
        session = self.open()
        target, _ = listener.accept()
        with target:
            target.shutdown(socket.SHUT_WR)
            self.assertEqual(session.receive(), b"")
            session.cast(b"still heard")
            session.cast(b"")
            self.assertEqual(b"".join(iter(lambda: target.recv(100), b"")), b"still heard")
        self.assertEqual(session.wait().reason, "normal")

    def test_end_before_empty_cast_resets_target(self) -> None:
        ends: dict[str, Callable[[Session], object]] = {
            "normal": lambda session: session._say_ended(0, 0),
            "failed": lambda session: session._say_ended(0, chan.FAILED),
            "lost": lambda session: session.connection.socket.close(),
        }
        for name, end in ends.items():
            with self.subTest(end=name):
                session, target = self.tcp()
                with target:
                    session.cast(b"half of it")
                    self.assertEqual(target.recv(100), b"half of it")
                    end(session)
                    self.assertRaises(ConnectionResetError, target.recv, 100)

    def test_end_after_empty_cast_is_no_reset(self) -> None:
        session, target = self.tcp()
        with target:
            session.cast(b"all of it")
            session.cast(b"")
            self.assertEqual(b"".join(iter(lambda: target.recv(100), b"")), b"all of it")
            self.assertEqual(session.close().reason, "normal")
            self.assertEqual(target.recv(100), b"")

    def test_reset_of_target_sends_no_empty_cast(self) -> None:
        session, target = self.tcp()
        target.sendall(b"half of it")
        self.assertEqual(session.receive(), b"half of it")
        target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        target.close()
        end = session.wait()
        self.assertEqual((end.reason, list(session.queue)), ("failed", []))
        self.assertRegex(end.text, "^target: connection reset")

    def test_a_call_is_refused(self) -> None:
        listener = self.target()
        session = self.open()
        target, _ = listener.accept()
        with target, self.assertRaises(chan.CallRefused) as refused:
            session.call(b"what?").result()
        self.assertEqual(refused.exception.code, 1)
        session.close()

    def test_missing_target_ends_an_open_session(self) -> None:
        end = self.open().wait()
        self.assertEqual(end.reason, "failed")
        self.assertNotIn(SERVER["socket"], end.text)

    def test_another_codec_and_any_argument_are_refused(self) -> None:
        for codec, arguments in ((2, None), (chan.RAW, b"x")):
            with self.subTest(codec=codec), self.assertRaises(chan.StartRefused) as refused:
                Session(SERVER["stream"], password(), arguments, codec=codec)
            self.assertEqual(refused.exception.code, 2)


class Refusals(unittest.TestCase):
    """Who may not come in. The server turns a source away that fails often, so these have a server of their own."""

    def test_wrong_password_and_unknown_service_look_alike(self) -> None:
        url = SERVER["name_server"]
        with self.assertRaises(chan.LoginRefused) as wrong:
            Session(url, Password(b"incorrect horse"))
        with self.assertRaises(chan.LoginRefused) as unknown:
            Session(url.replace("/name_server?", "/phone_book?"), password())
        self.assertEqual(str(wrong.exception), str(unknown.exception))

    def test_server_with_another_pin_is_refused_first(self) -> None:
        url = Url.parse(SERVER["name_server"])
        other = "sha256:" + chan.unpadded(hashlib.sha256(b"another").digest())
        self.assertEqual(len(other), len(url.pins[0]))
        text = f"chan://{url.host}:{url.port}/{url.service}?pin={other}"
        self.assertEqual(Url.parse(text), replace(url, pins=(other,)))
        with self.assertRaisesRegex(chan.Misbehaved, "the server's key is sha256:"):
            Session(text, password())
        Session(f"{text},{url.pins[0]}", password()).close()

    def test_frames_before_proof_end_the_login(self) -> None:
        with early(1, frame(chan.PING, 77)), self.assertRaisesRegex(chan.Misbehaved, "ended during the login"):
            Session(SERVER["echo"], key())


class ServerEnds(unittest.TestCase):
    """The test that started this stops the server when it reads `open`."""

    def test_server_shutdown_is_answered(self) -> None:
        session = Session(SERVER["echo"], key())
        print("open", flush=True)
        self.assertEqual(session.wait().reason, "shutdown")
        self.assertTrue(session.clean)


if __name__ == "__main__":
    unittest.main()
