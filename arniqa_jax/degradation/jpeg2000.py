"""JPEG 2000."""

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax.degradation.jpeg import to_bytes

_PLANES = 11
_BLOCK = 64


def _split(x, axis):
    n = x.shape[axis]
    cut = lambda y, a, b, s=1: jax.lax.slice_in_dim(y, a, b, s, axis)
    even, odd = cut(x, 0, n, 2), cut(x, 1, n, 2)
    k = odd.shape[axis]
    following = even if n % 2 else jnp.concatenate([even, cut(even, k - 1, k)], axis)
    high = odd - ((cut(following, 0, k) + cut(following, 1, k + 1)) >> 1)
    parts = [cut(high, 0, 1), high] + ([cut(high, k - 1, k)] if n % 2 else [])
    around = jnp.concatenate(parts, axis)
    e = even.shape[axis]
    low = even + ((cut(around, 0, e) + cut(around, 1, e + 1) + 2) >> 2)
    return low, high


def _merge(low, high, axis):
    cut = lambda y, a, b, s=1: jax.lax.slice_in_dim(y, a, b, s, axis)
    e, k = low.shape[axis], high.shape[axis]
    parts = [cut(high, 0, 1), high] + ([cut(high, k - 1, k)] if e > k else [])
    around = jnp.concatenate(parts, axis)
    even = low - ((cut(around, 0, e) + cut(around, 1, e + 1) + 2) >> 2)
    following = even if e > k else jnp.concatenate([even, cut(even, e - 1, e)], axis)
    odd = high + ((cut(following, 0, k) + cut(following, 1, k + 1)) >> 1)
    if e > k:
        odd = jnp.concatenate([odd, cut(odd, 0, 1)], axis)
    shape = list(low.shape)
    shape[axis] = 2 * e
    both = jnp.stack([even, odd], axis + 1).reshape(shape)
    return cut(both, 0, e + k)


def _analyse(x, levels):
    details = []
    for _ in range(levels):
        low, high = _split(x, 1)
        (x, hl), (lh, hh) = _split(low, 2), _split(high, 2)
        details.append((hl, lh, hh))
    return x, details


def _synthesise(x, details):
    for hl, lh, hh in reversed(details):
        x = _merge(_merge(x, hl, 2), _merge(lh, hh, 2), 1)
    return x


def norms(levels):
    """L2 norms of the 1-D synthesis functions (low, high) per level, 1..levels."""
    g0 = np.array([0.5, 1, 0.5])
    g1 = np.array([-1, -2, 6, -2, -1]) / 8
    out = []
    low, high = g0, g1
    for l in range(levels):
        out.append((np.sqrt((low**2).sum()), np.sqrt((high**2).sum())))
        up = lambda f: np.convolve(np.kron(f, [1, 0])[: 2 * len(f) - 1], g0)
        low, high = up(low), up(high)
    return out


def bit_length(x):
    """Bits of a magnitude, 0 for 0"""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return jnp.maximum((bits >> 23) - 126, 0)


PARAMS = dict(spp=1.0, mrp=1.0, cup=1.0, sign=1.0, first=5.0 * 8, block=20.0)


def entropy(k, n):
    """Bits for n symbols of which k are ones"""
    def xlog(x): return jnp.where(x > 0, x * jnp.log2(jnp.maximum(x, 1)), 0.0)
    return xlog(n) - xlog(k) - xlog(n - k)


def _neighbourhood(x):
    def around(y, axis):
        pad = [(0, 0)] * y.ndim
        pad[axis] = (1, 1)
        p = jnp.pad(y, pad)
        n = y.shape[axis]
        c = lambda a: jax.lax.slice_in_dim(p, a, a + n, axis=axis)
        return c(0) | y | c(2)
    return around(around(x, x.ndim - 1), x.ndim - 2)


def words(j):
    return [jax.lax.shift_right_logical(jnp.full_like(j, 0x01010101), 8 * jnp.maximum(4 * k + 4 - j, 0)) for k in range(3)]


def counts(L, M, valid):
    """(m, bands, R, C) -> three (m, bands, bh, bw, P) float32"""
    m, b, R, C = L.shape
    A = words(L)
    B = [jnp.where(valid, w, 0) for w in words(M)]
    single = jnp.where(M == L, L, 0)
    Cw = [jax.lax.shift_right_logical(w, jnp.int32(1)) * 0 for w in A]
    t1 = words(single); t0 = words(jnp.maximum(single - 1, 0))
    Cw = [a - c for a, c in zip(t1, t0)]
    out = []
    bh, bw = -(-R // 64), -(-C // 64)
    for W in (A, B, Cw):
        fields = []
        for w in W:
            rows = jnp.stack([w[:, :, r * 64 : (r + 1) * 64].sum(2) for r in range(bh)], 2)
            for f in range(4):
                v = (rows >> (8 * f)) & 255
                fields.append(jnp.stack([v[..., c * 64 : (c + 1) * 64].sum(-1) for c in range(bw)], -1))
        out.append(jnp.stack(fields[:_PLANES], -1).astype(jnp.float32))
    return out


_P = np.arange(_PLANES)
_SIG = np.array([1.0, 6.0, 30.0, 132.0] + [2.15 * 4.0**p for p in range(4, _PLANES)])
_REF = np.array([0.5, 1.0] + [4.0**p / 4 for p in range(2, _PLANES)])


def tables(A, B, C, n, weight, prm):
    """cumulative rate (bits) and distortion gain, passes in coding order: (..., 3P)"""
    up = lambda x: jnp.concatenate([x[..., 1:], jnp.zeros_like(x[..., :1])], -1)
    sig, near = up(A), up(B)
    n1 = near - sig
    k1 = A - sig - C
    n3 = n - near
    k3 = C
    cast = lambda c: jnp.broadcast_to(jnp.asarray(c, jnp.float32), A.shape)
    r = [prm["spp"] * entropy(k1, n1) + prm["sign"] * k1, prm["mrp"] * sig, prm["cup"] * entropy(k3, n3) + prm["sign"] * k3]
    d = [k1 * cast(_SIG), sig * cast(_REF), k3 * cast(_SIG)]
    # in coding order: planes down from the top
    R = jnp.stack([x[..., ::-1] for x in r], -1).reshape(*A.shape[:-1], 3 * _PLANES)
    D = jnp.stack([x[..., ::-1] for x in d], -1).reshape(*A.shape[:-1], 3 * _PLANES)
    R = jnp.cumsum(R, -1)
    total = R[..., -1:]
    R = jnp.minimum(R + prm["first"], total + 8.0)+prm["block"]
    D = jnp.cumsum(D, -1) * weight
    z = jnp.zeros_like(R[..., :1])
    return jnp.concatenate([z, R], -1), jnp.concatenate([z, D], -1)


def slope_choice(R, D, budget):
    """(n, blocks, passes), budget bits -> (n, blocks) number of passes."""
    def pick(lam):
        k = jnp.argmax(D - lam[:, None, None] * R, -1)
        r = jnp.take_along_axis(R, k[..., None], -1)[..., 0].sum(-1)
        return k, r
    lo = jnp.full(R.shape[:1], -10.0) 
    hi = jnp.full(R.shape[:1], 30.0)
    def body(_, s):
        lo, hi = s
        mid = (lo + hi) / 2
        _, r = pick(2.0**mid)
        over = r > budget
        return jnp.where(over, mid, lo), jnp.where(over, hi, mid)
    lo, hi = jax.lax.fori_loop(0, 24, body, (lo, hi))
    return pick(2.0**hi)[0]


def jpeg2000(key, images, *, value, prm=PARAMS):
    """JPEG 2000"""
    del key
    height, width, _ = images.shape[-3:]
    pixels = to_bytes(images).reshape(-1, height, width, 3)
    n = len(pixels)
    planes = jnp.stack([pixels[..., c] - 128 for c in range(3)], 1)
    planes = planes.reshape(3 * n, height, width)
    levels = min(7, int(np.log2(min(height, width))))
    ll, details = _analyse(planes, levels)
    nm = norms(levels)
    # groups
    groups = []
    small = []
    for l, bands in enumerate(details):
        w = [nm[l][1] * nm[l][0]] * 2 + [nm[l][1] ** 2]
        if max(bands[0].shape[1:] + bands[1].shape[1:]) > 32:
            groups.append((list(bands), w))
        else:
            small += list(zip(bands, w))
    small.append((ll, nm[-1][0] ** 2))
    groups.append(([b for b, _ in small], [w for _, w in small]))
    info = []
    Rs, Ds = [], []
    for bands, w in groups:
        rr = max(b.shape[1] for b in bands)
        cc = max(b.shape[2] for b in bands)
        x = jnp.stack([jnp.pad(b, ((0, 0), (0, rr - b.shape[1]), (0, cc - b.shape[2]))) for b in bands], 1)
        valid = np.zeros((1, len(bands), rr, cc), bool)
        for i, b in enumerate(bands):
            valid[0, i, : b.shape[1], : b.shape[2]] = True
        mag = jnp.abs(x)
        L = bit_length(mag)
        M = bit_length(_neighbourhood(mag))
        A, B, C = counts(L, M, valid)
        bh, bw = A.shape[2:4]
        num = np.zeros((1, len(bands), bh, bw, 1), np.float32)
        for r in range(bh):
            for c in range(bw):
                num[:, :, r, c, 0] = valid[:, :, r * 64 : r * 64 + 64, c * 64 : c * 64 + 64].sum((2, 3))
        wt = (np.asarray(w, np.float32) ** 2)[None, :, None, None, None]
        R, D = tables(A, B, C, num, wt, prm)
        Rs.append(R.reshape(n, -1, R.shape[-1]))
        Ds.append(D.reshape(n, -1, R.shape[-1]))
        info.append((x, L, M, R.shape))
    bits = 24 * height * width / jnp.asarray(value, jnp.float32) - 8 * (216 - 3 * (7 - levels))
    k = slope_choice(jnp.concatenate(Rs, 1), jnp.concatenate(Ds, 1), jnp.maximum(bits, 0))
    outs = []
    at = 0
    for (x, L, M, shape), (bands, _) in zip(info, groups):
        cnt = 3 * int(np.prod(shape[1:4]))
        kk = k[:, at : at + cnt].reshape(shape[:4])
        at += cnt
        p = jnp.where(kk > 0, _PLANES - 1 - (kk - 1) // 3, 15)
        last = (kk - 1) % 3
        a = jnp.where(last <= 1, p + 1, -1)
        b = jnp.where(last == 0, p + 1, 99)
        def expand(v):
            m, nb, bh, bw = v.shape
            if bh * bw == 1:
                return jnp.broadcast_to(v, x.shape)
            v = jnp.broadcast_to(v[:, :, :, None, :, None], (m, nb, bh, 64, bw, 64)).reshape(m, nb, bh * 64, bw * 64)
            return v[:, :, : x.shape[2], : x.shape[3]]
        p, a, b = expand(p), expand(a), expand(b)
        t = p + ((M <= a) | (L > b)).astype(jnp.int32)
        mag = jnp.abs(x) >> t
        half = jax.lax.shift_left(jnp.int32(1), t) >> 1
        rec = jnp.where(mag > 0, (mag << t) + half, 0)
        rec = jnp.sign(x) * rec
        outs += [rec[:, i, : q.shape[1], : q.shape[2]] for i, q in enumerate(bands)]
    details = [tuple(outs[3 * i : 3 * i + 3]) for i in range(levels)]
    y = _synthesise(outs[-1], details)
    y = jnp.clip(y + 128, 0, 255).astype(jnp.float32) / 255
    y = y.reshape(n, 3, height, width)
    return jnp.stack([y[:, c] for c in range(3)], -1).reshape(images.shape)
