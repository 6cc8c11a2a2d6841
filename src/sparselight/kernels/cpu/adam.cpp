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

// Rows are taken in fixed blocks whose sums are then added in order, so the number of threads does not change the result.
SL_EXPORT int sl_grad_square(const float* param, const float* grad, int64_t n_rows, int64_t d, int32_t unit_rows, double* out, int n_threads) {
    const int64_t size = n_rows * d, block = unit_rows ? std::max<int64_t>(1, FLAT_BLOCK / std::max<int64_t>(d, 1)) * d : FLAT_BLOCK;
    const int64_t n_blocks = block ? (size + block - 1) / block : 0;
    Buffer<double> sums(n_blocks);
    if (sums.failed()) return 1;
    over_blocks(n_blocks, 8, n_threads, [&](int64_t first, int64_t last) {
        for (int64_t b = first; b < last; b++) {
            const int64_t begin = b * block, end = std::min(begin + block, size), stretch = unit_rows ? d : end - begin;
            double lanes[8] = {};
            for (int64_t row = begin; row < end; row += stretch) {
                const float along = unit_rows ? dot(grad + row, param + row, d) : 0;
                int64_t i = 0;
                for (; i + 8 <= stretch; i += 8)
                    for (int j = 0; j < 8; j++) {
                        const double g = unit_rows ? grad[row + i + j] - along * param[row + i + j] : grad[row + i + j];
                        lanes[j] += g * g;
                    }
                for (int j = 0; i + j < stretch; j++) {
                    const double g = unit_rows ? grad[row + i + j] - along * param[row + i + j] : grad[row + i + j];
                    lanes[j] += g * g;
                }
            }
            sums[b] = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
        }
    });
    *out = 0;
    for (int64_t b = 0; b < n_blocks; b++) *out += sums[b];
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
