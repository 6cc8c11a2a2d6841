// Low-precision copies of rows for screening, and how far a product of two such copies can be from the product of the rows.
//
// A row w is kept as w' (float32 itself, bfloat16, or int8 with one scale a row). With dw = w - w' and the same for a token x:
//     |x.w - x'.w'| <= |dx| |w| + |x'| |dw|  <=  slack(x) * reach(w)
//     slack(x) = |dx| + RESIDUAL |x'| + rounding (|x| + |x'|),   reach(w) = max(|w| + |dw|, |dw| / RESIDUAL)
// for any constant RESIDUAL > 0; it is chosen near the usual |dw| / |w|. `rounding` covers the float32 roundings of the screening product and
// of dot(), at most one for each of d values and a few more, in whatever order they are added; norms are rounded up. Nothing is statistical.
#pragma once
#include <bit>
#include <cmath>

#include "threads.hpp"
#include "vec.hpp"

namespace sl {

enum Format : int32_t { FP32 = 0, BF16 = 1, INT8 = 2 };

#if defined(__AMX_BF16__)
constexpr int TOKENS = 64;  // tokens and latents of one tile of the screening product
#else
constexpr int TOKENS = REGISTERS == 32 ? 12 : 6;
#endif
constexpr int LATENTS = 2 * LANES;

// Rows are stored in units of 4 bytes: 1, 2 or 4 values. A row's units are padded with zeros to a multiple of 16.
inline int64_t n_units(Format format, int64_t d) {
    const int64_t values = format == FP32 ? 1 : format == BF16 ? 2 : 4;
    return ((d + values - 1) / values + 15) / 16 * 16;
}
inline float residual(Format format) { return format == BF16 ? 1.7e-3f : format == INT8 ? 7.5e-3f : 1.0f; }
inline float rounding(int64_t d) { return float(d + 64) * 0x1p-24f; }
inline float underflow(int64_t d) { return float(d + 32) * 0x1p-118f; }  // absolute: products too small for a normal float

inline float norm_at_most(const float* v, int64_t d) { return std::sqrt(dot(v, v, d) + float(d) * 0x1p-126f) * (1 + float(d + 64) * 0x1p-23f); }

// One row in low precision.
struct Row {
    Buffer<uint32_t> units;
    Buffer<float> kept, lost;  // w' and w - w' as floats
    float norm = 0, lost_norm = 0, scale = 1;
    int32_t sum = 0;  // of the int8 values

    Row(Format format, int64_t d) : units(n_units(format, d)), kept(d), lost(d) {
        if (!failed()) std::memset(units.data(), 0, n_units(format, d) * 4);
    }
    bool failed() const { return units.failed() || kept.failed() || lost.failed(); }

    void set(Format format, const float* row, int64_t d) {
        norm = norm_at_most(row, d);
        if (format == FP32) {
            std::memcpy(units.data(), row, d * sizeof(float));
            return;
        }
        format == BF16 ? set_bf16(row, d) : set_int8(row, d);
        for (int64_t i = 0; i < d; i++) lost[i] = row[i] - kept[i];
        lost_norm = norm_at_most(lost.data(), d);
    }
    // of a token
    float slack(Format format, int64_t d) const {
        const float kept_norm = norm + lost_norm;
        return (lost_norm + (format == FP32 ? 0 : residual(format) * kept_norm) + rounding(d) * (norm + kept_norm)) * (1 + 0x1p-20f);
    }
    // of a latent
    float reach(Format format) const { return std::fmax(norm + lost_norm, lost_norm / residual(format)) * (1 + 0x1p-20f); }

  private:
    // Round to nearest, ties to even. Values too small for a normal float become 0, as the processors' own products treat them.
    void set_bf16(const float* row, int64_t d) {
        auto* halves = reinterpret_cast<uint16_t*>(units.data());
        float* out = kept.data();
        for (int64_t i = 0; i < d; i++) {
            const uint32_t bits = std::bit_cast<uint32_t>(row[i]);
            const uint32_t rounded = (bits & 0x7f800000u) ? (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u : 0u;
            halves[i] = uint16_t(rounded >> 16);
            out[i] = std::bit_cast<float>(rounded);
        }
    }
    void set_int8(const float* row, int64_t d) {
        Vec largest{};
        each_vector(d, [&](int64_t i, int lanes) {
            const Vec v = load(row + i, lanes), size = v < 0 ? -v : v;
            largest = size > largest ? size : largest;
        });
        float top = 0;
        for (int i = 0; i < LANES; i++) top = std::fmax(top, largest[i]);
        const bool usable = top > 0x1p-100f && top < 0x1p120f;  // otherwise all zeros: the whole row is `lost`, and the bound says so
        scale = usable ? top / 127 : 1;
        const float inverse = usable ? 127 / top : 0;
        auto* bytes = reinterpret_cast<int8_t*>(units.data());
        float* out = kept.data();
        const float factor = scale;
        int32_t total = 0;
        for (int64_t i = 0; i < d; i++) {
            const float scaled = row[i] * inverse, whole = scaled >= -127 && scaled <= 127 ? std::nearbyint(scaled) : scaled > 127 ? 127.0f : -127.0f;
            bytes[i] = int8_t(whole);
            out[i] = whole * factor;
            total += int32_t(whole);
        }
        sum = total;
    }
};

// A [latent d] matrix as panels of LATENTS latents: [panel][unit][latent of the panel], and per latent its reach and int8 scale. Latents that
// only fill the last panel have zeros.
struct Packed {
    Format format;
    int64_t n_latents, d, units, n_panels;
    uint32_t* panels;
    float *reach, *scale;

    Packed(void* memory, Format f, int64_t m, int64_t width) : format(f), n_latents(m), d(width), units(n_units(f, width)), n_panels((m + LATENTS - 1) / LATENTS) {
        panels = static_cast<uint32_t*>(memory);
        reach = reinterpret_cast<float*>(panels + n_panels * units * LATENTS);
        scale = reach + n_panels * LATENTS;
    }
    static int64_t bytes(Format f, int64_t m, int64_t d) { return (m + LATENTS - 1) / LATENTS * LATENTS * (n_units(f, d) + 2) * 4; }
    const uint32_t* panel(int64_t p) const { return panels + p * units * LATENTS; }

    // Rows of one panel; row(latent) is the latent's row.
    template <class GetRow>
    void set_panel(int64_t p, Row& row, const GetRow& get_row) const {
        const uint32_t flip = format == INT8 ? 0x80808080u : 0u;  // bytes are kept as unsigned, 128 more
        uint32_t* target = panels + p * units * LATENTS;
        for (int j = 0; j < LATENTS; j++) {
            const int64_t latent = p * LATENTS + j;
            const bool real = latent < n_latents;
            if (real) row.set(format, get_row(latent), d);
            for (int64_t k = 0; k < units; k++) target[k * LATENTS + j] = real ? row.units[k] ^ flip : flip;
            reach[latent] = real ? row.reach(format) : 0;
            scale[latent] = real ? row.scale : 0;
        }
    }
};

}  // namespace sl
