// Adam and the sum of squared gradients: one pass over the memory each. The pass over W_enc can refresh its packed copy on the way.
#include "abi.hpp"
#include "pack.hpp"

namespace sl {
namespace {

constexpr int64_t FLAT_BLOCK = 1 << 12;

struct Step {
    float beta1, beta2, grad_scale, decay, step_size, root_scale, eps;
};

// m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p = p decay - step_size m / (root_scale sqrt(v) + eps); g = grad_scale grad - along p
void update(float* __restrict p, const float* __restrict grad, float* __restrict m, float* __restrict v, int64_t d, const Step& s, float along) {
    const float rest1 = 1 - s.beta1, rest2 = 1 - s.beta2;
    for (int64_t i = 0; i < d; i++) {
        const float g = grad[i] * s.grad_scale - along * p[i];
        m[i] = s.beta1 * m[i] + rest1 * g;
        v[i] = s.beta2 * v[i] + rest2 * (g * g);
        p[i] = p[i] * s.decay - s.step_size * m[i] / (std::sqrt(v[i]) * s.root_scale + s.eps);
    }
}

void to_unit_norm(float* p, int64_t d) {
    const float norm = std::sqrt(dot(p, p, d));
    const float factor = norm > 0 ? 1 / norm : 1;  // a row of zeros stays one
    for (int64_t i = 0; i < d; i++) p[i] *= factor;
}

typedef float HalfVec __attribute__((vector_size(LANES * 2)));
typedef float LooseHalfVec __attribute__((vector_size(LANES * 2), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(LANES * 4)));

// Sum of (grad - along p)^2 in double precision; without p of grad^2.
template <bool HAS_P>
double sum_squares(const float* grad, const float* p, float along, int64_t d) {
    constexpr int HALF = LANES / 2;
    Doubles total[4] = {};
    int64_t i = 0;
    for (; i + 4 * HALF <= d; i += 4 * HALF)
        for (int j = 0; j < 4; j++) {
            HalfVec g = *reinterpret_cast<const LooseHalfVec*>(grad + i + j * HALF);
            if constexpr (HAS_P) g -= *reinterpret_cast<const LooseHalfVec*>(p + i + j * HALF) * (along - HalfVec{});
            const Doubles wide = __builtin_convertvector(g, Doubles);
            total[j] += wide * wide;
        }
    const Doubles all_lanes = (total[0] + total[1]) + (total[2] + total[3]);
    double sum = 0;
    for (int j = 0; j < HALF; j++) sum += all_lanes[j];
    for (; i < d; i++) {
        const double g = HAS_P ? grad[i] - along * p[i] : grad[i];
        sum += g * g;
    }
    return sum;
}

}  // namespace

struct AdamStep {
    float* param;
    const float* grad;
    float *exp_avg, *exp_avg_sq;
    int64_t n_rows, d;
    double beta1, beta2, grad_scale, decay, step_size, root_scale, eps;
    void* packed;  // or null
    int32_t format, unit_rows, n_threads;
};

SL_EXPORT int sl_adam(const AdamStep* a) {
    const Step step{float(a->beta1), float(a->beta2), float(a->grad_scale), float(a->decay), float(a->step_size), float(a->root_scale), float(a->eps)};
    if (!a->unit_rows && !a->packed) {
        over_blocks(a->n_rows * a->d, FLAT_BLOCK, a->n_threads, [&](int64_t begin, int64_t end) {
            update(a->param + begin, a->grad + begin, a->exp_avg + begin, a->exp_avg_sq + begin, end - begin, step, 0);
        });
        return 0;
    }
    std::atomic<int> failed{0};
    over_blocks(a->n_rows, LATENTS, a->n_threads, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row++) {
            const int64_t at = row * a->d;
            const float along = a->unit_rows ? dot(a->grad + at, a->param + at, a->d) * step.grad_scale : 0;
            update(a->param + at, a->grad + at, a->exp_avg + at, a->exp_avg_sq + at, a->d, step, along);
            if (a->unit_rows) to_unit_norm(a->param + at, a->d);
        }
        if (!a->packed) return;
        Row scratch(Format(a->format), a->d);
        if (scratch.failed()) { failed = 1; return; }
        const Packed packed(a->packed, Format(a->format), a->n_rows, a->d);
        packed.set_panel(begin / LATENTS, scratch, [&](int64_t latent) { return a->param + latent * a->d; });
    });
    return failed;
}

// Sums of fixed stretches are added in order, so the number of threads does not change the result.
SL_EXPORT int sl_grad_square(const float* param, const float* grad, int64_t n_rows, int64_t d, int32_t unit_rows, double* out, int n_threads) {
    const int64_t stretch = unit_rows ? d : FLAT_BLOCK, size = n_rows * d, n_stretches = stretch ? (size + stretch - 1) / stretch : 0;
    Buffer<double> sums(n_stretches);
    if (sums.failed()) return 1;
    over_blocks(n_stretches, 32, n_threads, [&](int64_t first, int64_t last) {
        for (int64_t b = first; b < last; b++) {
            const float *g = grad + b * stretch, *p = param + b * stretch;
            sums[b] = unit_rows ? sum_squares<true>(g, p, dot(g, p, d), d) : sum_squares<false>(g, nullptr, 0, std::min(stretch, size - b * stretch));
        }
    });
    *out = 0;
    for (int64_t b = 0; b < n_stretches; b++) *out += sums[b];
    return 0;
}

SL_EXPORT int64_t sl_packed_bytes(int32_t format, int64_t n_latents, int64_t d) { return Packed::bytes(Format(format), n_latents, d); }

SL_EXPORT int sl_pack(const float* W, int64_t n_latents, int64_t d, int32_t format, void* memory, int n_threads) {
    std::atomic<int> failed{0};
    const Packed packed(memory, Format(format), n_latents, d);
    over_blocks(packed.n_panels, 1, n_threads, [&](int64_t first, int64_t last) {
        Row scratch(Format(format), d);
        if (scratch.failed()) { failed = 1; return; }
        for (int64_t p = first; p < last; p++) packed.set_panel(p, scratch, [&](int64_t latent) { return W + latent * d; });
    });
    return failed;
}

}  // namespace sl
