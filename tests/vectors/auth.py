#!/usr/bin/env python3
"""Golden vectors of chan-auth-v1, made without any of the Rust code.

    pip install argon2-cffi cryptography
    python3 tests/vectors/auth.py > tests/vectors/auth.json

Written from the tables and formulas of the protocol alone. Every input is fixed, so a second run gives the same file.
All bytes are hex.
"""

import base64
import hashlib
import hmac
import json
import struct
import sys

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def fixed(label, length=32):
    """Bytes that look random and are always the same."""
    return hashlib.shake_256(label.encode()).digest(length)


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_public(private):
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def framed(body):
    return struct.pack(">H", len(body)) + body


def salt_of(name_key, service, client):
    message = b"salt\0" + service.encode() + b"\0" + client.encode()
    return hmac.new(name_key, message, hashlib.sha256).digest()[:16]


def hello(mechanism, service, client, nonce):
    body = b"chan" + bytes([1, mechanism])
    body += bytes([len(service)]) + service.encode()
    body += bytes([len(client)]) + client.encode()
    return body + nonce


def challenge(nonce, stretch):
    m_kib, t, p, salt = stretch
    return bytes([1, 1]) + nonce + bytes([0x13]) + struct.pack(">IIB", m_kib, t, p) + salt


def transcript(ekm, *messages):
    return hashlib.sha256(b"chan-auth-v1\0" + ekm + b"".join(messages)).digest()


def expand(key, info):
    return HKDFExpand(SHA256(), 32, info).derive(key)


def login(mechanism, service, client, ekm, nonces, parameters, signing_key, mac_key, stretch=None):
    m1 = framed(hello(mechanism, service, client, nonces[0]))
    # A key answers no challenge: its proof follows the hello at once.
    m2 = framed(challenge(nonces[1], stretch)) if mechanism == 1 else b""
    th = transcript(ekm, m1, m2)
    m3 = signing_key.sign(b"chan-auth-v1 client proof\0" + th)
    session = struct.pack(">III", *parameters)
    status = b"\0"
    mac = hmac.new(
        mac_key, b"chan-auth-v1 server proof\0" + th + m3 + status + session, hashlib.sha256
    ).digest()
    m4 = status + mac + session
    return {
        "service": service,
        "client": client,
        "ekm": ekm.hex(),
        "client_nonce": nonces[0].hex(),
        **({"server_nonce": nonces[1].hex()} if mechanism == 1 else {}),
        "parameters": list(parameters),
        "m1": m1.hex(),
        "m2": m2.hex(),
        "transcript": th.hex(),
        "m3": framed(m3).hex(),
        "m4": framed(m4).hex(),
    }


def password_login(label, service, client, password, cost, parameters):
    name_key = fixed(label + " name key")
    salt = salt_of(name_key, service, client)
    m_kib, t, p = cost
    stretched = hash_secret_raw(
        password.encode(), salt, time_cost=t, memory_cost=m_kib, parallelism=p, hash_len=32, type=Type.ID, version=0x13
    )
    signing_key = Ed25519PrivateKey.from_private_bytes(expand(stretched, b"chan-auth-v1 client key"))
    server_key = expand(stretched, b"chan-auth-v1 server key")
    public_key = raw_public(signing_key)
    vector = login(
        1,
        service,
        client,
        fixed(label + " ekm"),
        (fixed(label + " client nonce"), fixed(label + " server nonce")),
        parameters,
        signing_key,
        server_key,
        (m_kib, t, p, salt),
    )
    vector.update(
        password=password,
        name_key=name_key.hex(),
        salt=salt.hex(),
        verifier="$".join(
            ["", "chan", "argon2id", "v=19", f"m={m_kib},t={t},p={p}", b64(salt), b64(public_key), b64(server_key)]
        ),
    )
    return vector


def key_login(label, service, client, parameters):
    seed = fixed(label + " seed")
    signing_key = Ed25519PrivateKey.from_private_bytes(seed)
    ekm = fixed(label + " ekm")
    vector = login(
        2,
        service,
        client,
        ekm,
        (fixed(label + " client nonce"),),
        parameters,
        signing_key,
        ekm,
    )
    vector.update(key_file="chan-key-v1:" + b64(seed), key_line="ed25519:" + b64(raw_public(signing_key)))
    return vector


def resume(label, epoch, received, sent):
    secret, ekm, session_id = fixed(label + " secret"), fixed(label + " ekm"), fixed(label + " id")[:16]
    key = hashlib.sha256(b"lib-chan resume key\0" + secret).digest()
    message = b"lib-chan resume\0" + ekm + session_id + struct.pack(">QQQ", epoch, received, sent)
    proof = hmac.new(key, message, hashlib.sha256).digest()
    return {
        "id": session_id.hex(),
        "secret": secret.hex(),
        "key": key.hex(),
        "ekm": ekm.hex(),
        "epoch": str(epoch),
        "received": str(received),
        "sent": str(sent),
        "proof": proof.hex(),
    }


# The Edwards curve of RFC 8032 section 5.1, to find every encoding of a point whose order divides eight.
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
L = 2**252 + 27742317777372353535851937790883648493


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2
    return ((x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P)


def times(n, point):
    total = (0, 1)
    while n:
        if n & 1:
            total = add(total, point)
        point, n = add(point, point), n >> 1
    return total


def x_of(y):
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return None if (x * x - square) % P else x


def small_order_encodings():
    found = {(0, 1)}
    y = 2
    while len(found) < 8:
        x = x_of(y)
        if x is not None:
            found.add(times(L, (x, y)))
        y += 1
    assert all(times(8, point) == (0, 1) for point in found)
    encodings = set()
    for _, y in found:
        for spelled in (y, y + P):
            if spelled < 2**255:
                for sign in (0, 1):
                    encodings.add((spelled | sign << 255).to_bytes(32, "little").hex())
    return sorted(encodings)


def main():
    json.dump(
        {
            "password": [
                password_login(
                    "one", "name_server", "", "correct horse battery staple", (65536, 3, 1), (1 << 20, 256 << 10, 15000)
                ),
                password_login("two", "a", "joe.armstrong-1_2", "pässwörd ☃", (19456, 2, 4), (1024, 65536, 1000)),
                password_login("three", "s" * 64, "c" * 64, "x", (32768, 4, 2), (16 << 20, 2**32 - 1, 300000)),
            ],
            "key": [
                key_login("four", "redis", "backup", (1 << 20, 256 << 10, 15000)),
                key_login("five", "redis", "", (4096, 1 << 20, 30000)),
            ],
            "resume": [resume("six", 2, 1, 1), resume("seven", 3, 300, 70_000), resume("eight", 2**63 - 1, 2**64 - 1, 0)],
            "small_order": small_order_encodings(),
        },
        sys.stdout,
        indent=2,
        ensure_ascii=False,
    )
    print()


if __name__ == "__main__":
    main()
