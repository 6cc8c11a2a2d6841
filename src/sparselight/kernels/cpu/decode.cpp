// Decoding sparse codes, and the gradient that reaches each code: one pass over the chosen decoder rows, in CSR order.
#include "abi.hpp"
#include "threads.hpp"
#include "vec.hpp"

namespace sl {
namespace {

constexpr int64_t TOKENS_AT_A_TIME = 16;
constexpr int64_t PREFETCH_FLOATS = 1 << 17;  // half of the smallest second-level cache met

struct Codes {
    const float* values;
    const int32_t* latents;
    const int64_t* indptr;
    const int64_t* ends;
    int64_t n_tokens, n_groups;
};

// Rows of the next token, while this one is computed.
void prefetch_token(const Codes& codes, int64_t token, const float* W, int64_t d) {
    if (token >= codes.n_tokens) return;
    const int64_t begin = codes.indptr[token], end = std::min(codes.indptr[token + 1], begin + PREFETCH_FLOATS / d);
    for (int64_t i = begin; i < end; i++) prefetch_row(W + codes.latents[i] * d, d);
}

// One stretch of VECTORS vectors of a token's reconstruction, every group in turn: a group is the one before it and some more entries.
template <int VECTORS>
void decode_stretch(const Codes& codes, int64_t token, const float* W, int64_t d, int64_t column, float* out, int lanes) {
    Vec acc[VECTORS] = {};
    int64_t i = codes.indptr[token];
    const int64_t end = codes.indptr[token + 1];
    for (int64_t group = 0; group < codes.n_groups; group++) {
        for (; i < end && codes.latents[i] < codes.ends[group]; i++) {
            const float* row = W + codes.latents[i] * d + column;
            const Vec value = all(codes.values[i]);
#pragma GCC unroll 16
            for (int v = 0; v < VECTORS; v++) acc[v] += value * (VECTORS == 1 ? load(row, lanes) : load(row + v * LANES));
        }
        float* target = out + (group * codes.n_tokens + token) * d + column;
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) VECTORS == 1 ? store(target, acc[v], lanes) : store(target + v * LANES, acc[v]);
    }
}

}  // namespace

// out [group token d]
SL_EXPORT int sl_decode(const float* values, const int32_t* latents, const int64_t* indptr, int64_t n_tokens, const float* W, int64_t d,
                        const int64_t* ends, int64_t n_groups, float* out, int n_threads) {
    constexpr int VECTORS = REGISTERS == 32 ? 16 : 8;
    const Codes codes{values, latents, indptr, ends, n_tokens, n_groups};
    over_blocks(n_tokens, TOKENS_AT_A_TIME, n_threads, [&](int64_t begin, int64_t end) {
        for (int64_t token = begin; token < end; token++) {
            prefetch_token(codes, token + 1, W, d);
            int64_t column = 0;
            for (; column + VECTORS * LANES <= d; column += VECTORS * LANES) decode_stretch<VECTORS>(codes, token, W, d, column, out, LANES);
            for (; column < d; column += LANES) decode_stretch<1>(codes, token, W, d, column, out, int(std::min<int64_t>(LANES, d - column)));
        }
    });
    return 0;
}

// out [entry] = suffix[group of the entry's latent, token] . W[latent], where suffix[g] is the sum of the gradients of groups g and later
SL_EXPORT int sl_decode_gradient(const float* suffix, const int32_t* latents, const int64_t* indptr, int64_t n_tokens, const float* W, int64_t d,
                                 const int64_t* ends, int64_t n_groups, float* out, int n_threads) {
    const Codes codes{nullptr, latents, indptr, ends, n_tokens, n_groups};
    over_blocks(n_tokens, TOKENS_AT_A_TIME, n_threads, [&](int64_t begin, int64_t end) {
        for (int64_t token = begin; token < end; token++) {
            prefetch_token(codes, token + 1, W, d);
            int64_t group = 0;
            for (int64_t i = indptr[token]; i < indptr[token + 1]; i++) {
                while (latents[i] >= ends[group]) group++;
                out[i] = dot(suffix + (group * n_tokens + token) * d, W + latents[i] * d, d);
            }
        }
    });
    return 0;
}

// suffix[g] = grad[g] + grad[g + 1] + ..., both [group size]
SL_EXPORT int sl_suffix_sums(const float* grad, int64_t n_groups, int64_t size, float* suffix, int n_threads) {
    over_blocks(size, 1 << 14, n_threads, [&](int64_t begin, int64_t end) {
        std::memcpy(suffix + (n_groups - 1) * size + begin, grad + (n_groups - 1) * size + begin, (end - begin) * sizeof(float));
        for (int64_t group = n_groups - 2; group >= 0; group--)
            for (int64_t i = begin; i < end; i++) suffix[group * size + i] = suffix[(group + 1) * size + i] + grad[group * size + i];
    });
    return 0;
}

}  // namespace sl
