// One vector type for every instruction set: GCC/clang vector extensions, as wide as the flags of this compilation allow.
// All sums of products are fused where the instruction set can (-ffp-contract=fast); no other liberty is taken with floats.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sl {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef float LooseVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
inline Vec all(float value) { return value - Vec{}; }

// The first n < LANES values, zeros behind them.
inline Vec load_first(const float* p, int64_t n) {
#if defined(__AVX512F__)
    return (Vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    Vec v{};
    std::memcpy(&v, p, n * sizeof(float));
    return v;
#endif
}
inline void store_first(float* p, Vec v, int64_t n) { std::memcpy(p, &v, n * sizeof(float)); }

// Past the caches, for results that nobody reads soon; `p` must be aligned to the vector.
inline void store_past_caches(float* p, Vec v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
    _mm256_stream_ps(p, (__m256)v);
#else
    store(p, v);
#endif
}
inline bool is_aligned(const float* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(Vec) == 0; }

inline float sum(Vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
#endif
}

// Bit i is set where lane i is not below its bound; a NaN is below nothing.
inline uint32_t not_below(Vec v, Vec bound) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, (__m512)bound, _CMP_NLT_UQ);
#elif defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)v, (__m256)bound, _CMP_NLT_UQ));
#elif defined(__SSE2__)
    return _mm_movemask_ps(_mm_cmpnlt_ps((__m128)v, (__m128)bound));
#else
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= uint32_t(!(v[i] < bound[i])) << i;
    return bits;
#endif
}

inline void prefetch_row(const float* row, int64_t d) {
    for (int64_t i = 0; i < d; i += 16) __builtin_prefetch(row + i, 0, 2);
}

// The one dot product whose value anybody keeps: same bits whoever calls it, so it lives in one place and is never inlined.
float dot(const float* a, const float* b, int64_t d);

// body(i, lanes) for every vector of a row; lanes < LANES only for what is left at the end.
template <class Body>
inline void each_vector(int64_t d, Body&& body) {
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES) body(i, LANES);
    if (i < d) body(i, int(d - i));
}
inline Vec load(const float* p, int lanes) { return lanes == LANES ? load(p) : load_first(p, lanes); }
inline void store(float* p, Vec v, int lanes) { lanes == LANES ? store(p, v) : store_first(p, v, lanes); }

}  // namespace sl
