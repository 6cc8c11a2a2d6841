// The screening product, one tile at a time: TOKENS tokens by LATENTS latents, results as float in a small buffer.
//
// Tokens are packed in strips of TOKENS, in the order in which the tile reads them; latents in panels (pack.hpp).
#pragma once
#include <type_traits>

#include "pack.hpp"

namespace sl {

// Tokens of a block, packed for the tiles, with what the bound needs of each.
struct Strips {
    Format format;
    int64_t n_tokens, units, n_strips;
    Buffer<uint32_t> memory;
    Buffer<float> norm, slack, scale, shift;  // shift: what unsigned latents add to an int8 product

    Strips(Format f, int64_t capacity, int64_t d)
        : format(f), n_tokens(0), units(n_units(f, d)), n_strips(0), memory(padded(capacity) * units), norm(padded(capacity)), slack(padded(capacity) + LANES),
          scale(padded(capacity)), shift(padded(capacity)) {}
    bool failed() const { return memory.failed() || norm.failed() || slack.failed() || scale.failed() || shift.failed(); }
    static int64_t padded(int64_t n) { return (n + TOKENS - 1) / TOKENS * TOKENS; }

    // get_row(i) is token i; tokens that only fill the last strip are zeros.
    template <class GetRow>
    void set(int64_t n, int64_t d, Row& row, const GetRow& get_row) {
        n_tokens = n, n_strips = (n + TOKENS - 1) / TOKENS;
        for (int64_t i = 0; i < n_strips * TOKENS; i++) {
            uint32_t* strip = memory.data() + i / TOKENS * TOKENS * units;
            const int within = int(i % TOKENS);
            if (i < n) row.set(format, get_row(i), d);
            for (int64_t k = 0; k < units; k++) strip[place(within, k)] = i < n ? row.units[k] : 0;
            norm[i] = i < n ? row.norm : 0;
            slack[i] = i < n ? row.slack(format, d) : 0;
            scale[i] = i < n ? row.scale : 0;
            shift[i] = i < n ? 128.0f * float(row.sum) : 0;
        }
    }
    const uint32_t* strip(int64_t s) const { return const_cast<Buffer<uint32_t>&>(memory).data() + s * TOKENS * units; }

  private:
    int64_t place(int token, int64_t k) const {
#if defined(__AMX_BF16__)
        return token / 32 * 32 * units + (k / 16 * 32 + token % 32) * 16 + k % 16;  // by 32 tokens: 16 units of each, then the next 16
#else
        return k * TOKENS + token;
#endif
    }
};

#if defined(__AVX512F__)
using Units = __m512i;
inline Units load_units(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline Units every_unit(uint32_t unit) { return _mm512_set1_epi32(int(unit)); }
#endif

// One step of the product over 4 bytes of every token and latent.
template <Format FORMAT>
struct Multiply;

template <>
struct Multiply<FP32> {
    using Total = Vec;
    static Vec step(Vec total, const uint32_t* latents, const uint32_t* token) {
        return total + load(reinterpret_cast<const float*>(latents)) * all(*reinterpret_cast<const float*>(token));
    }
    static Vec value(Vec total) { return total; }
};

#if defined(__AVX512BF16__)
template <>
struct Multiply<BF16> {
    using Total = __m512;
    static Total step(Total total, const uint32_t* latents, const uint32_t* token) {
        return _mm512_dpbf16_ps(total, (__m512bh)load_units(latents), (__m512bh)every_unit(*token));
    }
    static Vec value(Total total) { return (Vec)total; }
};
#endif

#if defined(__AVX512VNNI__)
template <>
struct Multiply<INT8> {
    using Total = __m512i;
    static Total step(Total total, const uint32_t* latents, const uint32_t* token) {
        const Units a = load_units(latents), b = every_unit(*token);
        __asm__("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(a), "v"(b));  // through the intrinsic GCC 12 spills half of the totals
        return total;
    }
    static Vec value(Total total) { return (Vec)_mm512_cvtepi32_ps(total); }
};
#endif

template <Format FORMAT>
__attribute__((noinline)) void multiply(const uint32_t* strip, const uint32_t* panel, int64_t units, float* out) {
    using M = Multiply<FORMAT>;
    typename M::Total total[TOKENS][2] = {};
    for (int64_t k = 0; k < units; k++, strip += TOKENS, panel += LATENTS) {
#pragma GCC unroll 12
        for (int t = 0; t < TOKENS; t++) {
            total[t][0] = M::step(total[t][0], panel, strip + t);
            total[t][1] = M::step(total[t][1], panel + LANES, strip + t);
        }
    }
#pragma GCC unroll 12
    for (int t = 0; t < TOKENS; t++) {
        store(out + t * LATENTS, M::value(total[t][0]));
        store(out + t * LATENTS + LANES, M::value(total[t][1]));
    }
}

#if defined(__AMX_BF16__)
// Eight tile registers of 16 rows of 64 bytes: two of tokens, two of latents, four of totals.
struct TileRegisters {
    TileRegisters() {
        struct {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        _tile_loadconfig(&config);
    }
    ~TileRegisters() { _tile_release(); }
};

// Two halves of 32 tokens take turns, so that what both read of the panel stays in the first-level cache. The tile unit works for long on
// its own: meanwhile() is called once every 16 units of each half, for other work that fits in between.
template <class Meanwhile>
inline void multiply_tiles(const uint32_t* strip, const uint32_t* panel, int64_t units, float* out, const Meanwhile& meanwhile) {
    constexpr int64_t STRETCH = 128;  // units: 16 KiB of the panel
    for (int64_t begin = 0; begin < units; begin += STRETCH) {
        for (int half = 0; half < 2; half++) {
            float* total = out + half * 32 * LATENTS;
            if (begin == 0) {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            } else {
                _tile_loadd(0, total, LATENTS * 4);
                _tile_loadd(1, total + 16, LATENTS * 4);
                _tile_loadd(2, total + 16 * LATENTS, LATENTS * 4);
                _tile_loadd(3, total + 16 * LATENTS + 16, LATENTS * 4);
            }
            const uint32_t *tokens = strip + half * 32 * units + begin * 32, *latents = panel + begin * LATENTS;
            for (int64_t k = begin; k < std::min(begin + STRETCH, units); k += 16, tokens += 16 * 32, latents += 16 * LATENTS) {
                _tile_loadd(4, tokens, 64);
                _tile_loadd(6, latents, LATENTS * 4);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, latents + 16, LATENTS * 4);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, tokens + 256, 64);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
                meanwhile();
            }
            _tile_stored(0, total, LATENTS * 4);
            _tile_stored(1, total + 16, LATENTS * 4);
            _tile_stored(2, total + 16 * LATENTS, LATENTS * 4);
            _tile_stored(3, total + 16 * LATENTS + 16, LATENTS * 4);
        }
    }
}
inline int64_t n_pauses(int64_t units) { return units / 8; }
#else
struct TileRegisters {};
inline int64_t n_pauses(int64_t) { return 1; }
#endif

// out [TOKENS LATENTS]; int8 totals still lack shift and scales. meanwhile() is called n_pauses() times.
template <Format FORMAT, class Meanwhile>
inline void tile(const uint32_t* strip, const uint32_t* panel, int64_t units, float* out, const Meanwhile& meanwhile) {
#if defined(__AMX_BF16__)
    multiply_tiles(strip, panel, units, out, meanwhile);
#else
    meanwhile();
    multiply<FORMAT>(strip, panel, units, out);
#endif
}

// Calls body(format as a constant) for the formats that this build screens in.
template <class Body>
inline void with_format(Format format, const Body& body) {
#if defined(__AMX_BF16__)
    if (format == BF16) body(std::integral_constant<Format, BF16>{});
#else
    if (format == FP32) body(std::integral_constant<Format, FP32>{});
#if defined(__AVX512BF16__)
    if (format == BF16) body(std::integral_constant<Format, BF16>{});
#endif
#if defined(__AVX512VNNI__)
    if (format == INT8) body(std::integral_constant<Format, INT8>{});
#endif
#endif
}

}  // namespace sl
