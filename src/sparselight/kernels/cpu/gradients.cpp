// Gradients of both weight matrices in one pass over the entries, latent by latent (CSC): no atomics, one order of every sum.
#include "abi.hpp"
#include "threads.hpp"
#include "vec.hpp"

namespace sl {
namespace {

constexpr int64_t LATENTS_AT_A_TIME = 64;
constexpr int64_t ENTRIES_AHEAD = 6;  // rows asked for before they are needed

struct Entry {
    int32_t token;
    float value, grad_pre;
};

// Of one latent's new gradient row g: g.g and, beside a parameter row p, g.p and p.p; lane by lane.
struct Squares {
    Vec own{}, with_param{}, param{};

    // |g - (g.p) p|^2, of which rounding may leave a little less than nothing
    double without_parallel() const {
        const double along = sum(with_param);
        return std::max(0.0, sum(own) - 2 * along * along + along * along * sum(param));
    }
};

struct Sums {
    const Entry* entries;
    int64_t n_entries;
    const float *x, *grad;  // grad: of the latent's group and all later ones
    int64_t d_in, d_out;
    bool fresh;
};

void prefetch_entries(const Sums& s, int64_t begin, int64_t end) {
    for (int64_t i = std::min(begin, s.n_entries); i < std::min(end, s.n_entries); i++) {
        prefetch_row(s.x + s.entries[i].token * s.d_in, s.d_in);
        prefetch_row(s.grad + s.entries[i].token * s.d_out, s.d_out);
    }
}

void put(float* target, Vec total, int lanes, bool fresh) {
    if (!fresh) return store(target, load(target, lanes) + total, lanes);
    lanes == LANES && is_aligned(target) ? store_past_caches(target, total) : store(target, total, lanes);
}

// Columns of one latent's row: target (+)= sum of weight * rows[token].
template <int VECTORS, float Entry::*WEIGHT>
void sum_stretch(const Sums& s, int64_t begin, int64_t end, const float* rows, int64_t d, int64_t column, float* target, int lanes, const float* param,
                 Squares& squares) {
    Vec acc[VECTORS] = {};
    for (int64_t i = begin; i < end; i++) {
        const float* row = rows + s.entries[i].token * d + column;
        const Vec weight = all(s.entries[i].*WEIGHT);
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) acc[v] += weight * (VECTORS == 1 ? load(row, lanes) : load(row + v * LANES));
    }
#pragma GCC unroll 16
    for (int v = 0; v < VECTORS; v++) {
        squares.own += acc[v] * acc[v];
        if (param) {
            const Vec p = VECTORS == 1 ? load(param + column, lanes) : load(param + column + v * LANES);
            squares.with_param += acc[v] * p;
            squares.param += p * p;
        }
        put(target + column + v * LANES, acc[v], VECTORS == 1 ? lanes : LANES, s.fresh);
    }
}

// param: the parameter's row, where the gradient's part along it does not count; or null
template <float Entry::*WEIGHT>
Squares sum_rows(const Sums& s, int64_t begin, int64_t end, const float* rows, int64_t d, float* target, const float* param) {
    constexpr int VECTORS = REGISTERS == 32 ? 16 : 8;
    Squares squares;
    int64_t column = 0;
    for (; column + VECTORS * LANES <= d; column += VECTORS * LANES)
        sum_stretch<VECTORS, WEIGHT>(s, begin, end, rows, d, column, target, LANES, param, squares);
    for (; column < d; column += LANES)
        sum_stretch<1, WEIGHT>(s, begin, end, rows, d, column, target, int(std::min<int64_t>(LANES, d - column)), param, squares);
    return squares;
}

}  // namespace

// order [entry]: entries sorted by latent, tokens ascending within one; bounds [latent + 1]: where each latent's begin
SL_EXPORT int sl_sort_by_latent(const int32_t* latents, int64_t n_entries, int64_t n_latents, int64_t* order, int64_t* bounds) {
    Buffer<int64_t> next(n_latents);
    if (next.failed()) return 1;
    std::fill(bounds, bounds + n_latents + 1, 0);
    for (int64_t i = 0; i < n_entries; i++) bounds[latents[i] + 1]++;
    for (int64_t latent = 0; latent < n_latents; latent++) next[latent] = bounds[latent], bounds[latent + 1] += bounds[latent];
    for (int64_t i = 0; i < n_entries; i++) order[next[latents[i]]++] = i;
    return 0;
}

struct WeightGradients {
    const float *x, *suffix, *values, *grad_pre;  // suffix [group token d_out]: gradient of the group's reconstruction and of all later ones'
    const int64_t *indptr, *order, *bounds, *ends;
    int64_t n_tokens, n_entries, n_latents, n_groups, d_in, d_out;
    float *W_enc, *b_enc, *W_dec;  // W_enc [latent d_in], W_dec [latent d_out]
    const float* unit_rows;        // the decoder [latent d_out], where gradients along its rows do not count in the squares; or null
    double* squares;               // [2]: sums of squares of both gradients; meaningless unless fresh
    int32_t fresh, n_threads;
};

SL_EXPORT int sl_weight_gradients(const WeightGradients* a) {
    Buffer<int32_t> tokens(a->n_entries);
    Buffer<Entry> entries(a->n_entries);
    Buffer<double> squares(2 * a->n_latents);
    if (tokens.failed() || entries.failed() || squares.failed()) return 1;
    for (int64_t token = 0; token < a->n_tokens; token++)
        std::fill(tokens.data() + a->indptr[token], tokens.data() + a->indptr[token + 1], int32_t(token));
    over_blocks(a->n_entries, 1 << 14, a->n_threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) entries[i] = {tokens[a->order[i]], a->values[a->order[i]], a->grad_pre[a->order[i]]};
    });
    over_blocks(a->n_latents, LATENTS_AT_A_TIME, a->n_threads, [&](int64_t first, int64_t last) {
        Sums s{entries.data(), a->n_entries, a->x, a->suffix, a->d_in, a->d_out, a->fresh != 0};
        int64_t group = 0;
        for (int64_t latent = first; latent < last; latent++) {
            while (latent >= a->ends[group]) group++;
            s.grad = a->suffix + group * a->n_tokens * a->d_out;
            const int64_t begin = a->bounds[latent], end = a->bounds[latent + 1];
            prefetch_entries(s, begin + ENTRIES_AHEAD, end + ENTRIES_AHEAD);
            if (begin == end && !s.fresh) continue;
            const float* param = a->unit_rows && begin < end ? a->unit_rows + latent * s.d_out : nullptr;
            const Squares enc = sum_rows<&Entry::grad_pre>(s, begin, end, s.x, s.d_in, a->W_enc + latent * s.d_in, nullptr);
            const Squares dec = sum_rows<&Entry::value>(s, begin, end, s.grad, s.d_out, a->W_dec + latent * s.d_out, param);
            squares[2 * latent] = sum(enc.own);
            squares[2 * latent + 1] = param ? dec.without_parallel() : sum(dec.own);
            float bias = 0;
            for (int64_t i = begin; i < end; i++) bias += s.entries[i].grad_pre;
            a->b_enc[latent] = s.fresh ? bias : a->b_enc[latent] + bias;
        }
    });
    a->squares[0] = a->squares[1] = 0;
    if (a->fresh)
        for (int64_t latent = 0; latent < a->n_latents; latent++)  // in order, whatever the number of threads
            for (int which = 0; which < 2; which++) a->squares[which] += squares[2 * latent + which];
    return 0;
}

}  // namespace sl
