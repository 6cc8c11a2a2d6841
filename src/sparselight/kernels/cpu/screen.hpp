// Screening: of all (token, latent) pairs keep those whose pre-activation may reach the token's threshold.
//
// A pair is kept with an upper bound of its pre-activation: screening product + slack(token) * reach(latent) + bias. What is dropped is
// certainly below the threshold; what is kept is decided by dot(). A NaN is never below anything, so it is kept and decided there too.
#pragma once
#include <unistd.h>

#include "tiles.hpp"

namespace sl {

// Upper bound (at least 0, so that its bits sort like the number) above, latent below.
using Candidate = uint64_t;
inline Candidate make_candidate(float bound, int64_t latent) { return uint64_t(std::bit_cast<uint32_t>(bound)) << 32 | uint32_t(latent); }
inline float bound_of(Candidate c) { return std::bit_cast<float>(uint32_t(c >> 32)); }
inline int64_t latent_of(Candidate c) { return int64_t(uint32_t(c)); }

// What is added to a screening product: bias - offset, rounded up by all that float32 may lose on the way.
struct RaisedBias {
    Buffer<float> up;

    RaisedBias(const float* bias, const float* offset, const Packed& packed) : up(packed.n_panels * LATENTS) {
        if (up.failed()) return;
        for (int64_t j = 0; j < packed.n_panels * LATENTS; j++) up[j] = j < packed.n_latents ? raised(bias[j], offset ? offset[j] : 0, packed.d) : -INFINITY;
    }
    static float raised(float bias, float offset, int64_t d) {
        if (offset == INFINITY) return -INFINITY;
        return (bias - offset) + margin(bias, offset, d);
    }
    static float margin(float bias, float offset, int64_t d) { return (std::fabs(bias) + std::fabs(offset)) * 0x1p-20f + underflow(d); }
};

// Candidates of the tokens of one block. Thresholds are never negative.
struct Candidates {
    int64_t room, first_look;  // a token's list is looked at when it is longer than `look_at`
    Buffer<Candidate> lists;
    Buffer<float> threshold;
    Buffer<int32_t> size, look_at;

    Candidates(int64_t n_tokens, int64_t k)
        : room(room_for(k)), first_look(std::max<int64_t>(256, 2 * k)), lists(n_tokens * room), threshold(n_tokens + LANES), size(n_tokens), look_at(n_tokens) {}
    bool failed() const { return lists.failed() || threshold.failed() || size.failed() || look_at.failed(); }
    static int64_t room_for(int64_t k) { return std::max<int64_t>(1024, 4 * k); }
    Candidate* list(int64_t token) { return lists.data() + token * room; }
    int64_t most() const { return room - LATENTS; }  // a list longer than this may overflow with the next tile

    void start(int64_t token, float at_least) {
        threshold[token] = at_least, size[token] = 0;
        look_at[token] = int32_t(std::min(first_look, most()));
    }
};

inline void keep(Candidates& found, int64_t token, int64_t latent, uint32_t lanes, Vec bounds) {
    float values[LANES];
    store(values, bounds);
    Candidate* end = found.list(token) + found.size[token];
    for (; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        *end++ = make_candidate(values[lane], latent + lane);
    }
    found.size[token] = int32_t(end - found.list(token));
}

// All tokens of a block against all latents. on_long_list(token) must make room.
template <Format FORMAT, class OnLongList>
class Screen {
  public:
    Screen(const Strips& s, const Packed& p, const RaisedBias& b, Candidates& f, const OnLongList& o) : strips(s), packed(p), bias(b), found(f), on_long_list(o) {}

    // A tile is looked through while the next one is computed.
    void run() {
        [[maybe_unused]] const TileRegisters registers;
        alignas(64) float products[2][TOKENS * LATENTS];
        const int64_t per_pause = (TOKENS + n_pauses(packed.units) - 1) / n_pauses(packed.units), size = packed.units * LATENTS;
        const int64_t share = (size / (strips.n_strips * n_pauses(packed.units)) + 15) / 16 * 16;
        int parity = 0;
        for (int64_t p = 0; p < packed.n_panels; p++) {
            const auto* ahead = reinterpret_cast<const float*>(packed.panel(std::min(p + 1, packed.n_panels - 1)));
            const auto* end = ahead + size;
            for (int64_t s = 0; s < strips.n_strips; s++, parity ^= 1) {
                tile<FORMAT>(strips.strip(s), packed.panel(p), packed.units, products[parity], [&] {
                    look(per_pause);
                    prefetch_row(ahead, std::min<int64_t>(share, end - ahead));
                    ahead = std::min(ahead + share, end);
                });
                look(TOKENS);
                begin_look(products[parity], p * LATENTS, s * TOKENS);
            }
        }
        look(TOKENS);
    }

  private:
    void begin_look(const float* tile_product, int64_t first_latent, int64_t first_token) {
        product = tile_product, latent = first_latent, first = token = first_token, last = std::min(first_token + TOKENS, strips.n_tokens);
        for (int h = 0; h < 2; h++) {
            reach[h] = load(packed.reach + latent + h * LANES), scale[h] = load(packed.scale + latent + h * LANES);
            up[h] = load(&bias.up[latent + h * LANES]);
        }
        if constexpr (FORMAT == INT8) return;
        // No product below this reaches the threshold, whichever latent of the tile it belongs to: one comparison for most.
        const Vec most_reach = all(largest(reach)), most_up = all(largest(up)), none{};
        for (int64_t t = 0; t < TOKENS; t += LANES) {
            const Vec threshold = load(&found.threshold[first + t]), gain = load(&strips.slack[first + t]) * most_reach;
            const Vec loss = (threshold + gain + (most_up < none ? -most_up : most_up)) * all(0x1p-20f);
            store(at_least + t, threshold - (gain + most_up) - loss);
        }
    }
    static float largest(const Vec (&v)[2]) {
        const Vec top = v[0] > v[1] ? v[0] : v[1];
        float value = top[0];
        for (int i = 1; i < LANES; i++) value = top[i] > value ? top[i] : value;
        return value;
    }

    // Look through the next tokens of the tile, n at most.
    void look(int64_t n) {
        for (const int64_t end = std::min(token + n, last); token < end; token++) {
            const float* row = product + (token - first) * LATENTS;
            Vec value[2] = {load(row), load(row + LANES)};
            if constexpr (FORMAT == INT8) {
                for (int h = 0; h < 2; h++) value[h] = (value[h] - all(strips.shift[token])) * (all(strips.scale[token]) * scale[h]);
            } else {
                const Vec least = all(at_least[token - first]);
                if (__builtin_expect(!(not_below(value[0], least) | not_below(value[1], least)), 1)) continue;
            }
            const Vec slack = all(strips.slack[token]), threshold = all(found.threshold[token]);
            for (int h = 0; h < 2; h++) {
                const Vec bounds = value[h] + (slack * reach[h] + up[h]);
                if (const uint32_t lanes = not_below(bounds, threshold)) keep(found, token, latent + h * LANES, lanes, bounds);
            }
            if (found.size[token] > found.look_at[token]) on_long_list(token);
        }
    }

    const Strips& strips;
    const Packed& packed;
    const RaisedBias& bias;
    Candidates& found;
    const OnLongList& on_long_list;
    const float* product = nullptr;
    int64_t latent = 0, first = 0, token = 0, last = 0;
    Vec reach[2], scale[2], up[2];
    float at_least[TOKENS + LANES];
};

// What an entry is decided by.
struct Encoder {
    const float *W, *bias;  // W [latent d]
    int64_t d;

    float pre(const float* x, int64_t latent) const { return dot(x, W + latent * d, d) + bias[latent]; }

    // with_value(candidate, pre-activation) for each candidate; rows of W are asked for a few candidates ahead.
    template <class WithValue>
    void rescore(const float* x, const Candidate* list, int64_t n, const WithValue& with_value) const {
        constexpr int64_t AHEAD = 4;
        for (int64_t i = 0; i < std::min(n, AHEAD); i++) prefetch_row(W + latent_of(list[i]) * d, d);
        for (int64_t i = 0; i < n; i++) {
            if (i + AHEAD < n) prefetch_row(W + latent_of(list[i + AHEAD]) * d, d);
            with_value(list[i], pre(x, latent_of(list[i])));
        }
    }
};

inline int64_t second_level_cache() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    if (const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE); bytes > 0) return std::max<long>(bytes, 512 << 10);
#endif
    return 1 << 20;
}

// Tokens worked on at once: as many as stay in the second-level cache when packed, but enough blocks for all threads.
inline int64_t block_size(int64_t n_tokens, int64_t units, int n_threads) {
    constexpr int64_t BLOCKS_PER_THREAD = 4, AT_MOST = 1024;
    const int64_t fits = second_level_cache() / 2 / (units * 4), fair = n_tokens / (BLOCKS_PER_THREAD * n_threads) + 1;
    return Strips::padded(std::clamp<int64_t>(std::min(fits, fair), TOKENS, AT_MOST));
}

struct Counters {
    std::atomic<int64_t> candidates{0}, rescored{0}, redone{0}, broken{0};
    void copy_to(int64_t* out) const { out[0] = candidates, out[1] = rescored, out[2] = redone, out[3] = broken; }
};

}  // namespace sl
