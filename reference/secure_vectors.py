"""Test vectors for crates/secure, from an implementation of its own: standard library only.

    python3 reference/secure_vectors.py crates/secure/tests/vectors

Curves, ciphers and key derivation follow RFC 7748 (X25519), RFC 8032 (Ed25519), RFC 8439 (ChaCha20,
Poly1305) and RFC 5869 (HKDF) and are checked against a vector of each RFC before anything is
written. Nothing here is constant time: it is for fixed test keys only.
"""

import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


# --- primitives ---


def x25519(scalar, u):
    k = bytearray(scalar)
    k[0] &= 248
    k[31] = k[31] & 127 | 64
    k = int.from_bytes(k, "little")
    x1 = int.from_bytes(u, "little") % 2**255
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for bit in range(254, -1, -1):
        b = k >> bit & 1
        if swap ^ b:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swap = b
        a, e = (x2 + z2) % P, (x2 - z2) % P
        c, d = (x3 + z3) % P, (x3 - z3) % P
        da, cb = d * a % P, c * e % P
        aa, bb = a * a % P, e * e % P
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, (aa - bb) * (aa + 121665 * (aa - bb)) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def x25519_public(scalar):
    return x25519(scalar, (9).to_bytes(32, "little"))


def edwards_add(p, q):
    (x1, y1), (x2, y2) = p, q
    t = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, P - 2, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - t, P - 2, P) % P
    return x, y


def edwards_base():
    y = 4 * pow(5, P - 2, P) % P
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (P - x if x & 1 else x), y


BASE = edwards_base()


def edwards_mul(k, point=BASE):
    total = (0, 1)
    while k:
        if k & 1:
            total = edwards_add(total, point)
        point = edwards_add(point, point)
        k >>= 1
    return total


def compress(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def ed25519_expand(seed):
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little") & (1 << 254) - 8 | 1 << 254
    return a, h[32:]


def ed25519_public(seed):
    return compress(edwards_mul(ed25519_expand(seed)[0]))


def ed25519_sign(seed, message):
    a, prefix = ed25519_expand(seed)
    public = compress(edwards_mul(a))
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    big_r = compress(edwards_mul(r))
    k = int.from_bytes(hashlib.sha512(big_r + public + message).digest(), "little") % L
    return big_r + ((r + k * a) % L).to_bytes(32, "little")


def chacha20(key, length, counter=0, nonce=bytes(12)):
    def rotate(v, n):
        return (v << n | v >> (32 - n)) & 0xFFFFFFFF

    out = b""
    while len(out) < length:
        state = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce))
        work = state[:]
        for _ in range(10):
            for a, b, c, d in (
                (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
            ):  # fmt: skip
                for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    work[x] = (work[x] + work[y]) & 0xFFFFFFFF
                    work[z] = rotate(work[z] ^ work[x], n)
        out += struct.pack("<16I", *((w + s) & 0xFFFFFFFF for w, s in zip(work, state)))
        counter += 1
    return out[:length]


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for i in range(0, len(message), 16):
        total = (total + int.from_bytes(message[i : i + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def seal(key, plaintext, aad=b"", nonce=bytes(12)):
    def pad(data):
        return data + bytes(-len(data) % 16)

    stream = chacha20(key, len(plaintext), 1, nonce)
    body = bytes(a ^ b for a, b in zip(plaintext, stream))
    lengths = struct.pack("<QQ", len(aad), len(body))
    return body + poly1305(chacha20(key, 32, 0, nonce), pad(aad) + pad(body) + lengths)


def hkdf(salt, ikm, info, length=32):
    prk = hmac.digest(salt, ikm, "sha256")
    out = block = b""
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:length]


def check_primitives():
    h = bytes.fromhex
    assert x25519(  # RFC 7748, 5.2
        h("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
        h("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"),
    ) == h("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    seed = h("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")  # RFC 8032, 7.1, test 2
    assert ed25519_sign(seed, h("72")) == h(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key = bytes(range(0x80, 0xA0))  # RFC 8439, 2.8.2
    nonce = h("070000004041424344454647")
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip "
        b"for the future, sunscreen would be it."
    )
    sealed = seal(key, text, h("50515253c0c1c2c3c4c5c6c7"), nonce)
    assert sealed[-16:] == h("1ae10b594f09e26a7e902ecbd0600691")
    okm = hkdf(h("000102030405060708090a0b0c"), b"\x0b" * 22, h("f0f1f2f3f4f5f6f7f8f9"), 42)
    assert okm.hex() == (  # RFC 5869, A.1
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


# --- GF(256), by tables of logarithms to the base 3 ---

EXP, LOG = [0] * 510, [0] * 256
_value = 1
for _i in range(255):
    EXP[_i] = EXP[_i + 255] = _value
    LOG[_value] = _i
    _value ^= _value << 1
    if _value & 0x100:
        _value ^= 0x11B


def gf_mul(a, b):
    return EXP[LOG[a] + LOG[b]] if a and b else 0


def shamir_at(coefficients, x):
    """The polynomials with these coefficients (lists of 32 bytes, constant term first) at x."""
    out = []
    for position in range(32):
        value, power = 0, 1
        for coefficient in coefficients:
            value ^= gf_mul(coefficient[position], power)
            power = gf_mul(power, x)
        out.append(value)
    return bytes(out)


# --- the crate's conventions ---

DOMAIN = b"fedgestalt/secure/1/"


def u16(x):
    return struct.pack("<H", x)


def u32(x):
    return struct.pack("<I", x)


def domain(label):
    return DOMAIN + u32(len(label)) + label.encode()


def derive(ikm, salt, label, context=b""):
    return hkdf(salt, ikm, domain(label) + context)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def words_bytes(words, short):
    """The first `short` words have 24 bits, the others 32."""
    return b"".join((w & 0xFFFFFFFF).to_bytes(4, "little")[: 3 if i < short else 4] for i, w in enumerate(words))


def pad(key, words):
    return struct.unpack(f"<{words}I", chacha20(key, 4 * words))


def list_of(entries):
    return u16(len(entries)) + b"".join(u16(site) + body for site, body in entries)


class Site:
    def __init__(self, config, me, signing_seed, group_key, seed):
        self.config, self.me, self.signing_seed, self.group_key = config, me, signing_seed, group_key

        def draw(label):
            return derive(seed, config.digest, "sum/draw/" + label)

        self.box_secret, self.mask_secret = draw("box"), draw("mask")
        self.self_seed, self.opening, self.coefficients = draw("self"), draw("opening"), draw("coefficients")
        self.box_key, self.mask_key = x25519_public(self.box_secret), x25519_public(self.mask_secret)
        check = derive(group_key, b"group", "sum/blind-check")
        self.blind_tag = hmac.digest(check, config.digest, "sha256")[:16]
        self.keys = u16(me) + self.box_key + self.mask_key + self.blind_tag
        self.signature = ed25519_sign(signing_seed, domain("sum/advert") + config.digest + self.keys)
        self.advert = config.head(1) + self.keys + self.signature

    def agree(self, kind, peer, digest, label, context):
        secret, public = {
            "box": (self.box_secret, peer.box_key),
            "mask": (self.mask_secret, peer.mask_key),
        }[kind]
        return derive(x25519(secret, public), digest, label, context)

    def share(self, sites, digest, threshold):
        stream = chacha20(derive(self.coefficients, digest, "sum/polynomial"), 32 * (threshold - 1))
        rows = [self.self_seed] + [stream[i : i + 32] for i in range(0, len(stream), 32)]
        self.shares, self.boxes = {}, {}
        for site in sites:
            share = shamir_at(rows, site.me + 1)
            self.shares[site.me] = share
            commitment = sha256(domain("sum/share"), digest, u16(self.me), share)
            if site is self:
                own = commitment
            else:
                key = self.agree("box", site, digest, "sum/box", u16(self.me) + u16(site.me))
                self.boxes[site.me] = commitment + seal(key, share)
        return self.config.head(2) + u16(self.me) + own + list_of(sorted(self.boxes.items()))

    def pair_seed(self, peer, digest):
        low, high = sorted((self.me, peer.me))
        return self.agree("mask", peer, digest, "sum/pair", u16(low) + u16(high))

    def upload(self, words, sharers, digest):
        total = list(words)

        def apply(key, sign):
            for i, p in enumerate(pad(key, len(words))):
                total[i] += sign * p

        apply(derive(self.self_seed + self.opening, digest, "sum/self"), 1)
        for peer in sharers:
            if peer is not self:
                apply(self.pair_seed(peer, digest), 1 if self.me < peer.me else -1)
        apply(blind_seed(self.group_key, self.config, digest, self.me), 1)
        return self.config.head(4) + u16(self.me) + words_bytes(total, self.config.short)

    def consent(self, statement, sharers, survivors, digest):
        self.consent_signature = ed25519_sign(self.signing_seed, statement)
        listed, veiled, veils, seeds = sha256(statement), self.opening, [], []
        for peer in sharers:
            if peer is self:
                continue
            if peer in survivors:
                def veil(owner, helper):
                    context = u16(owner) + u16(helper) + listed
                    return self.agree("mask", peer, digest, "sum/veil", context)

                veiled = bytes(a ^ b for a, b in zip(veiled, veil(self.me, peer.me)))
                veils.append((peer.me, veil(peer.me, self.me)))
            else:
                seeds.append((peer.me, self.pair_seed(peer, digest)))
        body = u16(self.me) + self.consent_signature + veiled + list_of(veils) + list_of(seeds)
        return self.config.head(6) + body


def blind_seed(group_key, config, digest, site):
    return derive(group_key, b"group", "sum/blind", config.digest + digest + u16(site))


class Config:
    def __init__(self, session, purpose, round_, attempt, short, long, keys):
        self.short = short
        self.digest = sha256(
            domain("sum/config"), session, u32(len(purpose)), purpose.encode(), u32(round_), u32(attempt),
            struct.pack("<QQ", short, long), u32(len(keys)), *keys,
        )  # fmt: skip

    def head(self, kind):
        return bytes([2, kind]) + self.digest[:16]


def sum_vectors():
    """Four sites, threshold three; site 1 vanishes after it shared its secret."""
    n, words, short, threshold = 4, 20, 7, 3
    signing = [bytes([0x10 + i]) * 32 for i in range(n)]
    seeds = [bytes([0x20 + i]) * 32 for i in range(n)]
    group_key, session = bytes([0x30]) * 32, bytes(range(16))
    keys = [ed25519_public(s) for s in signing]
    config = Config(session, "round", 3, 1, short, words - short, keys)
    updates = [[(w * 1000003 ** (i + 1) + i) & 0xFFFFFFFF for w in range(words)] for i in range(n)]

    sites = [Site(config, i, signing[i], group_key, seeds[i]) for i in range(n)]
    digest = sha256(domain("sum/adverts"), config.digest, u32(n), *(s.keys for s in sites))
    shares = [site.share(sites, digest, threshold) for site in sites]
    inboxes = [
        config.head(3) + u16(to.me) + list_of([(s.me, s.boxes[to.me]) for s in sites if s is not to])
        for to in sites
    ]
    survivors = [s for s in sites if s.me != 1]
    inputs = {s.me: s.upload(updates[s.me], sites, digest) for s in survivors}
    names = {k: [u16(s.me) for s in v] for k, v in (("sharers", sites), ("survivors", survivors))}
    lists = {k: u16(len(v)) + b"".join(v) for k, v in names.items()}
    statement = (
        domain("sum/consent") + config.digest + digest + sites[0].blind_tag + lists["sharers"] + lists["survivors"]
    )
    consents = {s.me: s.consent(statement, sites, survivors, digest) for s in survivors}
    signatures = list_of([(s.me, s.consent_signature) for s in survivors])
    unmaskings = {
        s.me: config.head(8) + u16(s.me) + list_of([(o.me, o.shares[s.me]) for o in survivors]) for s in survivors
    }
    low = [2**24 - 1] * short + [2**32 - 1] * (words - short)
    total = [sum(updates[s.me][w] for s in survivors) & low[w] for w in range(words)]
    blinded = list(total)
    for s in survivors:
        for w, p in enumerate(pad(blind_seed(group_key, config, digest, s.me), words)):
            blinded[w] += p
    blind_sum = (
        config.head(9) + digest + sites[0].blind_tag + lists["sharers"] + signatures + words_bytes(blinded, short)
    )

    good = {
        "Advert": sites[0].advert,
        "SealedShares": shares[0],
        "Inbox": inboxes[0],
        "MaskedInput": inputs[0],
        "Survivors": config.head(5) + lists["survivors"],
        "Consent": consents[0],
        "Consents": config.head(7) + signatures,
        "Unmasking": unmaskings[0],
        "BlindSum": blind_sum,
    }

    def hexes(items):
        return [None if item is None else item.hex() for item in items]

    everyone = range(n)
    return {
        "session": session.hex(),
        "purpose": "round",
        "round": 3,
        "attempt": 1,
        "short": short,
        "long": words - short,
        "signing_keys": hexes(signing),
        "seeds": hexes(seeds),
        "group_key": group_key.hex(),
        "updates": updates,
        "vanished_before_upload": [1],
        "config_digest": config.digest.hex(),
        "adverts": hexes(s.advert for s in sites),
        "sealed_shares": hexes(shares),
        "inboxes": hexes(inboxes),
        "masked_inputs": hexes(inputs.get(i) for i in everyone),
        "survivors": good["Survivors"].hex(),
        "consents": hexes(consents.get(i) for i in everyone),
        "agreed": good["Consents"].hex(),
        "unmaskings": hexes(unmaskings.get(i) for i in everyone),
        "blind_sum": blind_sum.hex(),
        "opened": {"sites": [s.me for s in survivors], "sum": total},
        "bad": bad_messages(good),
    }


def bad_messages(good):
    """Bytes that must be refused, and as what."""
    bad = []

    def add(name, message, data, error):
        bad.append({"name": "bad_" + name, "message": message, "bytes": data.hex(), "error": error})

    for kind, data in good.items():
        add("empty", kind, b"", "Malformed")
        add("only_version", kind, data[:1], "Malformed")
        add("version", kind, b"\1" + data[1:], "Version")
        add("kind", kind, data[:1] + bytes([data[1] % 9 + 1]) + data[2:], "Malformed")
        add("session", kind, data[:2] + bytes([data[2] ^ 1]) + data[3:], "WrongSession")
        words = kind in ("MaskedInput", "BlindSum")
        add("truncated", kind, data[:-1], "Length" if words else "Malformed")
        add("extended", kind, data + b"\0", "Length" if words else "Malformed")
        if words:
            add("one_word_less", kind, data[:-4], "Length")
            add("one_word_more", kind, data + bytes(4), "Length")
    for kind in ("Advert", "SealedShares", "Inbox", "MaskedInput", "Consent", "Unmasking"):
        data = good[kind]
        add("stranger", kind, data[:18] + u16(4) + data[20:], "UnknownSite")
    data = good["Survivors"]
    add("unordered", "Survivors", data[:18] + u16(3) + u16(2) + u16(0) + u16(3), "Malformed")
    add("twice", "Survivors", data[:18] + u16(3) + u16(0) + u16(0) + u16(3), "Malformed")
    add("stranger", "Survivors", data[:18] + u16(3) + u16(0) + u16(2) + u16(4), "UnknownSite")
    add("more_than_all", "Survivors", data[:18] + u16(5) + b"".join(map(u16, range(5))), "Malformed")
    add("count_too_large", "Survivors", data[:18] + u16(65535) + data[20:], "Malformed")
    data = good["Consents"]
    entry = 66
    swapped = data[:20] + data[20 + entry : 20 + 2 * entry] + data[20 : 20 + entry] + data[20 + 2 * entry :]
    add("unordered", "Consents", swapped, "Malformed")
    # Well-formed, and refused by who accepts them.
    data = good["Advert"]
    add("signature", "Advert", data[:-1] + bytes([data[-1] ^ 1]), "Signature")
    add("swapped_key", "Advert", data[:20] + x25519_public(b"\1" * 32) + data[52:], "Signature")
    data = good["SealedShares"]
    add("too_few_boxes", "SealedShares", data[:52] + u16(2) + data[54:-82], "Inconsistent")
    data = good["Consent"]
    add("signature", "Consent", data[:20] + bytes([data[20] ^ 1]) + data[21:], "Signature")
    add("no_seed", "Consent", data[:-36] + u16(0), "Inconsistent")
    data = good["Unmasking"]
    add("share", "Unmasking", data[:-1] + bytes([data[-1] ^ 1]), "Sealed")
    add("too_few_shares", "Unmasking", data[:20] + u16(2) + data[22:-34], "Inconsistent")
    data = good["BlindSum"]
    at = 18 + 32 + 16 + 2 + 8 + 2
    add("signature", "BlindSum", data[: at + 2] + bytes([data[at + 2] ^ 1]) + data[at + 3 :], "Signature")
    add("adverts", "BlindSum", data[:18] + bytes([data[18] ^ 1]) + data[19:], "Signature")
    add("not_blind", "BlindSum", data[:50] + bytes(16) + data[66:], "Signature")
    few = data[: at - 2] + u16(2) + data[at : at + 2 * entry] + data[at + 3 * entry :]
    add("too_few_signatures", "BlindSum", few, "BelowThreshold")
    return bad


def primitive_vectors():
    rows = [bytes((17 * i + 31 * j + 1) % 256 for j in range(32)) for i in range(4)]
    rows[3] = bytes(16) + rows[3][16:]  # a zero coefficient is as good as any
    group_key = bytes([0x30]) * 32
    release = bytes([0x31]) * 32
    token_key = derive(group_key, b"group", "kernel/token", release)

    def fresh(seed, label, plaintext):
        return derive(seed, b"", label, sha256(plaintext))

    seed, plaintext = bytes([0x32]) * 32, b"what a box holds"
    salt = fresh(seed, "box/salt", plaintext)
    group_box = b"\1" + salt + seal(derive(group_key, b"group", "box/group", salt + b"label"), plaintext, b"\1")
    recipient = bytes([0x33]) * 32
    public = x25519_public(recipient)
    ephemeral = fresh(seed, "box/ephemeral", plaintext)
    head = x25519_public(ephemeral)
    box_key = derive(x25519(ephemeral, public), head + public, "box/to", b"context")

    def fixed(range_, sites, values, bits=32, mean=False):
        # The exponent by exact rationals: for sums the largest e with sites * (range * 2^e + 1/2) <= 2^(bits - 1) - 1, for
        # means with range * 2^e <= (2^(bits - 1) - 1 - sites / 2) * (1 - 2^-22).
        from fractions import Fraction

        def fits(e):
            value, half, limit = Fraction(range_) * Fraction(2) ** e, Fraction(1, 2), 2 ** (bits - 1) - 1
            if mean:
                return value <= (limit - sites * half) * (1 - Fraction(2) ** -22)
            return sites * (value + half) <= limit

        e = next(e for e in range(200, -200, -1) if fits(e))
        words = [round(Fraction(v) * Fraction(2) ** e) % 2**bits for v in values]
        return {
            "range": range_, "sites": sites, "bits": bits, "mean": mean, "exponent": e, "values": values, "words": words,
        }  # fmt: skip

    return {
        "derive": {
            "key": group_key.hex(),
            "label": "label",
            "context": b"context".hex(),
            "derived": derive(group_key, b"group", "label", b"context").hex(),
        },
        "shamir": {
            "secret": rows[0].hex(),
            "threshold": 4,
            "shares": {str(x): shamir_at(rows, x).hex() for x in (1, 2, 3, 4, 5, 100, 255)},
        },
        "token": {
            "key": group_key.hex(),
            "release": release.hex(),
            "label": "OMIM:101600",
            "token": hmac.digest(token_key, b"OMIM:101600", "sha256")[:16].hex(),
        },
        "boxes": {
            "seed": seed.hex(),
            "plaintext": plaintext.hex(),
            "group": {"key": group_key.hex(), "label": "label", "sealed": group_box.hex()},
            "to": {
                "secret": recipient.hex(),
                "context": b"context".hex(),
                "sealed": (b"\1" + head + seal(box_key, plaintext, b"\1")).hex(),
            },
        },
        # All values are exact in f32 and f64.
        "fixed": [
            fixed(1.0, 4, [0.0, 1.0, -1.0, 0.5, -0.25, 2.0**-30, 3 * 2.0**-29, -(2.0**-29)]),
            fixed(0.0625, 16, [0.0625, -0.03125, 2.0**-20]),
            fixed(1024.0, 100, [1024.0, -1023.5, 2.0**-10, 3.25]),
            fixed(3.0, 3, [3.0, -3.0, 2.0**-28]),
            fixed(16.0, 4, [16.0, -16.0, 2.0**-17, -(2.0**-20), 0.75], bits=24),
            fixed(16.0, 4, [16.0, -16.0, 2.0**-18, -(2.0**-20), 0.75], bits=24, mean=True),
            fixed(16.0, 255, [16.0, -3.0, 2.0**-18, 2.0**-19], bits=24, mean=True),
            fixed(3.0, 16, [3.0, -3.0, 2.0**-29], mean=True),
        ],
    }


def main():
    check_primitives()
    out = Path(sys.argv[1])
    for name, vectors in (("sum.json", sum_vectors()), ("primitives.json", primitive_vectors())):
        (out / name).write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
